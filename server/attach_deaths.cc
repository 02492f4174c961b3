// How AttachListener learns that the process of a session is gone.
#include <sys/epoll.h>

#include <algorithm>

#include "server/attach_listener.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstDelay{5};
constexpr milliseconds kOrphanDelay{80};  // reached some 150 ms after the connection's end
constexpr milliseconds kLongestDelay{2000};

}  // namespace

// The end of a connection starts the search for a proof that its process is dead.
void AttachListener::Close(uint64_t serial) {
  const auto found = connections_.find(serial);
  if (found == connections_.end()) return;
  const uint16_t session = found->second->session;
  connections_.erase(found);
  const auto watched = watched_.find(session);
  if (watched == watched_.end()) return;
  watched->second.connection = 0;
  watched->second.delay = kFirstDelay;
  watched->second.look_at = Clock::now();
}

void AttachListener::Watch(uint16_t session, DeathWatch watch, uint64_t connection) {
  Watched& watched = watched_[session];
  watched = Watched();
  watched.watch = std::move(watch);
  watched.connection = connection;
  watched.look_at = Clock::now();
  watched.delay = connection == 0 ? kFirstDelay : options_.look_interval;
  const int pidfd = watched.watch.pidfd();
  watched.has_event =
      pidfd >= 0 && SetEpoll(EPOLL_CTL_ADD, pidfd, Source::kSession, session, EPOLLIN);
}

// What the process had still sent is handled first: it may have detached in order and then ended.
void AttachListener::HandleDeath(uint16_t session) {
  const auto watched = watched_.find(session);
  if (watched == watched_.end() || watched->second.watch.Examine() != DeathWatch::Verdict::kDead)
    return;
  const auto found = connections_.find(watched->second.connection);
  if (found != connections_.end()) {
    Connection& connection = *found->second;
    connection.outbox.reset();
    if (!HandleInput(connection, INT32_MAX)) Close(found->first);
  }
  if (watched_.count(session) != 0) dead_.set(session);
}

DeathWatch::Verdict AttachListener::VerdictOn(const Watched& watched) const {
  return watched.connection == 0 ? watched.watch.ExamineMappings(segment_inodes_)
                                 : watched.watch.Examine();
}

void AttachListener::LookAtSessions(Clock::time_point now) {
  for (auto& [session, watched] : watched_) {
    const bool lost = watched.connection == 0;
    if ((!lost && watched.has_event) || now < watched.look_at || dead_.test(session)) continue;
    if (VerdictOn(watched) == DeathWatch::Verdict::kDead) {
      dead_.set(session);
      continue;
    }
    if (lost && !watched.orphaned && watched.delay >= kOrphanDelay) {
      watched.orphaned = true;
      sessions_.Orphan(session);
    }
    if (lost) watched.delay = std::min(2 * watched.delay, kLongestDelay);
    watched.look_at = now + watched.delay;
  }
}

// What a process had still sent before it died is handled first, as in HandleDeath.
void AttachListener::AnswerDeadRequests() {
  std::vector<DeadRequest> requests;
  {
    MutexLock lock(requests_mutex_);
    requests.swap(requests_);
  }
  for (DeadRequest& request : requests) {
    shm::SessionSet found;
    for (const auto& [session, watched] : watched_) {
      if (VerdictOn(watched) == DeathWatch::Verdict::kDead) found.set(session);
    }
    for (uint16_t session = 0; request.recover && session < found.size(); ++session) {
      if (!found.test(session)) continue;
      HandleDeath(session);
      if (watched_.count(session) != 0) dead_.set(session);
    }
    RecoverDead();
    request.found.set_value(found);
  }
}

void AttachListener::RecoverDead() {
  if (dead_.none()) return;
  sessions_.Died(dead_);
  for (auto next = watched_.begin(); next != watched_.end();) {
    const auto watched = next++;
    if (!dead_.test(watched->first)) continue;
    connections_.erase(watched->second.connection);
    watched_.erase(watched);
  }
  dead_.reset();
}

shm::SessionSet AttachListener::FindDead(bool recover) {
  std::future<shm::SessionSet> found;
  {
    MutexLock lock(requests_mutex_);
    if (!answering_) return {};
    DeadRequest& request = requests_.emplace_back();
    request.recover = recover;
    found = request.found.get_future();
  }
  Wake();
  return found.get();
}

void AttachListener::ProveAlive() {
  if (!Mutant(99)) {
    MutexLock lock(core_.mutex);
  }
  (void)FindDead(false);
}

// Who died just before the stop is not left behind: looks until nobody's fate is open.
void AttachListener::Settle() {
  std::vector<uint16_t> all;
  for (const auto& [session, watched] : watched_) all.push_back(session);
  for (uint16_t session : all) HandleDeath(session);
  for (;;) {
    LookAtSessions(Clock::now());
    RecoverDead();
    const auto open = std::find_if(watched_.begin(), watched_.end(), [](const auto& entry) {
      return entry.second.connection == 0 && !entry.second.orphaned;
    });
    if (open == watched_.end()) return;
    std::this_thread::sleep_until(open->second.look_at);
  }
}

}  // namespace zerocp
