#include "server/attach_listener.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "server/attach_packet.h"
#include "server/sigbus_guard.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;
using shm::Code;
using shm::Status;
using shm::UniqueFd;
using std::chrono::milliseconds;

constexpr int kPacketsPerEvent = 16;  // then others have their turn

constexpr int kSourceShift = 56;

ino_t InodeOf(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

}  // namespace

AttachListener::AttachListener(Core& core, SessionManager& sessions, UniqueFd listener,
                               Options options)
    : core_(core),
      sessions_(sessions),
      options_(std::move(options)),
      listener_(std::move(listener)) {
  segment_inodes_ = {InodeOf(core_.manager->management_segment().fd()),
                     InodeOf(core_.manager->chunk_segment().fd())};
  const int on = 1;  // each packet says who sent it
  setsockopt(listener_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
}

AttachListener::~AttachListener() { Stop(); }

Status AttachListener::Start() {
  if (Status status = OpenReadOnlyChunk(); !status.ok()) return status;
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !wake_ ||
      !SetEpoll(EPOLL_CTL_ADD, listener_.get(), Source::kListener, 0, EPOLLIN) ||
      !SetEpoll(EPOLL_CTL_ADD, wake_.get(), Source::kWake, 0, EPOLLIN)) {
    return Status::FromErrno(Code::kInternal, "cannot watch the attach socket", errno);
  }
  for (const auto& [session, process] : sessions_.Living()) {
    Watch(session, DeathWatch::OfProcess(process, options_.death_watch), 0);
    watched_[session].orphaned = true;
  }
  LookAtSessions(Clock::now());
  RecoverDead();
  next_tick_ = Clock::now() + kTickInterval;
  {
    MutexLock lock(requests_mutex_);
    answering_ = true;
  }
  thread_ = std::thread([this] { Run(); });
  return Status();
}

// A descriptor of its own, made before any client is there: one that was duplicated from the
// daemon's would be as writable as that.
Status AttachListener::OpenReadOnlyChunk() {
  const std::string& path = core_.manager->chunk_segment().path();
  read_only_chunk_ = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!read_only_chunk_) {
    return Status::FromErrno(Code::kInternal, "cannot open " + path + " for reading only", errno);
  }
  if (InodeOf(read_only_chunk_.get()) != segment_inodes_.back()) {
    return Status(Code::kInternal, path + " was replaced by another file");
  }
  return Status();
}

void AttachListener::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  Wake();
  thread_.join();
  {
    MutexLock lock(requests_mutex_);
    answering_ = false;
    for (DeadRequest& request : requests_) request.found.set_value({});
    requests_.clear();
  }
  connections_.clear();
  watched_.clear();
}

void AttachListener::Wake() const { eventfd_write(wake_.get(), 1); }

bool AttachListener::SetEpoll(int operation, int fd, Source source, uint64_t key, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = (static_cast<uint64_t>(source) << kSourceShift) | key;
  return epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

void AttachListener::Run() {
  while (!stopping_) {
    epoll_event events[64];
    const int count = epoll_wait(epoll_.get(), events, 64, TimeoutMs());
    for (int i = 0; i < count; ++i) {
      const uint64_t data = events[i].data.u64;
      HandleEvent(static_cast<Source>(data >> kSourceShift),
                  data & ((uint64_t{1} << kSourceShift) - 1), events[i].events);
    }
    const Clock::time_point now = Clock::now();
    LookAtSessions(now);
    RecoverDead();
    AnswerDeadRequests();
    if (now >= next_tick_) Tick(now);
  }
  Settle();
}

int AttachListener::TimeoutMs() const {
  Clock::time_point next = next_tick_;
  for (const auto& [session, watched] : watched_) {
    if (watched.connection == 0 || !watched.has_event) next = std::min(next, watched.look_at);
  }
  const auto left = std::chrono::ceil<milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, kTickInterval.count()));
}

