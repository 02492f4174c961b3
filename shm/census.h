// Who holds which chunk, and what for: read from the records and the queues, changing nothing.
//
// A snapshot without locks: a chunk that changes hands meanwhile may be counted where it was.
// Believes no index: words may be forged, names are printed only if they are names.
//
// Threads and processes. Anyone who maps the management segment. The daemon adds its channels from
// private memory, under its mutex; after that a census holds no pointer into a channel. Others read
// the channel table and who is subscribed, and leave the queues alone, whose memory may be given
// back under them: what waits is then known by its label, which is wrong only where a session
// subscribes to itself, or where the daemon has delivered what a dead publisher had sent.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"

namespace zerocp::shm {

enum class HoldPhase : uint8_t {
  kWriting = 1,  // loaned and not published
  kQueued = 2,   // published and not taken: the holder is the subscriber it waits for
  kReading = 3,  // taken, or opened by handle
  kHistory = 4,  // kept for late joiners: the holder is the channel, and `session` 0
  kCached = 5,   // free, in a private cache
};

// "writing", "queued", "reading", "kept", "cached".
const char* Name(HoldPhase phase);

// One reason why a chunk is not free.
struct Holding {
  static constexpr uint8_t kNoSubscriber = 0xff;
  uint16_t session;
  uint16_t channel;  // index in the channel table + 1; 0: none
  HoldPhase phase;
  uint8_t subscriber = kNoSubscriber;  // index in the channel
};

class Census {
 public:
  // Knows no channel.
  Census() = default;
  // Channels as their table tells.
  static Census WithoutQueues(MemPoolManager& manager);
  // Daemon only: a channel with its queues. `most` bounds what is kept of them: each chunk waits in
  // one place, so the number of all chunks is enough.
  void Add(uint32_t index, const ChannelRegistry::Channel& channel, MemPoolManager& manager,
           size_t most);
  // REQUIRES: after the last Add.
  void Finish();

  // Everyone who keeps the chunk from being free; empty if it is. REQUIRES: chunk <
  // live_chunk_count().
  void HoldersOf(const PoolView& pool, uint32_t chunk, std::vector<Holding>* holders) const;
  // Empty if there is no such channel.
  const std::string& ChannelName(uint16_t channel) const;
  // The session that is subscriber `index` of the channel; 0: none.
  uint16_t SubscriberOf(uint16_t channel, uint32_t index) const;
  bool HasSubscribers() const;
  // True for what a subscriber has taken and holds. What an earlier user of its index holds is its
  // session's.
  bool IsSample(const Holding& holding) const;

 private:
  struct Channel {
    std::string name;
    bool queues_known = false;
    bool has_history = false;
    std::vector<uint16_t> sessions;  // by subscriber index
  };
  struct Queued {
    uint32_t key;  // pool and chunk
    uint32_t tag;
    uint16_t channel;
    uint64_t subscribers;  // bit k: waits for subscriber k
  };
  const Channel* Find(uint16_t channel) const;
  uint64_t WaitsFor(const PoolView& pool, uint32_t chunk, uint32_t tag, uint16_t channel) const;
  void SharedHolders(const PoolView& pool, uint32_t chunk, std::vector<Holding>* holders) const;

  std::map<uint16_t, Channel> channels_;  // by index + 1
  std::vector<Queued> queued_;            // in key order after Finish
};

// Sums of holdings by holder, pool, channel and phase.
struct HolderSum {
  uint16_t session;
  uint8_t pool;
  uint16_t channel;
  HoldPhase phase;
  uint64_t chunk_count;
};
class HolderSums {
 public:
  void Add(const PoolView& pool, const Holding& holding);
  size_t size() const { return counts_.size(); }
  // The `most` largest, the largest first.
  std::vector<HolderSum> Largest(size_t most) const;

 private:
  std::map<std::tuple<uint16_t, uint8_t, uint16_t, HoldPhase>, uint64_t> counts_;
};

// A number that differs from one use of a chunk to the next; 0 if it is free. Openers do not change
// it. For the age of what holds it.
uint64_t UseOf(const PoolView& pool, uint32_t chunk);

inline constexpr size_t kShownHolders = 3;
// "viewer (pid 71): 5 queued in 'frames', camera (pid 70): 3 writing and 2 more": the kShownHolders
// largest. "nobody" if there is none. Names are those of the session table.
std::string DescribeHolders(const HolderSums& sums, const Census& census, MemPoolManager& manager);
// The sentence for an exhausted pool: its name, its size, and who holds most of it. Reads every
// record.
std::string DescribeExhausted(const Census& census, MemPoolManager& manager, const PoolView& pool);

}  // namespace zerocp::shm
