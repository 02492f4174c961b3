#include "server/session_manager.h"

#include <openssl/crypto.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "server/error.h"
#include "shm/audit.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::SessionState;
using shm::Status;
using std::chrono::steady_clock;
using std::chrono::system_clock;

int64_t ToNs(system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}
system_clock::time_point FromNs(int64_t ns) {
  return system_clock::time_point(
      std::chrono::duration_cast<system_clock::duration>(std::chrono::nanoseconds(ns)));
}

SessionPhase PhaseOf(uint32_t state) {
  if (state == static_cast<uint32_t>(SessionState::kOrphaned)) return SessionPhase::kOrphaned;
  if (state == static_cast<uint32_t>(SessionState::kRevoked)) return SessionPhase::kRevoked;
  return SessionPhase::kAttached;
}

Status CannotWrite() {
  return Status::FromErrno(Code::kUnavailable, "cannot write the session table", errno);
}

}  // namespace

SessionManager::SessionManager(Core& core, shm::UniqueFd file, Options options)
    : core_(core), options_(std::move(options)), table_(std::move(file)), tokens_(options_.now) {}

void SessionManager::ReadMirror(SessionTable::Records* records) {
  for (uint32_t id = shm::kFirstSession; id < core_.manager->session_capacity(); ++id) {
    const shm::SessionEntry& entry = core_.manager->session_entry(static_cast<uint16_t>(id));
    const uint32_t state = entry.state.load(std::memory_order_acquire);
    if (state == static_cast<uint32_t>(SessionState::kFree)) continue;
    Record& record = (*records)[static_cast<uint16_t>(id)];
    record = {};
    if (state == static_cast<uint32_t>(SessionState::kRevoked)) record.state = state;
    record.pid = entry.pid;
    record.uid = entry.uid;
    record.start_time = entry.start_time;
    record.create_time_ns = record.attach_time_ns = ToNs(system_clock::now());
    std::memcpy(record.client_name, entry.name, sizeof(record.client_name));
  }
}

Result<size_t> SessionManager::Restore() {
  MutexLock lock(mutex_);
  const auto uuid = core_.manager->instance_uuid();
  SessionTable::Records records;
  const bool is_ours = table_.Read(uuid, core_.manager->session_capacity(), &records);
  if (!is_ours) {
    ReadMirror(&records);
    if (!records.empty()) {
      spdlog::warn(
          "the session table is not of this instance: {} sessions are taken from the management "
          "segment",
          records.size());
    }
    if (!table_.Clear() || (Mutant(96) && !table_.Sign(uuid, core_.manager->session_capacity())))
      return CannotWrite();
  }
  MakeSound(records);
  shm::SessionSet nobody;
  for (uint32_t id = shm::kFirstSession; id < core_.manager->session_capacity(); ++id) {
    const auto found = records.find(static_cast<uint16_t>(id));
    if (found == records.end()) {
      nobody.set(id);
      continue;
    }
    if (found->second.state != static_cast<uint32_t>(SessionState::kRevoked))
      found->second.state = static_cast<uint32_t>(SessionState::kOrphaned);
    if (!table_.Write(found->first, found->second)) return CannotWrite();
    WriteMirror(found->first, found->second);
  }
  if (!is_ours && !table_.Sign(uuid, core_.manager->session_capacity())) return CannotWrite();
  sessions_ = std::move(records);
  MutexLock core_lock(core_.mutex);
  core_.attached.reset();
  for (const auto& [id, record] : sessions_) core_.attached.set(id);
  (void)core_.recovery.FinishClaims();
  (void)core_.recovery.Recover(nobody, /*orderly=*/false);
  for (uint32_t id = shm::kFirstSession; id < core_.manager->session_capacity(); ++id) {
    if (nobody.test(id)) SetMirrorState(static_cast<uint16_t>(id), SessionState::kFree);
  }
  return sessions_.size();
}