void AttachListener::HandleEvent(Source source, uint64_t key, uint32_t events) {
  switch (source) {
    case Source::kWake: {
      eventfd_t count = 0;
      eventfd_read(wake_.get(), &count);
      return;
    }
    case Source::kListener:
      AcceptAll();
      return;
    case Source::kSession:
      HandleDeath(static_cast<uint16_t>(key));
      return;
    case Source::kConnection:
      break;
  }
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;
  Connection& connection = *found->second;
  bool open = true;
  if (connection.outbox && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0)
    open = Send(connection);
  if (open && !connection.outbox) open = HandleInput(connection, kPacketsPerEvent);
  if (!open) Close(key);
}

// Connections.

void AttachListener::AcceptAll() {
  for (int i = 0; i < kPacketsPerEvent; ++i) {
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      Admit(std::move(fd));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return;
    // Out of descriptors or memory: whoever connects waits in the backlog, and the next tick tries
    // again.
    if (!shortage_logged_)
      spdlog::error("attach: cannot accept connections: {}", std::strerror(errno));
    shortage_logged_ = true;
    listening_ = false;
    SetEpoll(EPOLL_CTL_MOD, listener_.get(), Source::kListener, 0, 0);
    return;
  }
}

// Closes the oldest connection without a session: of the user, or of all, if there are too many.
void AttachListener::MakeRoom(uid_t uid) {
  size_t all = 0;
  size_t own = 0;
  const Connection* oldest = nullptr;
  const Connection* oldest_own = nullptr;
  for (const auto& [serial, connection] : connections_) {
    if (connection->session != 0) continue;
    if (all++ == 0) oldest = connection.get();
    if (connection->peer.uid == uid && own++ == 0) oldest_own = connection.get();
  }
  const bool too_many_own = own >= options_.limits.max_connections_per_user;
  if (!too_many_own && all < options_.max_unattached) return;
  const Connection* closed = too_many_own ? oldest_own : oldest;
  if (closed == nullptr) return;
  spdlog::warn("attach: {} connections without a session: the oldest, of pid={} uid={}, is closed",
               too_many_own ? own : all, closed->peer.process.pid, closed->peer.uid);
  Close(closed->serial);
}

void AttachListener::Admit(UniqueFd fd) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return;
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
  shortage_logged_ = false;

  MakeRoom(credentials.uid);
  auto connection = std::make_unique<Connection>();
  connection->serial = next_serial_++;
  connection->watch = DeathWatch::OfPeer(fd.get(), credentials.pid, options_.death_watch);
  connection->peer = {connection->watch.process(), credentials.uid};
  connection->allowed = policy_.Allows(fd.get());
  connection->since = Clock::now();
  connection->fd = std::move(fd);
  if (!SetEpoll(EPOLL_CTL_ADD, connection->fd.get(), Source::kConnection, connection->serial,
                EPOLLIN)) {
    spdlog::error("attach: cannot watch a connection: {}", std::strerror(errno));
    return;
  }
  connections_[connection->serial] = std::move(connection);
}

bool AttachListener::HandleInput(Connection& connection, int most) {
  for (int i = 0; i < most && !connection.outbox; ++i) {
    Packet packet;
    Receive(connection.fd.get(), packet);
    if (packet.kind == Packet::Kind::kNothing) return true;
    if (packet.kind == Packet::Kind::kEnd) return false;
    AttachRequest request;
    std::string wrong = CheckRequest(packet.bytes, packet.size, connection.session != 0, &request);
    if (packet.has_descriptors) wrong = "descriptors with a packet";
    if (packet.has_sender && packet.sender != connection.peer.process.pid) {
      wrong = "sent by process " + std::to_string(packet.sender) + " on a connection of process " +
              std::to_string(connection.peer.process.pid) + ": each process needs its own";
    }
    HandlePacket(connection, wrong, request);
    if (!Send(connection)) return false;
  }
  return true;
}

