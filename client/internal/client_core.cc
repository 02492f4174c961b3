#include "client/internal/client_core.h"

#include <pthread.h>

#include <utility>
#include <vector>

#include "shm/census.h"
#include "shm/settle.h"

namespace zerocp::internal {

// All cores of the process; they live for ever (K3).
class CoreTable {
 public:
  static CoreTable& Get() {
    static auto* table = new CoreTable;  // never destroyed: objects of the user may outlive main
    return *table;
  }

  std::mutex& mutex() { return mutex_; }

  // A core for one attachment. REQUIRES: mutex() is held.
  ClientCore* Take() {
    for (ClientCore* core : cores_) {
      if (core->state_.load(std::memory_order_relaxed) == ClientCore::kIdle) return core;
    }
    cores_.push_back(new ClientCore);
    return cores_.back();
  }

 private:
  CoreTable() {
    pthread_atfork([] { Get().mutex_.lock(); }, [] { Get().mutex_.unlock(); },
                   [] { Get().InChild(); });
  }

  // Only what a child of a multi-threaded process may do: no allocation, no lock that is not ours.
  void InChild() {
    for (ClientCore* core : cores_) {
      if (core->state_.load(std::memory_order_relaxed) == ClientCore::kIdle) continue;
      core->state_.store(ClientCore::kForked, std::memory_order_relaxed);
      if (core->session_ != nullptr) core->session_->Abandon();
      if (core->connection_ != nullptr) core->connection_->Abandon();
    }
    mutex_.unlock();
  }

  std::mutex mutex_;
  std::vector<ClientCore*> cores_;  // under mutex_
};

shm::Result<ClientCore*> ClientCore::Attach(std::unique_ptr<Connection> connection,
                                            std::string_view name,
                                            std::optional<Connection::Token> token,
                                            bool read_only) {
  auto attached = connection->Attach(name, token, read_only);
  if (!attached.ok()) return attached.status();
  auto session = std::make_shared<shm::Session>(std::move(attached->manager), attached->session);
  if (const shm::Status locked = session->manager().LockIfProcessDoes(); !locked.ok())
    return shm::Status(shm::Code::kLimit, locked.message());
  std::lock_guard lock(CoreTable::Get().mutex());
  ClientCore* core = CoreTable::Get().Take();
  session->SetOwner(core, [](void* self) noexcept { static_cast<ClientCore*>(self)->Retire(); });
  core->session_ = std::move(session);
  core->connection_ = std::move(connection);
  core->read_only_ = attached->read_only;
  core->user_count_ = 1;
  core->holders_ = {};
  core->last_look_ns_.store(0, std::memory_order_relaxed);
  core->state_.store(kOpen, std::memory_order_relaxed);
  return core;
}

void ClientCore::AddUser() {
  std::lock_guard lock(CoreTable::Get().mutex());
  ++user_count_;
}

void ClientCore::DropUser() {
  {
    std::lock_guard lock(CoreTable::Get().mutex());
    if (!mapped() || --user_count_ > 0) return;
    if (state() != kLost) state_.store(kClosing, std::memory_order_relaxed);
    session_->StopInlining();
  }
  shm::Barrier();  // see Letting go
  Retire();
}

void ClientCore::ReleaseSlow(shm::ChunkRef ref) {
  session_->Release(ref);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // as in Release
  if (!open()) Retire();
}

void ClientCore::Retire() {
  std::shared_ptr<shm::Session> session;
  std::unique_ptr<Connection> connection;
  bool lost;
  {
    std::lock_guard lock(CoreTable::Get().mutex());
    if (user_count_ > 0 || state() == kIdle || session_->held() != 0) return;
    lost = state() == kLost;
    session = std::move(session_);
    connection = std::move(connection_);
    state_.store(kIdle, std::memory_order_relaxed);
  }
  if (lost) {
    session->Disown();
  } else {
    session->Close();
  }
  session.reset();  // the last reference: unmaps
  // If the daemon is gone, its successor finds this session when the process ends.
  (void)connection->Detach();
}

void ClientCore::ReleaseLost() {
  session_->CountReleased();
  std::atomic_signal_fence(std::memory_order_seq_cst);  // as in Release
  Retire();
}

// Only further: what is lost is not open again.
void ClientCore::MoveTo(State state) {
  {
    std::lock_guard lock(CoreTable::Get().mutex());
    if (this->state() != kOpen && this->state() != kRevoked) return;
    state_.store(state, std::memory_order_relaxed);
    session_->StopInlining();
  }
  if (state == kLost) session_->Disown();  // there: the caller is a user
}

void ClientCore::Note(shm::Code code) {
  if (code == shm::Code::kInstanceLost) MoveTo(kLost);
}

shm::Code ClientCore::Look() {
  if (state() == kLost) return shm::Code::kInstanceLost;
  const bool revoked = Revoked();
  if (revoked) MoveTo(kRevoked);
  const shm::Code code = connection_->CheckIn().code();
  Note(code);
  return revoked && code != shm::Code::kInstanceLost ? shm::Code::kDetached : code;
}

shm::Code ClientCore::LookSometimes() {
  if (Revoked()) return Look();
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  int64_t last = last_look_ns_.load(std::memory_order_relaxed);
  constexpr int64_t kInterval = std::chrono::nanoseconds(kLookInterval).count();
  if (now - last < kInterval ||
      !last_look_ns_.compare_exchange_strong(last, now, std::memory_order_relaxed)) {
    return shm::Code::kOk;
  }
  return Look();
}

std::string ClientCore::DescribeExhausted(const shm::PoolView& pool) {
  const auto now = std::chrono::steady_clock::now();
  std::lock_guard lock(holders_mutex_);
  std::optional<Holders>& known = holders_[pool.index];
  if (!known || now - known->time > kHoldersAge) {
    shm::MemPoolManager& manager = session_->manager();
    known = {now, shm::DescribeExhausted(shm::Census::WithoutQueues(manager), manager, pool)};
  }
  return known->text;
}

}  // namespace zerocp::internal