void SessionManager::WriteMirror(uint16_t id, const Record& record) {
  shm::SessionEntry& entry = core_.manager->session_entry(id);
  entry.pid = record.pid;
  entry.uid = record.uid;
  entry.start_time = record.start_time;
  std::memcpy(entry.name, record.client_name, sizeof(entry.name));
  entry.state.store(record.state, std::memory_order_release);
}

void SessionManager::SetMirrorState(uint16_t id, SessionState state) {
  core_.manager->session_entry(id).state.store(static_cast<uint32_t>(state),
                                               std::memory_order_release);
}

// Round robin: the id of a process that just died is the last to be used again. 0: all are taken.
uint16_t SessionManager::FreeId() {
  const uint32_t capacity = core_.manager->session_capacity();
  for (uint32_t tries = shm::kFirstSession; tries < capacity; ++tries) {
    const uint16_t id = next_id_;
    next_id_ = id + 1u < capacity ? static_cast<uint16_t>(id + 1) : shm::kFirstSession;
    if (sessions_.count(id) == 0) return id;
  }
  return 0;
}

size_t SessionManager::capacity() const {
  return core_.manager->session_capacity() - shm::kFirstSession;
}

std::string SessionManager::FullText() const {
  return "all " + std::to_string(capacity()) +
         " sessions are in use; zerocpd --max-sessions sets how many there are";
}

std::string SessionManager::WhoText(const Record& record) {
  return fmt::format("\"{}\" pid {} uid {}", ReadText(record.client_name), record.pid, record.uid);
}

absl::StatusOr<CreatedSession> SessionManager::Create(const std::string& client_name,
                                                      int32_t layout_version,
                                                      std::optional<uid_t> peer_uid,
                                                      bool read_only) {
  if (!IsValidLabel(client_name)) {
    return InvalidArgument({{"client_name", "must be at most 63 printable ASCII characters"}});
  }
  if (layout_version != static_cast<int32_t>(shm::kLayoutVersion)) {
    const std::string server = std::to_string(shm::kLayoutVersion);
    const std::string client = std::to_string(layout_version);
    return MakeError(Reason::kLayoutVersionMismatch,
                     "this daemon has shared-memory layout version " + server +
                         ", the client has " + client +
                         ": use a client library of the daemon's release",
                     {{"server", server}, {"client", client}});
  }
  MutexLock lock(mutex_);
  if (const size_t waiting = tokens_.WaitingCount(); waiting >= SessionTokens::kMost) {
    return MakeError(Reason::kSessionLimit, std::to_string(waiting) +
                                                " tokens wait to be redeemed; each lives for " +
                                                std::to_string(kTokenTtl.count()) + " s");
  }
  if (sessions_.size() >= capacity()) return MakeError(Reason::kSessionLimit, FullText());
  CreatedSession created;
  created.session.name = NewSessionName();
  created.session.client_name = client_name;
  created.session.read_only = read_only;
  created.session.create_time = system_clock::now();
  created.token_expire_time = created.session.create_time + kTokenTtl;
  created.token = tokens_.Add(
      {created.session.name, client_name, peer_uid, read_only, created.session.create_time});
  spdlog::info("session {} \"{}\" created, waits for its process", created.session.name,
               client_name);
  return created;
}

