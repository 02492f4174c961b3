// Memory orders of four hand-overs, under the C++ memory model (relacy).
//
// close:   references to a chunk are given up while others open it (chunk_ops.h: OpenChunk,
//          ReleaseSlot, CloseIfUnheld). Exactly one closes, after all are done with the payload.
// lane:    a publisher drops at a lossy subscriber (publisher_port.cc, subscriber_port.cc). Who
// takes
//          a message reads the payload of its position.
// orphan:  the daemon's double look at the generation around the slot (Recovery::Orphan, TakeBack).
// stopped: what the publisher gives up of a stopped subscriber, and what the daemon reads of it
//          (channel.h: ClaimStopped, IsGivenUp).
//
// Random interleavings with random values of what each load may see; no proof. Relacy executes
// loads in order, so an order that only keeps a load before a later one is not told apart.
//
// usage: memory_order SCENARIO [BUG_...]; prints "<executions> executions: holds" or "refuted".
#include <cstdio>
#include <cstring>
#include <relacy/relacy.hpp>
#include <string>

namespace {

std::string seeded;
// The order of the code, or a weaker one if that bug is seeded.
rl::memory_order Order(rl::memory_order order, const char* bug, rl::memory_order weaker) {
  return seeded == bug ? weaker : order;
}

constexpr int kSlots = 3;
unsigned Word(unsigned kind, unsigned stamp) { return kind | stamp << 2; }
constexpr unsigned kLoaned = 2, kShared = 3;

struct Close : rl::test_suite<Close, 3> {
  rl::atomic<unsigned> word, slot[kSlots], told, closed;
  rl::var<int> payload;

  void before() {
    word($).store(Word(kLoaned, 0), rl::mo_relaxed);
    for (auto& s : slot) s($).store(0, rl::mo_relaxed);
    told($).store(0, rl::mo_relaxed);
    closed($).store(0, rl::mo_relaxed);
    payload($) = 0;
  }
  void after() {
    RL_ASSERT(closed($).load(rl::mo_relaxed) == 1);
    for (auto& s : slot) RL_ASSERT(s($).load(rl::mo_relaxed) == 0);
  }
  bool AnyHolder(int except) {
    const auto order = Order(rl::mo_seq_cst, "BUG_LOOK_ACQUIRE", rl::mo_acquire);
    for (int i = 0; i < kSlots; ++i) {
      if (i != except && slot[i]($).load(order) != 0) return true;  // STEP close.look
    }
    return false;
  }
  void Closed() {
    payload($) = 42;  // it is the closer's alone
    closed($).fetch_add(1, rl::mo_relaxed);
  }
  void CloseIfUnheld() {
    for (;;) {
      unsigned seen = word($).load(rl::mo_seq_cst);  // STEP close.load
      if ((seen & 3) != kShared || AnyHolder(-1)) return;
      if (seeded == "BUG_CLOSE_WITHOUT_STAMP") seen = word($).load(rl::mo_seq_cst);
      if ((seen & 3) != kShared) return;
      if (word($).compare_exchange_strong(seen, Word(kLoaned, (seen >> 2) + 1),
                                          rl::mo_seq_cst)) {  // STEP close.word
        return Closed();
      }
    }
  }
  void Release(int mine) {
    unsigned seen = word($).load(rl::mo_seq_cst);  // STEP release.load
    if (!AnyHolder(mine) && word($).compare_exchange_strong(seen, Word(kLoaned, (seen >> 2) + 1),
                                                            rl::mo_seq_cst)) {  // STEP release.word
      slot[mine]($).store(0, rl::mo_relaxed);                                   // STEP release.slot
      return Closed();
    }
    slot[mine]($).exchange(
        0, Order(rl::mo_seq_cst, "BUG_CLEAR_RELAXED", rl::mo_relaxed));  // STEP release.clear
    CloseIfUnheld();
  }
  void thread(unsigned id) {
    if (id == 0) {
      payload($) = 1;
      slot[0]($).store(1, rl::mo_relaxed);  // STEP share.slot
      word($).store(Word(kShared, 1),       // STEP share.word
                    Order(rl::mo_release, "BUG_SHARE_RELAXED", rl::mo_relaxed));
      told($).store(1, rl::mo_relaxed);  // a handle may come by any way
      return Release(0);
    }
    while (told($).load(rl::mo_relaxed) == 0) rl::yield(1, $);
    int claimed = -1;
    for (;;) {
      unsigned seen = word($).load(rl::mo_acquire);  // STEP open.load
      if ((seen & 3) != kShared) break;
      for (int i = 1; i < kSlots && claimed < 0; ++i) {
        unsigned empty = 0;
        if (slot[i]($).compare_exchange_strong(empty, id + 1, rl::mo_acq_rel))
          claimed = i;  // STEP open.slot
      }
      if (claimed < 0) return;
      if (word($).compare_exchange_strong(seen, Word(kShared, (seen >> 2) + 1),
                                          rl::mo_seq_cst)) {  // STEP open.word
        RL_ASSERT(payload($) == 1);
        return Release(claimed);
      }
    }
    if (claimed < 0) return;
    unsigned expected = id + 1;
    slot[claimed]($).compare_exchange_strong(expected, 0, rl::mo_seq_cst);  // STEP open.undo
    CloseIfUnheld();
  }
};

struct LaneHandOver : rl::test_suite<LaneHandOver, 2> {
  static constexpr unsigned kCapacity = 2, kChunks = 4, kMessages = 5;
  rl::atomic<unsigned> tail, cursor, cell[kCapacity], free_chunk[kChunks], claim;
  rl::var<int> payload[kChunks];
  unsigned taken, dropped;

