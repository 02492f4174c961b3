#include "server/trouble_watch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "server/channel_manager.h"
#include "server/pool_manager.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

const SessionInfo* Find(const std::vector<SessionInfo>& sessions, uint16_t id) {
  const auto found = std::find_if(sessions.begin(), sessions.end(),
                                  [&](const SessionInfo& s) { return s.id != 0 && s.id == id; });
  return found == sessions.end() ? nullptr : &*found;
}

EventHolder ToHolder(const PoolWatch::Sum& sum, const shm::Census& census,
                     const std::vector<SessionInfo>& sessions) {
  EventHolder holder;
  if (const SessionInfo* session = Find(sessions, sum.sum.session)) {
    holder.session = session->name;
    holder.client_name = session->client_name;
    holder.pid = session->pid;
  }
  holder.pool = PoolResource(sum.pool);
  const std::string& channel = census.ChannelName(sum.sum.channel);
  if (!channel.empty()) holder.channel = ChannelResource(channel);
  if (sum.sum.phase == shm::HoldPhase::kHistory) holder.session = holder.channel;
  holder.phase = sum.sum.phase;
  holder.chunk_count = sum.sum.chunk_count;
  holder.oldest_min_age = sum.oldest_min_age;
  return holder;
}

// "viewer (pid 71): 5 queued in channels/frames, channels/frames: 2 kept, ..."
std::string HoldersText(const std::vector<EventHolder>& holders) {
  std::string text;
  for (size_t i = 0; i < std::min(holders.size(), shm::kShownHolders); ++i) {
    const EventHolder& h = holders[i];
    text += fmt::format(
        "{}{}{}: {} {}{}", i == 0 ? "" : ", ", h.client_name.empty() ? h.session : h.client_name,
        h.pid == 0 ? "" : fmt::format(" (pid {})", h.pid), h.chunk_count, shm::Name(h.phase),
        h.channel.empty() || h.channel == h.session ? "" : " in " + h.channel);
  }
  if (holders.size() > shm::kShownHolders)
    text += fmt::format(" and {} more", holders.size() - shm::kShownHolders);
  return text.empty() ? "nobody any more" : text;
}

}  // namespace

TroubleWatch::TroubleWatch(Core& core, PoolWatch& pools, SessionDirectory& sessions,
                           std::function<Clock::time_point()> now)
    : core_(core), watch_(pools), sessions_(sessions), now_(std::move(now)) {}

void TroubleWatch::Look() {
  LookAtPools();
  LookAtSubscribers();
}

void TroubleWatch::LookAtPools() {
  struct Change {
    uint32_t index;
    std::string name;
    uint32_t chunk_count;
    bool exhausted;
  };
  std::vector<Change> changes;
  const Clock::time_point now = now_();
  {
    MutexLock lock(core_.mutex);
    for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
      const shm::PoolView* view = core_.manager->pool(index);
      if (view == nullptr) continue;
      Pool& pool = pools_[index];
      const uint64_t count = view->shared->exhausted_count.load(std::memory_order_relaxed);
      if (std::memcmp(pool.uid.data(), view->shared->uid, pool.uid.size()) != 0) {
        pool = Pool();
        std::memcpy(pool.uid.data(), view->shared->uid, pool.uid.size());
        // What was refused before a pool was adopted is not this daemon's to tell.
        const std::chrono::nanoseconds created(view->shared->create_time_ns);
        if (created < core_.start_time.time_since_epoch()) pool.exhausted_count = count;
      }
      const bool free = FreeByHints(*view) != 0;
      const bool refused = std::exchange(pool.exhausted_count, count) != count;
      const bool waits = view->shared->pressure.load(std::memory_order_relaxed) != 0 && !free;
      if (refused || waits) {
        pool.refused_at = now;
        if (!std::exchange(pool.exhausted, !Mutant(36)))
          changes.push_back({index, view->name, view->live_chunk_count(), true});
      } else if (pool.exhausted && free && now - pool.refused_at >= kCalm) {
        pool.exhausted = false;
        changes.push_back({index, view->name, view->live_chunk_count(), false});
      }
    }
  }
  for (const Change& change : changes) {
    if (change.exhausted) {
      TellExhausted(change.index, change.name, change.chunk_count);
    } else {
      core_.events.Add(EventKind::kPoolRecovered, PoolResource(change.name),
                       fmt::format("has free chunks and refused no loan for {} s", kCalm.count()));
    }
  }
}

