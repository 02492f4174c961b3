// A daemon that adopts a living instance, and works on it while clients write what they like: each
// step ends and touches nothing outside; the audit reports under the names of its invariants; and
// when everybody has gone, nothing is anybody's.
//
// An input: patches before the adoption, then steps.
#include <algorithm>
#include <array>
#include <string>

#include "shm/audit.h"
#include "shm/census.h"
#include "shm/chunk_ops.h"
#include "shm/pool_drain.h"
#include "tests/fuzz/live_instance.h"

namespace zerocp::fuzz {
namespace {

using shm::ChannelRegistry;
using shm::MemPoolManager;
using shm::PoolView;
using shm::SessionSet;

enum class Step : uint8_t {
  kPatch,
  kRecover,
  kTick,
  kAudit,
  kCount,
  kJoin,
  kLeave,
  kStop,
  kDeleteChannel,
  kDeletePool,
  kGrow,
  kSteps
};
constexpr int kMostSteps = 64;

// As shm/README.md lists them.
constexpr std::array<const char*, 8> kInvariants{"word-owner",  "free-unheld",  "slot-session",
                                                 "shared-held", "segment-size", "queue-bounds",
                                                 "queue-cell",  "queue-label"};

class Daemon {
 public:
  Daemon(const LiveInstance& instance, MemPoolManager& manager)
      : instance_(instance), manager_(manager), attached_(instance.attached()) {
    (void)registry_.Adopt();
    recovery_.FinishClaims();
    drain_.AdoptGaps(attached_);
  }

  void Run(Input& input) {
    for (int i = 0; i < kMostSteps && !input.empty(); ++i) {
      const auto step =
          static_cast<Step>(input.Next<uint8_t>() % static_cast<uint8_t>(Step::kSteps));
      Do(step, input);
    }
  }

  // Everybody dies; what is the daemon's, of a pool that is being deleted, goes with them.
  void End() {
    recovery_.Recover(SessionSet().set(), /*orderly=*/false);
    attached_.reset();
    for (int i = 0; i < 3; ++i) recovery_.Tick(attached_);
    for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
      if (const PoolView* pool = manager_.pool(index)) ExpectNobodys(*pool);
    }
    for (uint32_t index : registry_.List()) {
      const ChannelRegistry::Channel& channel = *registry_.channel(index);
      Expect(ChannelRegistry::SubscriberCount(channel) == 0, "a subscriber outlived everybody");
      Expect(ChannelRegistry::PublisherCount(channel) == 0, "a publisher outlived everybody");
      for (const ChannelRegistry::LaneRecord& lane : channel.lanes)
        Expect(lane.state == shm::LaneState::kFree, "a lane outlived everybody");
    }
    Audit();
  }

 private:
  void Do(Step step, Input& input) {
    const auto number = input.Next<uint8_t>();
    switch (step) {
      case Step::kPatch:
        return instance_.Patch(input, /*may_cut=*/false);
      case Step::kRecover:
        return Recover(input.Next<uint16_t>(), number % 2 == 0);
      case Step::kTick:
        recovery_.Tick(attached_);
        return drain_.FreeGaps(attached_);
      case Step::kAudit:
        return Audit();
      case Step::kCount:
        return Count();
      case Step::kJoin:
        return Join(number, input.Next<uint8_t>());
      case Step::kLeave:
        return Leave(number, input.Next<uint8_t>());
      case Step::kStop:
        return Stop(number);
      case Step::kDeleteChannel:
        if (const auto* channel = Channel(number)) (void)registry_.Close(channel->spec.name);
        return;
      case Step::kDeletePool:
        return DeletePool(number);
      case Step::kGrow:
        if (const PoolView* pool = manager_.pool(number % 4))
          (void)manager_.GrowPool(pool->index, pool->live_chunk_count() + 1);
        return;
      case Step::kSteps:
        return;
    }
  }

  const ChannelRegistry::Channel* Channel(uint8_t number) {
    const std::vector<uint32_t> all = registry_.List();
    return all.empty() ? nullptr : registry_.channel(all[number % all.size()]);
  }