  void before() {
    tail($).store(0, rl::mo_relaxed);
    cursor($).store(0, rl::mo_relaxed);
    claim($).store(0, rl::mo_relaxed);
    taken = dropped = 0;
    for (auto& c : cell) c($).store(0, rl::mo_relaxed);
    for (auto& f : free_chunk) f($).store(1, rl::mo_relaxed);
    for (auto& p : payload) p($) = 0;
  }
  void after() {
    const unsigned waits = tail($).load(rl::mo_relaxed) - (cursor($).load(rl::mo_relaxed) >> 1);
    RL_ASSERT(taken + dropped + waits == kMessages);
  }
  void Publish(unsigned t) {
    unsigned seen = cursor($).load(rl::mo_acquire);  // STEP drop.look
    while ((seen >> 1) + kCapacity <= t) {
      const unsigned chunk = cell[(seen >> 1) % kCapacity]($).load(rl::mo_relaxed);
      const unsigned moved = seen + 2;
      bool won = true;
      if (seeded == "BUG_DROP_BY_STORE") {
        cursor($).store(moved, rl::mo_release);
      } else {
        won = cursor($).compare_exchange_strong(seen, moved, rl::mo_acq_rel,
                                                rl::mo_acquire);  // STEP drop.cursor
      }
      if (!won) continue;
      ++dropped;
      free_chunk[chunk]($).store(1, rl::mo_relaxed);  // the publisher's own again
      break;
    }
    unsigned chunk = 0;
    while (free_chunk[chunk]($).load(rl::mo_acquire) == 0) {  // STEP chunk.take
      chunk = (chunk + 1) % kChunks;
      if (chunk == 0) rl::yield(1, $);
    }
    free_chunk[chunk]($).store(0, rl::mo_relaxed);
    payload[chunk]($) = static_cast<int>(t);
    cell[t % kCapacity]($).store(chunk, rl::mo_release);  // STEP publish.cell
    tail($).store(t + 1,
                  Order(rl::mo_release, "BUG_TAIL_RELAXED", rl::mo_relaxed));  // STEP publish.tail
  }
  void thread(unsigned id) {
    if (id == 0) {
      for (unsigned t = 0; t < kMessages; ++t) Publish(t);
      return;
    }
    unsigned next = 0;
    for (int tries = 0; tries < 12; ++tries) {
      unsigned seen = cursor($).load(rl::mo_acquire);  // STEP take.look
      const unsigned at = seen >> 1;
      if (at >= tail($).load(rl::mo_acquire)) {  // STEP take.tail
        rl::yield(1, $);
        continue;
      }
      const unsigned chunk = cell[at % kCapacity]($).load(rl::mo_acquire);  // STEP take.cell
      claim($).store(chunk + 1, rl::mo_release);                            // STEP take.claim
      if (!cursor($).compare_exchange_strong(seen, (seen + 2) ^ 1, rl::mo_acq_rel,
                                             rl::mo_relaxed)) {  // STEP take.win
        continue;
      }
      RL_ASSERT(payload[chunk]($) == static_cast<int>(at) && at >= next);
      next = at + 1;
      ++taken;
      free_chunk[chunk]($).store(
          1, Order(rl::mo_release, "BUG_FREE_RELAXED", rl::mo_relaxed));  // STEP flush.free
    }
  }
};

struct Orphan : rl::test_suite<Orphan, 2> {
  rl::atomic<unsigned> generation, slot;
  void before() {
    generation($).store(1, rl::mo_relaxed);
    slot($).store(0, rl::mo_relaxed);
  }
  void thread(unsigned id) {
    if (id == 0) {
      generation($).store(2, rl::mo_relaxed);  // STEP share.generation
      if (seeded != "BUG_NO_FENCE") rl::atomic_thread_fence(rl::mo_release, $);
      slot($).store(7, rl::mo_relaxed);  // STEP share.slot
      return;
    }
    const bool same =
        generation($).load(rl::mo_acquire) == 1;  // STEP orphan.generation take_back.generation
    const auto order = Order(rl::mo_acquire, "BUG_SLOT_RELAXED", rl::mo_relaxed);
    const bool held = slot($).load(order) == 7;  // STEP orphan.slot take_back.slot
    const bool still =
        generation($).load(rl::mo_relaxed) == 1;  // STEP orphan.again take_back.again
    const bool looked_twice = seeded != "BUG_ONE_LOOK";
    RL_ASSERT(!(same && held && (still || !looked_twice)));
  }
};

struct Stopped : rl::test_suite<Stopped, 2> {
  rl::atomic<unsigned> given_up;
  rl::atomic<unsigned> kept;
  void before() {
    given_up($).store(0, rl::mo_relaxed);
    kept($).store(0, rl::mo_relaxed);
  }
  void thread(unsigned id) {
    if (id == 0) {
      kept($).store(5, rl::mo_relaxed);  // STEP detach.kept
      unsigned before = 0;
      given_up($).compare_exchange_strong(  // STEP given_up.claim
          before, 1, Order(rl::mo_acq_rel, "BUG_CLAIM_RELAXED", rl::mo_relaxed));
      return;
    }
    if (given_up($).load(rl::mo_acquire) == 1) {     // STEP given_up.look
      RL_ASSERT(kept($).load(rl::mo_relaxed) == 5);  // STEP let_go.cell
    }
  }
};

template <class Scenario>
bool Holds(rl::iteration_t executions) {
  rl::test_params parameters;
  parameters.iteration_count = executions;
  parameters.execution_depth_limit = 3000;
  return rl::simulate<Scenario>(parameters);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string scenario = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) {
    if (std::strncmp(argv[i], "BUG_", 4) == 0) seeded = argv[i];
  }
  rl::iteration_t executions = 20000;
  for (int i = 2; i < argc; ++i) {
    if (std::strncmp(argv[i], "EXECUTIONS=", 11) == 0) executions = std::stoul(argv[i] + 11);
  }
  bool holds = false;
  if (scenario == "close") {
    holds = Holds<Close>(executions);
  } else if (scenario == "lane") {
    holds = Holds<LaneHandOver>(executions);
  } else if (scenario == "orphan") {
    holds = Holds<Orphan>(executions);
  } else if (scenario == "stopped") {
    holds = Holds<Stopped>(executions);
  } else {
    std::fprintf(stderr, "memory_order: there is no scenario '%s'\n", scenario.c_str());
    return 2;
  }
  std::printf("\n%lu executions: %s\n", static_cast<unsigned long>(executions),
              holds ? "holds" : "refuted");
  return holds ? 0 : 1;
}