void AttachListener::HandlePacket(Connection& connection, const std::string& wrong,
                                  const AttachRequest& request) {
  AttachReply& reply = connection.outbox.emplace();
  StartReply(request, reply);
  connection.outbox_has_segments = false;
  if (!wrong.empty()) {
    spdlog::warn("attach: malformed packet from pid={} uid={}: {}", connection.peer.process.pid,
                 connection.peer.uid, wrong);
    Refuse(connection, reply, Code::kInvalid, "malformed request: " + wrong);
    return;
  }
  switch (static_cast<AttachOp>(request.op)) {
    case AttachOp::kAttach:
      Attach(connection, request, reply);
      return;
    case AttachOp::kReconnect:
      Reconnect(connection, request, reply);
      return;
    case AttachOp::kJoinPublisher:
    case AttachOp::kJoinSubscriber:
      JoinChannel(core_, MemberOf(connection), request, reply);
      return;
    case AttachOp::kLeavePublisher:
    case AttachOp::kLeaveSubscriber:
      LeaveChannel(core_, MemberOf(connection), request, reply);
      return;
    case AttachOp::kDetach:
      sessions_.Detach(connection.session);
      if (!Mutant(91)) watched_.erase(connection.session);
      dead_.reset(connection.session);  // the id may be given out again from here on
      connection.session = 0;
      connection.closing = true;
      return;
  }
}

void AttachListener::Refuse(Connection& connection, AttachReply& reply, Code code,
                            const std::string& message) {
  reply.code = static_cast<int32_t>(code);
  SetMessage(reply, message);
  connection.closing = true;
}

bool AttachListener::RefuseLayout(Connection& connection, const AttachRequest& request,
                                  AttachReply& reply) {
  const std::string text = LayoutDifference(request);
  if (text.empty() || Mutant(9)) return false;
  spdlog::warn("attach: pid={} uid={} refused: {}", connection.peer.process.pid,
               connection.peer.uid, text);
  Refuse(connection, reply, Code::kVersionMismatch, text);
  return true;
}

void AttachListener::WriteSession(const AttachedSession& session, AttachReply& reply) {
  const auto& options = core_.manager->options();
  const auto uuid = core_.manager->instance_uuid();
  reply.session = session.id;
  reply.read_only = session.read_only ? 1 : 0;
  reply.management_reserved_bytes = options.management_reserved_bytes;
  reply.chunk_reserved_bytes = options.chunk_reserved_bytes;
  std::copy(uuid.begin(), uuid.end(), reply.instance_uuid);
}

void AttachListener::Attach(Connection& connection, const AttachRequest& request,
                            AttachReply& reply) {
  const Peer& peer = connection.peer;
  if (RefuseLayout(connection, request, reply)) return;
  if (Damaged()) {
    spdlog::warn("attach: pid={} uid={} refused: the segments are damaged", peer.process.pid,
                 peer.uid);
    return Refuse(connection, reply, Code::kDamaged,
                  "a client has cut the segments short; restart zerocpd with new ones");
  }
  const size_t session_count =
      options_.limits.max_sessions_per_user == 0 ? 0 : sessions_.CountOf(peer.uid);
  if (Status status = policy_.Check(peer.uid, connection.allowed, session_count, Clock::now());
      !status.ok()) {
    spdlog::warn("attach: pid={} refused: {}", peer.process.pid, status.message());
    return Refuse(connection, reply, status.code(), status.message());
  }
  Token token;
  static_assert(sizeof(request.token) == sizeof(token));
  std::memcpy(token.data(), request.token, token.size());
  shm::Result<AttachedSession> attached = sessions_.Attach(
      peer, request.name, request.has_token != 0 ? &token : nullptr, request.read_only != 0);
  if (!attached.ok()) {
    spdlog::warn("attach: pid={} uid={} \"{}\" refused: {}", peer.process.pid, peer.uid,
                 request.name, attached.status().message());
    return Refuse(
        connection, reply, attached.code(),
        attached.code() == Code::kDenied ? "attach refused" : attached.status().message());
  }
  connection.session = attached->id;
  connection.read_only = attached->read_only;
  spdlog::info("attached: {} \"{}\" id={} pid={} uid={}{}, death seen by {}", attached->name,
               request.name, attached->id, peer.process.pid, peer.uid,
               attached->read_only ? ", read-only" : "", connection.watch.method());
  Watch(attached->id, std::move(connection.watch), connection.serial);
  WriteSession(*attached, reply);
  std::copy(attached->cookie.begin(), attached->cookie.end(), reply.cookie);
  connection.outbox_has_segments = true;
}