  // Sessions by bits, from the first.
  void Recover(uint16_t bits, bool orderly) {
    SessionSet gone;
    for (uint32_t i = 0; i < 16; ++i) gone[shm::kFirstSession + i] = (bits >> i & 1) != 0;
    recovery_.Recover(gone, orderly);
    attached_ &= ~gone;
  }

  void Audit() {
    const shm::AuditReport report = shm::Audit(manager_, registry_, attached_);
    for (const auto& violation : report.violations) {
      Expect(std::find(kInvariants.begin(), kInvariants.end(), violation.invariant) !=
                 kInvariants.end(),
             "an invariant without a name: " + violation.invariant);
      Expect(!violation.detail.empty(), violation.invariant + " without a detail");
    }
    Expect(report.violation_count >= report.violations.size(), "more violations than counted");
  }

  void Count() {
    shm::Census census;
    for (uint32_t index : registry_.List())
      census.Add(index, *registry_.channel(index), manager_, 1000);
    census.Finish();
    for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
      const PoolView* pool = manager_.pool(index);
      if (pool == nullptr) continue;
      (void)shm::DescribeExhausted(census, manager_, *pool);
      const shm::PoolCounts counts = shm::Count(*pool);
      Expect(counts.free_count + counts.cached_count + counts.writing_count + counts.shared_count ==
                 counts.chunk_count,
             "a chunk is counted not at all, or twice");
      for (uint32_t chunk = 0; chunk < pool->live_chunk_count(); ++chunk)
        (void)shm::UseOf(*pool, chunk);
    }
    (void)shm::HeldCounts(manager_);
  }

  void Join(uint8_t number, uint8_t who) {
    const auto* channel = Channel(number);
    if (channel == nullptr) return;
    const auto session = static_cast<uint16_t>(shm::kFirstSession + who % 8);
    attached_.set(session);
    if (who & 0x80) {
      (void)registry_.JoinAsPublisher(channel->spec.name, "", session);
    } else {
      (void)registry_.JoinAsSubscriber(channel->spec.name, "", session, {});
    }
  }

  void Leave(uint8_t number, uint8_t who) {
    const auto* channel = Channel(number);
    if (channel == nullptr) return;
    if (who & 0x80) {
      const uint32_t lane = who % shm::kLaneEntries;
      (void)registry_.LeavePublisher(channel->index, lane, channel->lanes[lane].session);
    } else if (const uint32_t k = who % 16; k < channel->subscribers.size()) {
      if (registry_.LeaveSubscriber(channel->index, k, channel->subscribers[k].session).ok())
        recovery_.DrainSubscriber(channel->index, k);
    }
  }

  void Stop(uint8_t number) {
    const auto* channel = Channel(number);
    const uint32_t k = number / 16;
    if (channel != nullptr && k < channel->subscribers.size())
      (void)registry_.StopSubscriber(channel->index, k, channel->subscribers[k].epoch);
  }

  void DeletePool(uint8_t number) {
    const PoolView* pool = manager_.pool(number % 4);
    if (pool == nullptr) return;
    for (uint32_t index : registry_.List())
      if (registry_.channel(index)->pool == pool->index) return;  // as the daemon does
    drain_.Begin(pool->index);
    manager_.SettleDrain(pool->index);
    (void)drain_.Step(pool->index, attached_);
  }

  static void ExpectNobodys(const PoolView& pool) {
    for (uint32_t chunk = 0; chunk < pool.live_chunk_count(); ++chunk) {
      shm::ChunkManager& record = pool.record(chunk);
      const shm::Word word = shm::DecodeWord(record.word.load());
      if (word.kind == shm::Kind::kFree && !shm::AnyHolder(record, pool.slot_count)) continue;
      Fail("chunk " + std::to_string(chunk) + " of '" + pool.name + "' is left: kind " +
           std::to_string(static_cast<int>(word.kind)) + ", session " + std::to_string(word.owner));
    }
  }

  const LiveInstance& instance_;
  MemPoolManager& manager_;
  ChannelRegistry registry_{manager_};
  shm::Recovery recovery_{manager_, registry_};
  shm::PoolDrain drain_{manager_};
  SessionSet attached_;
};

