// Segments that anybody may have written, read by a client, by a daemon that adopts them, and by
// who looks at them without a daemon: ends, and touches nothing outside.
//
// An input: who reads (one byte), patches of the living instance, patches while it is read.
#include <string>
#include <utility>

#include "shm/audit.h"
#include "shm/census.h"
#include "shm/publisher_port.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"
#include "tests/fuzz/live_instance.h"

namespace zerocp::fuzz {
namespace {

using shm::ChannelRegistry;
using shm::ChunkRef;
using shm::Code;
using shm::Deadline;
using shm::MemPoolManager;
using shm::PoolView;

constexpr uint16_t kReader = 3;  // the session in whose name a client reads
constexpr int kTakes = 16;

enum Reader : uint8_t { kClient = 0, kAdopter = 1, kInspector = 2, kReaders = 3 };

volatile uint64_t sink;
void Touch(const void* address) { sink = *static_cast<const volatile uint8_t*>(address); }

// M2: each chunk below the count may be touched in every array.
void TouchAll(const PoolView& pool) {
  const uint32_t live = pool.live_chunk_count();
  for (uint32_t chunk = 0; chunk < std::min(live, 256u); ++chunk) {
    Touch(&pool.record(chunk));
    Touch(&pool.headers[chunk]);
    Touch(pool.data(chunk));
  }
  if (live == 0) return;
  Touch(pool.data(live - 1) + pool.chunk_size_bytes - 1);
  Touch(&pool.headers[live - 1].user[shm::kUserHeaderBytes - 1]);
  Touch(&pool.record(live - 1).slots()[pool.slot_count - 1]);
  Touch(&pool.hints.level[2][pool.hints.word_count[2] - 1]);
}

void ReadAsClient(const LiveInstance& instance, Input& input) {
  auto attached = MemPoolManager::Attach(instance.OpenManagement(), instance.OpenChunk());
  if (!attached.ok()) return;
  const std::shared_ptr<MemPoolManager> manager = std::move(*attached);
  if (kReader >= manager->session_capacity()) return;
  auto session = std::make_shared<shm::Session>(manager, kReader);
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) (void)manager->pool(index);
  instance.Patch(input, /*may_cut=*/false);
  ChunkRef chunk;
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    const PoolView* pool = manager->pool(index);
    if (pool == nullptr) continue;
    TouchAll(*pool);
    if (session->Loan(*pool, Deadline::Now(), &chunk) == Code::kOk) {
      Touch(chunk.data());
      session->Release(chunk);
    }
  }
  for (uint64_t handle : instance.handles()) {
    if (session->Open(handle, &chunk) == Code::kOk) session->Release(chunk);
  }
  for (const shm::JoinInfo& info : instance.subscribers()) {
    auto port = shm::SubscriberPort::Create(session, info);
    for (int i = 0; port.ok() && i < kTakes; ++i) {
      if ((*port)->TryTake(&chunk) != Code::kOk) continue;
      Touch(chunk.data());
      session->Release(chunk);
    }
  }
  for (const shm::JoinInfo& info : instance.publishers()) {
    auto port = shm::PublisherPort::Create(session, info);
    shm::Published published{};
    if (!port.ok() || session->Loan((*port)->pool(), Deadline::Now(), &chunk) != Code::kOk)
      continue;
    if ((*port)->Publish(chunk, Deadline::Now(), &published) != Code::kOk) session->Release(chunk);
    (*port)->LetGoOfHistory();
  }
  shm::Census::WithoutQueues(*manager);
  session->Close();
}

// What statistics read.
void Count(MemPoolManager& manager, ChannelRegistry& registry) {
  size_t chunks = 0;
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    const PoolView* pool = manager.pool(index);
    if (pool == nullptr) continue;
    chunks += pool->live_chunk_count();
    (void)shm::Count(*pool);
  }
  shm::Census census;
  for (uint32_t index : registry.List()) {
    const ChannelRegistry::Channel& channel = *registry.channel(index);
    census.Add(index, channel, manager, chunks);
    (void)registry.PublishedCount(channel);
    (void)registry.WaitedCount(channel);
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) (void)registry.CountsOf(channel, k);
  }
  census.Finish();
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    if (const PoolView* pool = manager.pool(index))
      (void)shm::DescribeExhausted(census, manager, *pool);
  }
  (void)shm::HeldCounts(manager);
}

void Inspect(const LiveInstance& instance) {
  auto manager = MemPoolManager::Inspect(instance.options());
  if (!manager.ok()) return;
  ChannelRegistry registry(**manager);
  (void)registry.Inspect();
  Count(**manager, registry);
}

void Adopt(const LiveInstance& instance) {
  (void)MemPoolManager::ReadLock(instance.options().segment_dir, instance.options().instance);
  auto manager = MemPoolManager::Adopt(instance.options());
  if (!manager.ok()) return;
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    if (const PoolView* pool = (*manager)->pool(index)) TouchAll(*pool);
  }
  ChannelRegistry registry(**manager);
  (void)registry.Adopt();
  Count(**manager, registry);
  for (uint32_t index : registry.List()) {
    const ChannelRegistry::Channel& channel = *registry.channel(index);
    for (const ChannelRegistry::LaneRecord& lane : channel.lanes) {
      if (lane.state == shm::LaneState::kFree) continue;
      const shm::LaneView view = channel.Lane(lane, **manager);
      Touch(view.lane);
      Touch(&view.cell(view.capacity - 1));
    }
  }
}

}  // namespace
}  // namespace zerocp::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  using namespace zerocp::fuzz;
  std::vector<std::string> seeds;
  const LiveInstance& instance = LiveInstance::Get();
  for (const std::string& patch : instance.WordPatches()) {
    for (uint8_t reader = 0; reader < kReaders; ++reader) seeds.push_back(BytesOf(reader) + patch);
    seeds.push_back(BytesOf(uint8_t{kClient}) + LiveInstance::NoPatch() + patch);
  }
  WriteSeeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocp::fuzz;
  const LiveInstance& instance = LiveInstance::Get();
  Input input(data, size);
  const auto reader = static_cast<Reader>(input.Next<uint8_t>() % kReaders);
  instance.Restore();
  instance.Patch(input, /*may_cut=*/true);
  if (reader == kClient) {
    ReadAsClient(instance, input);
  } else if (reader == kAdopter) {
    Adopt(instance);
  } else {
    Inspect(instance);
  }
  return 0;
}