Result<AttachedSession> SessionManager::Attach(const Peer& peer, std::string_view client_name,
                                               const Token* token, bool read_only) {
  MutexLock lock(mutex_);
  if (!options_.any_user && peer.uid != options_.own_uid && peer.uid != 0) {
    return Status(Code::kDenied,
                  "uid " + std::to_string(peer.uid) + " is not this instance's user");
  }
  const uint16_t id = FreeId();
  if (id == 0) return Status(Code::kLimit, FullText());  // a token stays good
  PendingSession pending;
  if (token != nullptr) {
    Result<PendingSession> redeemed = tokens_.Redeem(*token, peer.uid);
    if (!redeemed.ok()) return redeemed.status();
    pending = std::move(*redeemed);
  } else {
    pending.name = NewSessionName();
    pending.create_time = system_clock::now();
  }
  Record record{};
  record.state = static_cast<uint32_t>(SessionState::kAttached);
  record.pid = peer.process.pid;
  record.uid = peer.uid;
  record.read_only = read_only || pending.read_only ? 1 : 0;
  record.start_time = peer.process.start_time;
  record.create_time_ns = ToNs(pending.create_time);
  record.attach_time_ns = ToNs(system_clock::now());
  WriteText(record.name, pending.name);
  WriteText(record.client_name,
            pending.client_name.empty() ? client_name : std::string_view(pending.client_name));
  FillRandom(record.cookie.data(), record.cookie.size());
  if (!table_.Write(id, record)) {
    return CannotWrite();
  }
  shm::SessionEntry& entry = core_.manager->session_entry(id);
  entry.cache_thread_count.store(0, std::memory_order_relaxed);
  if (!Mutant(71)) entry.joined_barrier.store(0, std::memory_order_relaxed);
  for (auto& serial : entry.known_serials) serial.store(0, std::memory_order_relaxed);
  WriteMirror(id, record);
  sessions_[id] = record;
  MutexLock core_lock(core_.mutex);
  core_.attached.set(id);
  core_.events.Add(EventKind::kSessionAttached, pending.name, WhoText(record) + " attached");
  return AttachedSession{id, pending.name, record.read_only != 0, record.cookie};
}

Status SessionManager::CheckCookie(const Peer& peer, uint32_t id, const Cookie& cookie) {
  const auto found = id < core_.manager->session_capacity()
                         ? sessions_.find(static_cast<uint16_t>(id))
                         : sessions_.end();
  if (found == sessions_.end()) {
    return Status(Code::kInstanceLost, "there is no session id " + std::to_string(id));
  }
  const Record& record = found->second;
  const std::string name = ReadText(record.name);
  if (record.cookie == Cookie{}) {
    return Status(Code::kInstanceLost,
                  "the cookie of " + name + " was lost with the session table");
  }
  if (CRYPTO_memcmp(record.cookie.data(), cookie.data(), cookie.size()) != 0 && !Mutant(19)) {
    return Status(Code::kInstanceLost, "not the cookie of " + name);
  }
  if (record.pid != peer.process.pid || record.start_time != peer.process.start_time ||
      record.uid != peer.uid) {
    return Status(Code::kInstanceLost, "the cookie of " + name + ", which process " +
                                           std::to_string(record.pid) + " of uid " +
                                           std::to_string(record.uid) + " attached");
  }
  return Status();
}

Result<AttachedSession> SessionManager::Reconnect(const Peer& peer, uint32_t id,
                                                  const Cookie& cookie) {
  MutexLock lock(mutex_);
  if (Status status = CheckCookie(peer, id, cookie); !status.ok()) return status;
  const auto session = static_cast<uint16_t>(id);
  Record& record = sessions_[session];
  if (record.state != static_cast<uint32_t>(SessionState::kRevoked)) {
    record.state = static_cast<uint32_t>(SessionState::kAttached);
    if (!table_.Write(session, record)) {
      return CannotWrite();
    }
    SetMirrorState(session, SessionState::kAttached);
  }
  core_.events.Add(EventKind::kSessionAttached, ReadText(record.name),
                   WhoText(record) + " came back");
  return AttachedSession{session, ReadText(record.name), record.read_only != 0, record.cookie};
}

