// What the daemon does when sessions are gone: deliver, drain, sweep. Also what it does every 100
// ms.
//
// Every step is a compare-exchange from a state that names a dead session to one that does not, so
// all of it may be cut off anywhere and run again, and commutes with everything living clients do.
// Queues come before records: what a dead publisher had sent must be relabelled before the sweep
// takes what carries its label.
//
// Threads and processes. Daemon only, one thread at a time. Never waits for a client; every loop
// over client words is bounded.
#pragma once

#include <array>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <vector>

#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"

namespace zerocp::shm {

using SessionSet = std::bitset<16384>;

struct RecoveryReport {
  uint64_t freed_chunk_count = 0;  // came back to their pools
  uint64_t delivered_count = 0;    // messages of dead publishers handed to living subscribers
  uint64_t drained_count = 0;      // messages nobody will take any more
};

class Recovery {
 public:
  // REQUIRES: both outlive this.
  Recovery(MemPoolManager& manager, ChannelRegistry& registry)
      : manager_(manager), registry_(registry) {}

  // Everything the sessions in `gone` owned, held, sent or were to receive. `orderly`: they
  // detached (their lanes end with kClosed); otherwise they died (kDead). REQUIRES: none of them
  // can store to the segments any more. After it their ids may be given out again.
  RecoveryReport Recover(const SessionSet& gone, bool orderly);
  // First thing after adopting: finishes what the daemon before was taking in somebody's place, and
  // frees the indices of subscribers that it was letting out.
  RecoveryReport FinishClaims();
  // Lets go of what waits for a subscriber that left. Called by LeaveSubscriber's caller, then the
  // index is free again.
  RecoveryReport DrainSubscriber(uint32_t channel, uint32_t index);
  // Every 100 ms: messages that a publisher sent to a subscriber it did not know to be gone; lanes
  // to retire; cache caps; hints lost by stopped or killed clients, where a pool is under pressure.
  RecoveryReport Tick(const SessionSet& attached);

 private:
  void Deliver(ChannelRegistry::Channel& channel, uint32_t lane, const SessionSet& gone,
               RecoveryReport& report);
  void Relabel(uint64_t cell, uint32_t index, uint16_t publisher, uint16_t subscriber,
               RecoveryReport& report);
  void DrainSubscriber(uint32_t channel, uint32_t index, RecoveryReport& report);
  void FinishTake(ChannelRegistry::Channel& channel, uint32_t lane, uint32_t index,
                  RecoveryReport& report);
  // Returns how many steps it made, at most `most`.
  uint32_t Drain(ChannelRegistry::Channel& channel, uint32_t lane, uint32_t index,
                 uint32_t living_epoch, uint32_t most, RecoveryReport& report);
  // Everything that waits for subscriber `index`, which has left or died.
  void LetGo(ChannelRegistry::Channel& channel, uint32_t lane, uint32_t index,
             RecoveryReport& report);
  // `label`: the session in whose name the message waits.
  void Orphan(uint64_t cell, uint32_t index, uint16_t label, RecoveryReport& report);
  void Sweep(const PoolView& pool, const SessionSet& gone, RecoveryReport& report);
  void LetOutWhoLeft(RecoveryReport& report);
  void SetCacheCaps(const SessionSet& attached);

  MemPoolManager& manager_;
  ChannelRegistry& registry_;
  std::array<std::chrono::steady_clock::time_point, kMaxPools> next_scrub_{};
};

}  // namespace zerocp::shm