std::string StepOf(Step step, uint8_t number, const std::string& rest = "") {
  return BytesOf(static_cast<uint8_t>(step)) + BytesOf(number) + rest;
}

std::vector<std::string> Seeds() {
  std::string everything;
  for (uint8_t number = 0; number < 4; ++number) {
    everything += StepOf(Step::kCount, 0) + StepOf(Step::kAudit, 0) + StepOf(Step::kStop, number) +
                  StepOf(Step::kJoin, number, BytesOf(uint8_t{0x81})) +
                  StepOf(Step::kJoin, number, BytesOf(uint8_t{2})) + StepOf(Step::kTick, 0) +
                  StepOf(Step::kLeave, number, BytesOf(uint8_t{0x80})) +
                  StepOf(Step::kLeave, number, BytesOf(number)) + StepOf(Step::kGrow, number);
  }
  const std::string end = StepOf(Step::kDeleteChannel, 0) + StepOf(Step::kTick, 0) +
                          StepOf(Step::kTick, 0) + StepOf(Step::kDeletePool, 2);
  std::vector<std::string> seeds{LiveInstance::NoPatch() + everything + end};
  for (uint16_t bits : {uint16_t{1}, uint16_t{2}, uint16_t{4}, uint16_t{6}, uint16_t{0xffff}}) {
    for (uint8_t orderly : {uint8_t{0}, uint8_t{1}}) {
      const std::string recover = StepOf(Step::kRecover, orderly, BytesOf(bits));
      seeds.push_back(LiveInstance::NoPatch() + recover + end);
      for (const std::string& patch : LiveInstance::Get().WordPatches()) {
        if (orderly == 0 && bits == 2)
          seeds.push_back(LiveInstance::NoPatch() + StepOf(Step::kPatch, 0, patch) +
                          StepOf(Step::kAudit, 0) + StepOf(Step::kCount, 0) + recover + end);
      }
    }
  }
  for (const std::string& patch : LiveInstance::Get().WordPatches())
    seeds.push_back(patch + StepOf(Step::kAudit, 0) + StepOf(Step::kTick, 0));
  // Cells, and claims on them, that name no chunk; their publisher or their subscribers die.
  const std::vector<LiveInstance::Area>& areas = LiveInstance::Get().areas();
  for (size_t area = 0; area < areas.size(); ++area) {
    if (areas[area].name != "lane") continue;
    for (const shm::CellKind kind : {shm::CellKind::kMoved, shm::CellKind::kShared}) {
      const uint64_t cell = shm::Encode(shm::Cell{kind, 0, 0xffffff, 1});
      std::string cells;
      for (int i = 0; i < 4; ++i) cells += BytesOf(cell);
      const std::string claims = BytesOf(cell | shm::kClaimValid | shm::kClaimBit) +
                                 BytesOf(cell | shm::kClaimValid | shm::kClaimBit);
      for (const std::string& patch :
           {LiveInstance::OnePatch(area, areas[area].bytes - cells.size(), cells),
            LiveInstance::OnePatch(area, sizeof(shm::Lane) + offsetof(shm::Cursor, daemon_claim),
                                   claims)}) {
        seeds.push_back(patch + StepOf(Step::kTick, 0));
        for (uint16_t bits : {uint16_t{1}, uint16_t{6}})
          seeds.push_back(LiveInstance::NoPatch() + StepOf(Step::kPatch, 0, patch) +
                          StepOf(Step::kRecover, 0, BytesOf(bits)) + StepOf(Step::kTick, 0));
      }
    }
  }
  return seeds;
}

}  // namespace
}  // namespace zerocp::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  zerocp::fuzz::WriteSeeds(zerocp::fuzz::Seeds());
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocp::fuzz;
  const LiveInstance& instance = LiveInstance::Get();
  Input input(data, size);
  instance.Restore();
  instance.Patch(input, /*may_cut=*/true);
  auto manager = zerocp::shm::MemPoolManager::Adopt(instance.options());
  if (!manager.ok()) return 0;
  Daemon daemon(instance, **manager);
  daemon.Run(input);
  daemon.End();
  return 0;
}
