// Notices what needs an operator: pools that have run out of chunks, and subscribers that do not
// take. Says when an episode begins and when it ends, each once, as an event; an exhausted pool's
// largest holders in the log too.
//
// A pool's episode begins when a loan was refused, or one waits and no chunk is free; it ends when
// there was neither for kCalm and chunks are free. A subscriber's begins when it took nothing for
// kStalled while one of its queues was full, and ends when it takes again or is gone; one that was
// told to leave, or whose channel was deleted, is nobody's trouble. Words that clients can forge
// can make a wrong event, at most one per kCalm or kStalled.
//
// Threads. Look from one thread at a time, StalledFor from any.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/core.h"
#include "server/mutex.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"

namespace zerocp {

class TroubleWatch {
 public:
  using Clock = PoolWatch::Clock;
  static constexpr std::chrono::seconds kCalm{1};
  static constexpr std::chrono::seconds kStalled{1};
  static constexpr std::chrono::seconds kLogEvery{10};  // a pool's holders

  // REQUIRES: all outlive this.
  TroubleWatch(Core& core, PoolWatch& pools, SessionDirectory& sessions,
               std::function<Clock::time_point()> now = Clock::now);

  // To be called every 100 ms. Reads every record only when an episode begins.
  void Look();
  // How long at least the subscriber has taken nothing although something waits for it.
  std::chrono::milliseconds StalledFor(uint32_t channel, uint32_t subscriber, uint32_t epoch);

 private:
  struct Pool {
    std::array<uint8_t, 16> uid{};
    uint64_t exhausted_count = 0;
    bool exhausted = false;
    Clock::time_point refused_at;
    Clock::time_point next_log;
  };
  struct Subscriber {
    std::array<uint8_t, 16> channel_uid{};
    uint32_t epoch = 0;
    uint64_t taken_count = 0;
    bool waits = false;       // something is queued
    Clock::time_point since;  // first look that saw it so
    Clock::time_point seen;   // last look
    std::string stalled_as;   // the resource name, once it was said; else empty
  };
  struct Stall {
    std::string name;
    uint16_t session;
    uint64_t queued_count;
    std::chrono::milliseconds time;
  };

  void LookAtPools();
  void TellExhausted(uint32_t index, const std::string& name, uint32_t chunk_count);
  void LookAtSubscribers();
  void LookAtSubscriber(const shm::ChannelRegistry::Channel& channel, uint32_t k,
                        std::vector<Stall>* stalls) ZEROCP_REQUIRES(core_.mutex, mutex_);
  // Tells that a subscriber's episode is over, if it is in one.
  void EndStall(const Subscriber& known, const char* why);
  void TellStalled(const std::vector<Stall>& stalls);

  Core& core_;
  PoolWatch& watch_;
  SessionDirectory& sessions_;
  const std::function<Clock::time_point()> now_;
  std::array<Pool, shm::kMaxPools> pools_;
  Mutex mutex_;  // after core.mutex
  // By channel and index.
  std::map<std::pair<uint32_t, uint32_t>, Subscriber> subscribers_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
