#include "server/grpc_event_stream.h"

#include <memory>
#include <optional>

#include "server/convert.h"

namespace zerocp {

class EventStreams::EventWatcher final : public Watcher<v1::WatchEventsResponse> {
 public:
  EventWatcher(EventLog& log, const v1::WatchEventsRequest& request)
      : log_(log), stop_at_end_(request.stop_at_end()), after_(request.after_sequence()) {}

 private:
  Step Next(v1::WatchEventsResponse& message, grpc::Status&) override ZEROCP_REQUIRES(mutex_) {
    const std::optional<Event> event = log_.Next(after_);
    if (!event) return stop_at_end_ ? Step::kEnd : Step::kWait;
    after_ = event->sequence;
    message = ToProto(*event);
    return Step::kWrite;
  }

  EventLog& log_;
  const bool stop_at_end_;
  int64_t after_ ZEROCP_GUARDED_BY(mutex_);
};

EventStreams::EventStreams(EventLog& log, Worker& worker)
    : log_(log), worker_(worker), watchers_("WatchEvents") {
  log_.SetListener([this] {
    if (waking_.exchange(true)) return;
    worker_.Post([this](bool run) {
      waking_.store(false);  // before the look: what is added from now on wakes again
      if (run) watchers_.ForEach([](EventWatcher& watcher) { watcher.Advance(); });
    });
  });
}

EventStreams::~EventStreams() { log_.SetListener(nullptr); }

EventStreams::Reactor* EventStreams::Open(const v1::WatchEventsRequest& request) {
  if (request.after_sequence() < 0) {
    return Refuse<v1::WatchEventsResponse>(
        InvalidArgument({{"after_sequence", "must not be negative"}}));
  }
  return watchers_.Open(std::make_unique<EventWatcher>(log_, request));
}

void EventStreams::Stop() { watchers_.Stop(); }

}  // namespace zerocp
