// One attachment to a daemon: its connection, its mapping, its session, and when to let go of them.
//
// What. Clients, publishers and subscribers are the core's users; loans and samples need it too,
// but are not counted here: a shared counter would cost more than the loan. The session counts them
// per thread.
//
// Invariants. K1: state is kOpen, kRevoked or kLost while there are users. K2: the memory stays
// mapped while there are users, loans or samples. K3: a core is never freed, only used again, so
// that a thread may look at the state of a core that others have just let go of.
//
// Letting go. The last user to leave sets kClosing; from then on nothing can be loaned or taken, so
// the number of loans and samples only falls. It detaches if that number is 0, else the release
// that makes it 0 does. Neither may miss the other: a release stores its thread's count, then loads
// the state, or, inlined, whether it may still be inlined; the last user stores both, then sums the
// counts. Each is a store followed by a load of something else, which a processor may swap. Instead
// of a fence in every release the last user executes shm::Barrier between the two, a full fence in
// every thread. A release whose count was stored before it is summed, and one that was not calls
// Retire. Both may find 0: Retire lets one of them go on. Counting is the last thing a release does
// to the session, so that a sum of 0 also means that nobody touches the memory. Where membarrier is
// forbidden, a release may miss kClosing: the memory then stays mapped until the process ends.
//
// The daemon and what becomes of it. Calls that wait do so in slices of kLookInterval; between two
// of them Look() asks the connection, which reconnects to a daemon that came back. So
// does a loan that needs more than its thread's cache when the session's entry calls for it;
// whoever only ever polls learns it from state(). kRevoked: an operator ended the session; nothing
// new is begun, and what is closed and released goes back as always. kLost: the daemon does not
// know the session any more; nothing in the memory is written from then on, because chunks and
// lanes may have become others'. It stays mapped and readable as long as there are users, loans or
// samples.
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
  enum State : uint32_t { kOpen, kRevoked, kClosing, kLost, kForked, kIdle };
  static constexpr std::chrono::milliseconds kLookInterval{500};

  // Attaches; the caller is the first user.
  static shm::Result<ClientCore*> Attach(std::unique_ptr<Connection> connection,
                                         std::string_view name,
                                         std::optional<Connection::Token> token, bool read_only);

  // One user more. REQUIRES: the caller is one.
  void AddUser();
  // One user less. The core may be gone after it.
  void DropUser();

  // Says whether more than a plain operation on the session is called for: refused when new loans
  // and samples are asked for, see Release for the others.
  bool open() const { return state() == kOpen; }
  State state() const { return static_cast<State>(state_.load(std::memory_order_relaxed)); }
  // False in the child of a fork, where nothing of the core may be touched.
  bool mapped() const { return state() != kForked; }
  // False where nothing may be written to the memory: after a fork, and when the session is lost.
  bool writable() const { return state() < kLost; }

  // True if payloads are mapped for reading only: nothing may be loaned.
  bool read_only() const { return read_only_; }

  // Gives a loan or sample back. REQUIRES: writable().
  void Release(shm::ChunkRef ref) {
    if (!session_->TryRelease(ref)) [[unlikely]]
      ReleaseSlow(ref);
  }
  // The same when the session is lost: it only counts. REQUIRES: mapped().
  void ReleaseLost();

  // What is to be done about every kLookInterval by who waits: has an operator ended the session,
  // has the daemon gone or come back? kOk; kUnavailable: the daemon is away, data flows on;
  // kDetached and kInstanceLost: for good, see State. REQUIRES: a user; not after a fork.
  shm::Code Look();
  // As Look, at most once per kLookInterval in all threads together, else kOk; at once for
  // kDetached.
  shm::Code LookSometimes();
  // Takes note of what a control call was told. REQUIRES: as Look.
  void Note(shm::Code code);
  // True if the session's entry says anything but attached: a daemon that came back waits for it,
  // or an operator has ended it. One load: what a loan does that needs more than this thread's
  // cache.
  bool Called() const {
    return EntryState() != static_cast<uint32_t>(shm::SessionState::kAttached);
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
  void MoveTo(State state);
  bool Revoked() const {
    return EntryState() == static_cast<uint32_t>(shm::SessionState::kRevoked);
  }
  uint32_t EntryState() const {
    return session_->manager().session_entry(session_->id()).state.load(std::memory_order_relaxed);
  }

  std::atomic<uint32_t> state_{kIdle};
  std::shared_ptr<shm::Session> session_;
  std::unique_ptr<Connection> connection_;
  bool read_only_ = false;
  std::atomic<int64_t> last_look_ns_{0};
  uint32_t user_count_ = 0;  // under the table's mutex

  struct Holders {
    std::chrono::steady_clock::time_point time;
    std::string text;
  };
  std::mutex holders_mutex_;
  std::array<std::optional<Holders>, shm::kMaxPools> holders_;  // under holders_mutex_
};

}  // namespace zerocp::internal
