// One attachment to a daemon: its connection, its mapping, its session, and when to let go of them.
//
// What. Clients, publishers and subscribers are the core's users; loans and samples need it too,
// but are not counted here: a shared counter would cost more than the loan. The session counts them
// per thread.
//
// Invariants. K1: state is kOpen while there are users. K2: the memory stays mapped while there are
// users, loans or samples. K3: a core is never freed, only used again, so that a thread may look at
// the state of a core that others have just let go of.
//
// Letting go. The last user to leave sets kClosing; from then on nothing can be loaned or taken, so
// the number of loans and samples only falls. It detaches if that number is 0, else the release
// that makes it 0 does. Neither may miss the other: a release stores its thread's count, then loads
// the state; the last user stores the state, then sums the counts. Each is a store followed by a
// load of something else, which a processor may swap. Instead of a fence in every release the last
// user executes membarrier(PRIVATE_EXPEDITED) between the two: an interrupt to every processor that
// runs a thread of this process, each of which is a full fence there. A release whose count was
// stored before the interrupt is summed, and one that was not loads kClosing. Both may find 0:
// Retire lets one of them go on. Counting is the last thing a release does to the session, so that
// a sum of 0 also means that nobody touches the memory. Where membarrier is forbidden, a release
// may miss kClosing: the memory then stays mapped until the process ends.
//
// Threads and processes. All functions from any thread. In the child of a fork each core of the
// parent is kForked: its memory is not mapped there, its connection is closed, and it is never used
// again.
//
// Crash. The daemon takes back what the session had.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "client/internal/connection.h"
#include "shm/session.h"
#include "shm/status.h"

namespace zerocp::internal {

class ClientCore {
 public:
  enum State : uint32_t { kOpen, kClosing, kForked, kIdle };

  // Attaches; the caller is the first user.
  static shm::Result<ClientCore*> Attach(std::unique_ptr<Connection> connection,
                                         std::string_view name,
                                         std::optional<Connection::Token> token);

  // One user more. REQUIRES: the caller is one.
  void AddUser();
  // One user less. The core may be gone after it.
  void DropUser();

  // Says whether more than a plain operation on the session is called for: refused when new loans
  // and samples are asked for, see Release for the others.
  bool open() const { return state_.load(std::memory_order_relaxed) == kOpen; }
  // False in the child of a fork, where nothing of the core may be touched.
  bool mapped() const { return state_.load(std::memory_order_relaxed) != kForked; }

  // Gives a loan or sample back. REQUIRES: mapped().
  void Release(shm::ChunkRef ref) {
    if (session_->TryRelease(ref)) [[likely]] {
      std::atomic_signal_fence(std::memory_order_seq_cst);  // the count first; see Letting go
      if (!open()) [[unlikely]]
        Retire();
    } else {
      ReleaseSlow(ref);
    }
  }

  // REQUIRES: open() and a user, or mapped() and a loan or sample.
  shm::Session& session() const { return *session_; }
  const std::shared_ptr<shm::Session>& shared_session() const { return session_; }
  Connection& connection() const { return *connection_; }

  // The sentence for an exhausted pool: its name, its size, and the three that hold most of it, in
  // which phase and of which channel. Looks at every record at most every kHoldersAge.
  std::string DescribeExhausted(const shm::PoolView& pool);

 private:
  static constexpr std::chrono::milliseconds kHoldersAge{100};
  friend class CoreTable;

  ClientCore() = default;
  // Detaches if this is the first call since the last user left and the last loan or sample was
  // given back.
  void Retire();
  void ReleaseSlow(shm::ChunkRef ref);

  std::atomic<uint32_t> state_{kIdle};
  std::shared_ptr<shm::Session> session_;
  std::unique_ptr<Connection> connection_;
  uint32_t user_count_ = 0;  // under the table's mutex

  struct Holders {
    std::chrono::steady_clock::time_point time;
    std::string text;
  };
  std::mutex holders_mutex_;
  std::array<std::optional<Holders>, shm::kMaxPools> holders_;  // under holders_mutex_
};

}  // namespace zerocp::internal
