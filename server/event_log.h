// What happened, for operators who were not looking: the last kKeptEvents events, in memory.
//
// Sequence numbers count from 1 since the daemon's start. Memory is bounded: the oldest event goes
// for a new one, texts are cut to kMaxEventText bytes, and an event names kMaxEventHolders holders.
//
// Threads. All functions from any thread, also under core.mutex: the mutex in here is held for a
// copy of one event, and Add waits for no reader.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/mutex.h"
#include "shm/census.h"

namespace zerocp {

inline constexpr size_t kKeptEvents = 4096;
inline constexpr size_t kMaxEventText = 512;
inline constexpr size_t kMaxEventHolders = 8;

// The values are those of zerocp.v1.WatchEventsResponse.Kind.
enum class EventKind {
  kPoolExhausted = 1,
  kPoolRecovered = 2,
  kPoolChanged = 3,
  kSubscriberStalled = 4,
  kSessionAttached = 5,
  kSessionDetached = 6,
  kSessionDied = 7,
  kDaemonStarted = 8,
  kConfigChanged = 9,
  kDamageFound = 10,
  kChannelChanged = 11,
  kSessionOrphaned = 12,
  kSessionRevoked = 13,
  kConfigRefused = 14,
  kSubscriberRecovered = 15,
  kSessionKilled = 16,
};

// Who held how many chunks when it happened, with the names of that moment.
struct EventHolder {
  std::string session;  // resource name, of the channel if it is its history; empty: it has ended
  std::string client_name;
  pid_t pid = 0;
  std::string pool;     // resource name
  std::string channel;  // resource name; empty: none
  shm::HoldPhase phase = shm::HoldPhase::kWriting;
  uint64_t chunk_count = 0;
  std::chrono::milliseconds oldest_min_age{0};
};

struct Event {
  int64_t sequence = 0;
  std::chrono::system_clock::time_point time;
  EventKind kind = EventKind::kDaemonStarted;
  std::string resource;  // "pools/video"
  std::string detail;    // one sentence
  std::vector<EventHolder> holders;
};

// For events and the log: "1 chunk", "2 chunks".
std::string Counted(uint64_t count, std::string_view noun);

class EventLog {
 public:
  void Add(EventKind kind, std::string resource, std::string detail,
           std::vector<EventHolder> holders = {});
  // The first kept event after the one with this number. nullopt: there is none yet. A number that
  // was not reached yet can only be another daemon's: then all that are kept are after it.
  std::optional<Event> Next(int64_t after);
  // All since the daemon's start, also those that are not kept.
  std::map<EventKind, uint64_t> Counts();
  // `wake` is called after each Add, by the thread that adds: it must not wait, and call nothing of
  // this object. Empty: nobody is called any more when this returns.
  void SetListener(std::function<void()> wake);

 private:
  Mutex mutex_;  // after every other, but for what a listener takes
  std::deque<Event> events_ ZEROCP_GUARDED_BY(mutex_);  // the last is number last_
  int64_t last_ ZEROCP_GUARDED_BY(mutex_) = 0;
  std::map<EventKind, uint64_t> counts_ ZEROCP_GUARDED_BY(mutex_);
  std::function<void()> wake_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
