// Sessions: tokens, attach, detach, death.
//
// The authoritative table is private, in memory and in a file (session_table.h), written before a
// reply gives the id away; the entries in the management segment are a mirror. Tokens: see
// session_tokens.h. A session id is given out again only after its recovery.
//
// Threads. All functions from any thread.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core.h"
#include "server/death_watch.h"
#include "server/session_table.h"
#include "server/session_tokens.h"
#include "server/terminations.h"
#include "shm/attach_protocol.h"
#include "shm/unique_fd.h"

namespace zerocp {

enum class SessionPhase { kPending, kAttached, kDead, kOrphaned, kRevoked };

struct SessionInfo {
  uint16_t id = 0;   // 0 while pending
  std::string name;  // resource name, "sessions/..."
  std::string client_name;
  SessionPhase phase = SessionPhase::kPending;
  pid_t pid = 0;             // 0: unknown
  std::optional<uid_t> uid;  // unset until attached
  bool read_only = false;    // it maps payloads for reading only
  uint64_t held_chunk_count = 0;
  std::chrono::system_clock::time_point create_time;
  std::optional<std::chrono::system_clock::time_point> attach_time;
};

struct CreatedSession {
  SessionInfo session;
  Token token;
  std::chrono::system_clock::time_point token_expire_time;
};

// The interface that the gRPC services use. Errors are made by server/error.h.
class SessionDirectory {
 public:
  virtual ~SessionDirectory() = default;
  // FAILED_PRECONDITION (layout version), INVALID_ARGUMENT (name), RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<CreatedSession> Create(const std::string& client_name,
                                                int32_t layout_version,
                                                std::optional<uid_t> peer_uid, bool read_only) = 0;
  // Ends a session: its process is told, may begin nothing more, and is to detach; with `kill` it
  // is killed kKillGrace later, or at once if it cannot answer. Returns at once. `done` is called
  // exactly once, from any thread: with the chunks that the session held, when it is gone;
  // SESSION_NOT_FOUND; after `patience` STILL_ATTACHED, the session stays revoked;
  // SIGNAL_NOT_PERMITTED; SERVER_DRAINING.
  using Terminated = Terminations::Terminated;
  virtual void Terminate(const std::string& name, const std::string& caller, bool kill,
                         std::chrono::milliseconds patience, Terminated done) = 0;
  // Gives up every Terminate that waits: the daemon stops. Others must not follow.
  virtual void AbandonTerminations() = 0;
  // In creation order, without held_chunk_count.
  virtual std::vector<SessionInfo> List() = 0;
  // The same with held_chunk_count: reads every record of every pool.
  virtual std::vector<SessionInfo> ListWithHeld() = 0;
  // Sessions recovered after the death of their process, since the daemon's start.
  virtual uint64_t recovered_session_count() = 0;
  virtual std::string attach_socket() const = 0;
};

// The process at the other end of an attach connection, as the kernel told it.
struct Peer {
  ProcessIdentity process;
  uid_t uid = 0;
};

struct AttachedSession {
  uint16_t id = 0;
  std::string name;  // resource name
  bool read_only = false;
  Cookie cookie;
};

class SessionManager final : public SessionDirectory {
 public:
  struct Options {
    std::string attach_socket;
    // Any user whom the sockets' modes let in may attach; else only `own_uid` and root.
    bool any_user = false;
    uid_t own_uid = 0;
    std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
  };

  // `file`: the session table, opened for reading and writing. REQUIRES: `core` outlives this.
  SessionManager(Core& core, shm::UniqueFd file, Options options);

  // First thing: takes over the sessions of the daemon before, all of them kOrphaned, and recovers
  // what nobody in the table owns. Where the table is of another instance or gone, the mirror in
  // the management segment is believed instead. Returns how many were taken over; kUnavailable: the
  // table cannot be written.
  shm::Result<size_t> Restore();