void SessionManager::Recover(const shm::SessionSet& gone, bool orderly) {
  const auto begin = steady_clock::now();
  shm::RecoveryReport report;
  {
    MutexLock core_lock(core_.mutex);
    report = core_.recovery.Recover(gone, orderly);
    core_.attached &= ~gone;
  }
  const auto time =
      std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - begin);
  std::string who;
  std::string first;  // of those that are gone: its event tells what all of them had
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    const auto session = next++;
    const auto& [id, record] = *session;
    if (!gone.test(id)) continue;
    const char* freed = orderly ? "freed" : "recovered";
    const std::string what =
        first.empty()
            ? fmt::format(
                  "{} {} in {} us{}", Counted(report.freed_chunk_count, "chunk"), freed,
                  time.count(),
                  gone.count() == 1 ? "" : fmt::format(", of {} sessions together", gone.count()))
            : fmt::format("{} together with {}", freed, first);
    if (first.empty()) first = ReadText(record.name);
    const bool killed = terminations_.Killed(id);
    core_.events.Add(killed    ? EventKind::kSessionKilled
                     : orderly ? EventKind::kSessionDetached
                               : EventKind::kSessionDied,
                     ReadText(record.name),
                     fmt::format("{} {}: {}", WhoText(record),
                                 killed    ? "was killed by TerminateSession"
                                 : orderly ? "detached"
                                           : "died",
                                 what));
    who += fmt::format("{}{} \"{}\" id={} pid={} uid={}", who.empty() ? "" : ", ",
                       ReadText(record.name), ReadText(record.client_name), id, record.pid,
                       record.uid);
    SetMirrorState(id, SessionState::kFree);
    if (!table_.Write(id, Record{}))
      spdlog::error("cannot clear session id {} in the session table", id);
    sessions_.erase(session);
  }
  spdlog::info("{}: {}; {} freed, {} delivered, {} drained, {} us", orderly ? "detached" : "died",
               who, Counted(report.freed_chunk_count, "chunk"),
               Counted(report.delivered_count, "message"), report.drained_count, time.count());
}

void SessionManager::Detach(uint16_t id) {
  const shm::SessionSet gone = shm::SessionSet().set(id);
  Terminations::Answers answers;
  {
    MutexLock lock(mutex_);
    if (sessions_.count(id) == 0) return;
    Recover(gone, /*orderly=*/true);
    answers = terminations_.Finish(gone);
  }
  Terminations::Send(std::move(answers));
}

void SessionManager::Died(const shm::SessionSet& dead) {
  Terminations::Answers answers;
  {
    MutexLock lock(mutex_);
    shm::SessionSet known;
    for (const auto& [id, record] : sessions_) {
      if (!dead.test(id)) continue;
      known.set(id);
      SetMirrorState(id, SessionState::kDead);
    }
    recovered_count_ += known.count();
    if (known.any()) Recover(known, /*orderly=*/false);
    answers = terminations_.Finish(known);
  }
  Terminations::Send(std::move(answers));
}

void SessionManager::Terminate(const std::string& name, const std::string& caller, bool kill,
                               std::chrono::milliseconds patience, Terminated done) {
  const std::vector<uint64_t> held = HeldCounts();
  Terminations::Answers answers;
  {
    MutexLock lock(mutex_);
    const auto found = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& session) {
      return ReadText(session.second.name) == name;
    });
    if (found == sessions_.end()) {
      answers.emplace_back(
          std::move(done),
          tokens_.Revoke(name)
              ? absl::StatusOr<uint64_t>(0)
              : MakeError(Reason::kSessionNotFound, "there is no " + name, {{"resource", name}}));
    } else {
      auto& [id, record] = *found;
      record.state = static_cast<uint32_t>(SessionState::kRevoked);
      if (!table_.Write(id, record))
        spdlog::error("cannot write session id {} to the session table", id);
      SetMirrorState(id, SessionState::kRevoked);
      const char* threat = kill ? "; it is killed if it does not detach" : "";
      spdlog::warn("revoked by {}: {} \"{}\" id={} pid={} uid={} holds {}{}", caller, name,
                   ReadText(record.client_name), id, record.pid, record.uid,
                   Counted(held[id], "chunk"), threat);
      core_.events.Add(EventKind::kSessionRevoked, name,
                       fmt::format("{} is to detach, says {} by TerminateSession{}; it holds {}",
                                   WhoText(record), caller, threat, Counted(held[id], "chunk")));
      const auto now = options_.now();
      terminations_.Add({id, name, held[id], record.pid, kill, now + kKillGrace, now + patience,
                         std::move(done)});
    }
  }
  Terminations::Send(std::move(answers));
}