void TroubleWatch::TellExhausted(uint32_t index, const std::string& name, uint32_t chunk_count) {
  PoolWatch::Filter filter;
  filter.pool = index;
  const PoolWatch::List list = watch_.ListHeld(filter, std::nullopt, 0);
  const std::vector<SessionInfo> sessions = sessions_.List();
  std::vector<EventHolder> holders;
  for (const PoolWatch::Sum& sum : list.sums)
    holders.push_back(ToHolder(sum, list.census, sessions));
  const std::string text =
      fmt::format("has no free chunk of its {}; held by {}", chunk_count, HoldersText(holders));
  core_.events.Add(EventKind::kPoolExhausted, PoolResource(name), text, std::move(holders));
  const Clock::time_point now = now_();
  if (now < pools_[index].next_log) return;
  pools_[index].next_log = now + kLogEvery;
  spdlog::warn("pool {} {}", name, text);
}

void TroubleWatch::LookAtSubscribers() {
  std::vector<Stall> stalls;
  for (uint32_t index = 0; index < shm::kMaxChannels; ++index) {
    MutexLock lock(core_.mutex);
    const shm::ChannelRegistry::Channel* channel = core_.registry.channel(index);
    MutexLock own_lock(mutex_);
    if (channel == nullptr || channel->closed) {  // its name may be another's
      for (auto known = subscribers_.lower_bound({index, 0});
           known != subscribers_.end() && known->first.first == index;) {
        EndStall(known->second, "its channel was deleted");
        known = subscribers_.erase(known);
      }
      continue;
    }
    for (uint32_t k = 0; k < channel->subscribers.size(); ++k)
      LookAtSubscriber(*channel, k, &stalls);
  }
  TellStalled(stalls);
}

void TroubleWatch::LookAtSubscriber(const shm::ChannelRegistry::Channel& channel, uint32_t k,
                                    std::vector<Stall>* stalls) {
  const auto& record = channel.subscribers[k];
  const bool stopped = shm::ChannelRegistry::IsStopped(channel, k);
  if (record.session == 0 || stopped) {
    const auto known = subscribers_.find({channel.index, k});
    if (known == subscribers_.end()) return;
    EndStall(known->second, stopped ? "it was detached" : "it left or died");
    subscribers_.erase(known);
    return;
  }
  const Clock::time_point now = now_();
  const auto counts = core_.registry.CountsOf(channel, k);
  Subscriber& known = subscribers_[{channel.index, k}];
  const bool other = known.epoch != record.epoch || known.channel_uid != channel.uid;
  if (other || counts.taken_count > known.taken_count || !known.waits || counts.queued_count == 0) {
    EndStall(known, other ? "it left or died" : "it takes again");
    known = {channel.uid, record.epoch, counts.taken_count, counts.queued_count != 0, now, now, ""};
    return;
  }
  known.seen = now;
  const bool full = counts.fullest_count >= record.queue_capacity;
  if (!full || !known.stalled_as.empty() || now - known.since < kStalled) return;
  known.stalled_as = SubscriberResource({channel.spec.name, k, record.epoch});
  stalls->push_back({known.stalled_as, record.session, counts.queued_count,
                     std::chrono::duration_cast<milliseconds>(now - known.since)});
}

void TroubleWatch::EndStall(const Subscriber& known, const char* why) {
  if (known.stalled_as.empty() || Mutant(105)) return;
  const std::string text =
      fmt::format("nobody waits for it any more: {}, after it had taken nothing for {} ms", why,
                  std::chrono::duration_cast<milliseconds>(now_() - known.since).count());
  core_.events.Add(EventKind::kSubscriberRecovered, known.stalled_as, text);
  spdlog::info("{}: {}", known.stalled_as, text);
}

milliseconds TroubleWatch::StalledFor(uint32_t channel, uint32_t subscriber, uint32_t epoch) {
  MutexLock lock(mutex_);
  const auto found = subscribers_.find({channel, subscriber});
  if (found == subscribers_.end() || found->second.epoch != epoch) return milliseconds(0);
  return std::chrono::duration_cast<milliseconds>(found->second.seen - found->second.since);
}

void TroubleWatch::TellStalled(const std::vector<Stall>& stalls) {
  if (stalls.empty()) return;
  const std::vector<SessionInfo> sessions = sessions_.List();
  for (const Stall& stall : stalls) {
    const SessionInfo* session = Find(sessions, stall.session);
    const std::string text = fmt::format(
        "{} \"{}\" pid {} took nothing for {} ms, and {} messages wait in its full queue",
        session == nullptr ? "a session that has ended" : session->name,
        session == nullptr ? "" : session->client_name, session == nullptr ? 0 : session->pid,
        stall.time.count(), stall.queued_count);
    core_.events.Add(EventKind::kSubscriberStalled, stall.name, text);
    spdlog::warn("{}: {}", stall.name, text);
  }
}

}  // namespace zerocp