void AttachListener::Reconnect(Connection& connection, const AttachRequest& request,
                               AttachReply& reply) {
  const Peer& peer = connection.peer;
  if (RefuseLayout(connection, request, reply)) return;
  Cookie cookie;
  std::copy(std::begin(request.cookie), std::end(request.cookie), cookie.begin());
  shm::Result<AttachedSession> session = sessions_.Reconnect(peer, request.session, cookie);
  if (!session.ok()) {
    spdlog::warn("attach: pid={} uid={} refused to reconnect: {}", peer.process.pid, peer.uid,
                 session.status().message());
    return Refuse(connection, reply, session.code(), "this daemon does not know the session");
  }
  // The connection before may be there yet: its process has closed it, or says so by coming again.
  const auto watched = watched_.find(session->id);
  const auto before = watched == watched_.end() ? connections_.end()
                                                : connections_.find(watched->second.connection);
  if (before != connections_.end()) connections_.erase(before);
  connection.session = session->id;
  connection.read_only = session->read_only;
  Watch(session->id, std::move(connection.watch), connection.serial);
  WriteSession(*session, reply);
  spdlog::info("reconnected: {} id={} pid={} uid={}, death seen by {}", session->name, session->id,
               peer.process.pid, peer.uid, watched_[session->id].watch.method());
}

bool AttachListener::Send(Connection& connection) {
  std::vector<int> descriptors;
  if (connection.outbox_has_segments) {
    descriptors = {core_.manager->management_segment().fd(),
                   connection.read_only && !Mutant(20) ? read_only_chunk_.get()
                                                       : core_.manager->chunk_segment().fd()};
  }
  const bool sent = SendReply(connection.fd.get(), *connection.outbox, descriptors);
  const bool later = !sent && (errno == EAGAIN || errno == EINTR);
  if (sent) connection.outbox.reset();
  if (connection.closing || (!sent && !later)) return false;
  return SetEpoll(EPOLL_CTL_MOD, connection.fd.get(), Source::kConnection, connection.serial,
                  later ? EPOLLOUT : EPOLLIN);
}

void AttachListener::CloseSilent(Clock::time_point now) {
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto found = next++;
    const Connection& connection = *found->second;
    if (connection.session != 0 || now - connection.since < options_.silence) continue;
    spdlog::warn("attach: pid={} uid={} connected and asked for nothing: closed",
                 connection.peer.process.pid, connection.peer.uid);
    Close(found->first);
  }
}

bool AttachListener::Damaged() const {
  return SigbusGuard::damaged() || core_.manager->management_segment().WasCut() ||
         core_.manager->chunk_segment().WasCut();
}

void AttachListener::Tick(Clock::time_point now) {
  next_tick_ = now + kTickInterval;
  {
    MutexLock lock(core_.mutex);
    (void)core_.recovery.Tick(core_.attached);
  }
  sessions_.AdvanceTerminations(
      [this](uint16_t session) {
        const auto watched = watched_.find(session);
        return watched != watched_.end() &&
               (watched->second.connection == 0 || watched->second.watch.IsStopped());
      },
      [this](uint16_t session) {
        const auto watched = watched_.find(session);
        return watched == watched_.end() ? ESRCH : watched->second.watch.Kill();
      });
  CloseSilent(now);
  if (!listening_)
    listening_ = SetEpoll(EPOLL_CTL_MOD, listener_.get(), Source::kListener, 0, EPOLLIN);
  if (Damaged() && !damage_logged_) {
    damage_logged_ = true;
    spdlog::critical(
        "a client has cut the segments short: what they hold is damaged; stop the clients, restart "
        "zerocpd with --on-stop=unlink, or run zerocpd --cleanup after a stop");
  }
}

}  // namespace zerocp
