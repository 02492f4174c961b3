#include "server/event_log.h"

#include <algorithm>
#include <utility>

namespace zerocp {

std::string Counted(uint64_t count, std::string_view noun) {
  return std::to_string(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

void EventLog::Add(EventKind kind, std::string resource, std::string detail,
                   std::vector<EventHolder> holders) {
  if (resource.size() > kMaxEventText) resource.resize(kMaxEventText);
  if (detail.size() > kMaxEventText) detail.resize(kMaxEventText);  // ASCII: no half character
  if (holders.size() > kMaxEventHolders) holders.resize(kMaxEventHolders);
  MutexLock lock(mutex_);
  if (events_.size() == kKeptEvents) events_.pop_front();
  events_.push_back({++last_, std::chrono::system_clock::now(), kind, std::move(resource),
                     std::move(detail), std::move(holders)});
  ++counts_[kind];
  if (wake_) wake_();
}

std::map<EventKind, uint64_t> EventLog::Counts() {
  MutexLock lock(mutex_);
  return counts_;
}

std::optional<Event> EventLog::Next(int64_t after) {
  MutexLock lock(mutex_);
  if (after > last_) after = 0;
  const auto kept = static_cast<int64_t>(events_.size());
  const int64_t oldest = last_ - kept + 1;
  const int64_t wanted = std::max(after + 1, oldest);
  if (wanted > last_) return std::nullopt;
  return events_[static_cast<size_t>(wanted - oldest)];
}

void EventLog::SetListener(std::function<void()> wake) {
  MutexLock lock(mutex_);
  wake_ = std::move(wake);
}

}  // namespace zerocp