void SessionManager::AdvanceTerminations(const std::function<bool(uint16_t)>& cannot_answer,
                                         const std::function<int(uint16_t)>& kill) {
  Terminations::Answers answers;
  {
    MutexLock lock(mutex_);
    answers = terminations_.Advance(options_.now(), cannot_answer, kill);
  }
  Terminations::Send(std::move(answers));
}

void SessionManager::AbandonTerminations() {
  Terminations::Answers answers;
  {
    MutexLock lock(mutex_);
    answers = terminations_.Abandon();
  }
  Terminations::Send(std::move(answers));
}

// Reads every record of every pool: not under mutex_.
std::vector<uint64_t> SessionManager::HeldCounts() {
  MutexLock core_lock(core_.mutex);  // a pool that is deleted meanwhile takes its view along
  return shm::HeldCounts(*core_.manager);
}

bool SessionManager::IsRevoked(uint16_t id) {
  MutexLock lock(mutex_);
  const auto found = sessions_.find(id);
  return found != sessions_.end() &&
         found->second.state == static_cast<uint32_t>(SessionState::kRevoked);
}

void SessionManager::Orphan(uint16_t id) {
  MutexLock lock(mutex_);
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Record& record = found->second;
  if (record.state != static_cast<uint32_t>(SessionState::kRevoked)) {
    record.state = static_cast<uint32_t>(SessionState::kOrphaned);
    if (!table_.Write(id, record))
      spdlog::error("cannot write session id {} to the session table", id);
    SetMirrorState(id, SessionState::kOrphaned);
  }
  spdlog::warn(
      "orphaned: {} \"{}\" id={} pid={} uid={}: its connection ended and its process may live; "
      "what it "
      "holds stays until the kernel proves its death",
      ReadText(record.name), ReadText(record.client_name), id, record.pid, record.uid);
  core_.events.Add(EventKind::kSessionOrphaned, ReadText(record.name),
                   WhoText(record) + ": its connection ended, and what it holds stays");
}

std::map<uint16_t, ProcessIdentity> SessionManager::Living() {
  MutexLock lock(mutex_);
  std::map<uint16_t, ProcessIdentity> living;
  for (const auto& [id, record] : sessions_) living[id] = {record.pid, record.start_time};
  return living;
}

std::vector<SessionInfo> SessionManager::List() {
  std::vector<SessionInfo> list;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, record] : sessions_) {
      SessionInfo info;
      info.id = id;
      info.name = ReadText(record.name);
      info.client_name = ReadText(record.client_name);
      info.phase = PhaseOf(record.state);
      info.pid = record.pid;
      info.uid = record.uid;
      info.read_only = record.read_only != 0;
      info.create_time = FromNs(record.create_time_ns);
      info.attach_time = FromNs(record.attach_time_ns);
      list.push_back(info);
    }
    for (const PendingSession& pending : tokens_.Waiting()) {
      SessionInfo info;
      info.name = pending.name;
      info.client_name = pending.client_name;
      info.read_only = pending.read_only;
      info.create_time = pending.create_time;
      list.push_back(info);
    }
  }
  std::stable_sort(list.begin(), list.end(), [](const SessionInfo& a, const SessionInfo& b) {
    return a.create_time < b.create_time;
  });
  return list;
}

std::vector<SessionInfo> SessionManager::ListWithHeld() {
  std::vector<SessionInfo> list = List();
  const std::vector<uint64_t> held = HeldCounts();
  for (SessionInfo& info : list) {
    if (info.id != 0) info.held_chunk_count = held[info.id];
  }
  return list;
}

}  // namespace zerocp
