// The daemon's end of the attach protocol, and the watch over who is attached.
//
// What. One thread with one epoll set: the listening socket, a connection per client, a pidfd per
// session. A packet in, a packet out; what cannot be sent at once waits, and so does its sender. A
// session whose process is gone is recovered at once, several together; one whose connection ended
// while its process may live is orphaned, and looked at again and again, at growing intervals of at
// most 2 s.
//
// Invariants. A1: the thread never waits for a client. A2: a session id is tied to one connection,
// and given up only by a detach or a proven death. A3: what a packet says is checked whole before
// anything is done.
//
// Threads. Start and Stop from one thread. Clients may be hostile: they can send anything.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/attach_policy.h"
#include "server/channel_members.h"
#include "server/core.h"
#include "server/death_watch.h"
#include "server/session_manager.h"
#include "shm/attach_protocol.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

class AttachListener {
 public:
  struct Options {
    DeathWatchMode death_watch = DeathWatchMode::kAuto;
    std::chrono::milliseconds silence{10'000};  // until an unattached connection is closed
    size_t max_unattached = 256;                // beyond it the oldest one is closed
    AttachLimits limits = {};
    // A session that no pidfd speaks for is looked at this often.
    std::chrono::milliseconds look_interval{200};
  };
  static constexpr std::chrono::milliseconds kTickInterval{100};

  // `listener`: a listening, non-blocking SOCK_SEQPACKET socket. REQUIRES: both outlive this.
  AttachListener(Core& core, SessionManager& sessions, shm::UniqueFd listener, Options options);
  // Stops.
  ~AttachListener();
  AttachListener(const AttachListener&) = delete;
  AttachListener& operator=(const AttachListener&) = delete;

  // Watches the sessions that were taken over, recovers those that are dead already, and starts the
  // thread. kInternal.
  shm::Status Start();
  // Ends the thread and closes every connection; the sessions stay as they are.
  void Stop();

  // Looks at every session now. Those whose process is gone; with `recover` they are recovered when
  // this returns. None before Start and after Stop. From any thread; waits for the thread.
  shm::SessionSet FindDead(bool recover);
  // Returns when the core's mutex was free and the thread has had a turn since: the daemon lives.
  // From any thread.
  void ProveAlive();

 private:
  using Clock = std::chrono::steady_clock;
  struct Connection {
    uint64_t serial = 0;
    shm::UniqueFd fd;
    Peer peer;
    DeathWatch watch;
    uint16_t session = 0;  // 0: not attached
    bool read_only = false;
    bool allowed = false;  // its user is on the lists
    Clock::time_point since;
    std::optional<shm::AttachReply> outbox;  // waits for room in the socket
    bool outbox_has_segments = false;
    bool closing = false;  // after this reply
  };
  struct Watched {
    DeathWatch watch;
    uint64_t connection = 0;  // serial; 0: it has ended
    bool has_event = false;   // the epoll set tells of its death
    bool orphaned = false;
    Clock::time_point look_at;  // the next look, unless connected and has_event
    std::chrono::milliseconds delay{};
  };
  struct DeadRequest {
    bool recover = false;
    std::promise<shm::SessionSet> found;
  };
  // What an event of the epoll set is about.
  enum class Source : uint32_t { kListener, kWake, kConnection, kSession };

  void Run();
  int TimeoutMs() const;
  void HandleEvent(Source source, uint64_t key, uint32_t events);
  void AcceptAll();
  void Admit(shm::UniqueFd fd);
  void MakeRoom(uid_t uid);
  // Handles at most `most` packets; false if the connection has ended.
  bool HandleInput(Connection& connection, int most);
  void HandlePacket(Connection& connection, const std::string& wrong,
                    const shm::AttachRequest& request);
  void Refuse(Connection& connection, shm::AttachReply& reply, shm::Code code,
              const std::string& message);
  void Attach(Connection& connection, const shm::AttachRequest& request, shm::AttachReply& reply);
  void Reconnect(Connection& connection, const shm::AttachRequest& request,
                 shm::AttachReply& reply);
  // Refuses a client of another layout; true if it did.
  bool RefuseLayout(Connection& connection, const shm::AttachRequest& request,
                    shm::AttachReply& reply);
  // What kAttach and kReconnect answer alike.
  void WriteSession(const AttachedSession& session, shm::AttachReply& reply);
  Member MemberOf(const Connection& connection) {
    return {connection.session, connection.peer.process.pid, connection.read_only,
            sessions_.IsRevoked(connection.session)};
  }
  // False if the connection has ended.
  bool Send(Connection& connection);
  void Close(uint64_t serial);
  void Watch(uint16_t session, DeathWatch watch, uint64_t connection);
  void HandleDeath(uint16_t session);
  DeathWatch::Verdict VerdictOn(const Watched& watched) const;
  void LookAtSessions(Clock::time_point now);
  void AnswerDeadRequests();
  void Wake() const;
  void RecoverDead();
  void Settle();
  void CloseSilent(Clock::time_point now);
  bool Damaged() const;
  void Tick(Clock::time_point now);
  shm::Status OpenReadOnlyChunk();
  bool SetEpoll(int operation, int fd, Source source, uint64_t key, uint32_t events);

  Core& core_;
  SessionManager& sessions_;
  const Options options_;
  const shm::UniqueFd listener_;
  shm::UniqueFd epoll_;
  shm::UniqueFd wake_;  // an eventfd: stopping_ or requests_ has changed
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  Mutex requests_mutex_;
  bool answering_ ZEROCP_GUARDED_BY(requests_mutex_) = false;
  std::vector<DeadRequest> requests_ ZEROCP_GUARDED_BY(requests_mutex_);
  std::vector<ino_t> segment_inodes_;
  shm::UniqueFd read_only_chunk_;  // the chunk segment, opened for reading only

  // The thread's own.
  AttachPolicy policy_{options_.limits};
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;  // by serial, so oldest first
  std::map<uint16_t, Watched> watched_;
  shm::SessionSet dead_;  // to be recovered before the next wait
  uint64_t next_serial_ = 1;
  bool listening_ = true;  // false: out of descriptors, until the next tick
  bool shortage_logged_ = false;
  bool damage_logged_ = false;
  Clock::time_point next_tick_;
};

}  // namespace zerocp