  // A session in kPending, to be redeemed with its token. With `peer_uid` only that user can.
  // `read_only`: who redeems it gets the chunk segment for reading only.
  absl::StatusOr<CreatedSession> Create(const std::string& client_name, int32_t layout_version,
                                        std::optional<uid_t> peer_uid, bool read_only) override;
  // Gives `peer` a session id; with `token` it redeems that one, else the kernel's word for the
  // peer is enough. `read_only` or a token for reading only make the session one. kDenied: the
  // message is for the log, never for the peer. kLimit, kUnavailable. REQUIRES:
  // IsValidLabel(client_name).
  shm::Result<AttachedSession> Attach(const Peer& peer, std::string_view client_name,
                                      const Token* token, bool read_only = false);
  // Gives `peer` back the session that it attached, whose connection has ended. kInstanceLost: it
  // is not the same process, the cookie is another, or there is no such session; the message is for
  // the log, never for the peer. kUnavailable.
  shm::Result<AttachedSession> Reconnect(const Peer& peer, uint32_t id, const Cookie& cookie);
  // The process says that it no longer touches the segments.
  void Detach(uint16_t id);
  // The connection is gone, the process may live.
  void Orphan(uint16_t id);
  // None of `dead` can store to the segments any more: recovers all they had, in one sweep.
  void Died(const shm::SessionSet& dead);
  void Terminate(const std::string& name, const std::string& caller, bool kill,
                 std::chrono::milliseconds patience, Terminated done) override;
  void AbandonTerminations() override;
  // What terminations wait for, about every 100 ms. `cannot_answer` says that a session's process
  // will not do anything by itself; `kill` kills it and returns 0 or the errno value.
  void AdvanceTerminations(const std::function<bool(uint16_t)>& cannot_answer,
                           const std::function<int(uint16_t)>& kill);
  bool IsRevoked(uint16_t id);
  // Sessions of a user: attached, orphaned or revoked.
  size_t CountOf(uid_t uid) {
    MutexLock lock(mutex_);
    return static_cast<size_t>(
        std::count_if(sessions_.begin(), sessions_.end(),
                      [uid](const auto& session) { return session.second.uid == uid; }));
  }
  // Who owns chunks now: attached, orphaned or revoked.
  std::map<uint16_t, ProcessIdentity> Living();

  // In creation order; pending ones too.
  std::vector<SessionInfo> List() override;
  std::vector<SessionInfo> ListWithHeld() override;
  uint64_t recovered_session_count() override {
    MutexLock lock(mutex_);
    return recovered_count_;
  }
  std::string attach_socket() const override { return options_.attach_socket; }

 private:
  using Record = SessionRecord;
  void ReadMirror(SessionTable::Records* records) ZEROCP_REQUIRES(mutex_);
  void WriteMirror(uint16_t id, const Record& record) ZEROCP_REQUIRES(mutex_);
  void SetMirrorState(uint16_t id, shm::SessionState state) ZEROCP_REQUIRES(mutex_);
  uint16_t FreeId() ZEROCP_REQUIRES(mutex_);
  shm::Status CheckCookie(const Peer& peer, uint32_t id, const Cookie& cookie)
      ZEROCP_REQUIRES(mutex_);
  std::vector<uint64_t> HeldCounts();
  static std::string WhoText(const Record& record);
  size_t capacity() const;
  std::string FullText() const;
  void Recover(const shm::SessionSet& gone, bool orderly) ZEROCP_REQUIRES(mutex_);

  Core& core_;
  const Options options_;
  Mutex mutex_;  // before Core::mutex
  SessionTable table_ ZEROCP_GUARDED_BY(mutex_);
  SessionTable::Records sessions_ ZEROCP_GUARDED_BY(mutex_);
  SessionTokens tokens_ ZEROCP_GUARDED_BY(mutex_);
  Terminations terminations_ ZEROCP_GUARDED_BY(mutex_);
  uint64_t recovered_count_ ZEROCP_GUARDED_BY(mutex_) = 0;
  uint16_t next_id_ ZEROCP_GUARDED_BY(mutex_) = shm::kFirstSession;
};

}  // namespace zerocp
