#include "server/grpc_event_stream.h"

#include <string>
#include <utility>

#include "server/convert.h"
#include "server/error.h"
#include "server/grpc_call.h"
#include "server/grpc_error.h"

namespace zerocp {
namespace {

// Says only how the call ends.
class Refusal final : public EventStreams::Reactor {
 public:
  explicit Refusal(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

class EventStreams::Watcher final : public EventStreams::Reactor {
 public:
  Watcher(EventStreams& streams, const v1::WatchEventsRequest& request)
      : streams_(streams), after_(request.after_sequence()), stop_at_end_(request.stop_at_end()) {}

  // Writes the next event or ends, if there is anything to do and nothing is on its way.
  void Advance() {
    enum { kNothing, kWrite, kFinish } next = kNothing;
    grpc::Status status;
    {
      MutexLock lock(mutex_);
      if (busy_) return;
      if (cancelled_) {
        next = kFinish;
        status = grpc::Status::CANCELLED;
      } else if (draining_) {
        next = kFinish;
        status = ToGrpc(Draining());
      } else if (std::optional<Event> event = streams_.log_.Next(after_)) {
        after_ = event->sequence;
        response_ = ToProto(*event);
        next = kWrite;
      } else if (stop_at_end_) {
        next = kFinish;
      }
      busy_ = next != kNothing;
    }
    // Without the lock: what follows may be called before these return.
    if (next == kWrite) StartWrite(&response_);
    if (next == kFinish) Finish(status);
  }
  void Drain() {
    {
      MutexLock lock(mutex_);
      draining_ = true;
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      busy_ = false;
      if (!ok) cancelled_ = true;
    }
    Advance();
  }
  void OnCancel() override {
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
    }
    Advance();
  }
  void OnDone() override {
    streams_.Leave(this);
    delete this;
  }

 private:
  EventStreams& streams_;
  Mutex mutex_;
  int64_t after_ ZEROCP_GUARDED_BY(mutex_);
  const bool stop_at_end_;
  bool busy_ ZEROCP_GUARDED_BY(mutex_) = false;  // a message is on its way, or the end is
  bool cancelled_ ZEROCP_GUARDED_BY(mutex_) = false;
  bool draining_ ZEROCP_GUARDED_BY(mutex_) = false;
  v1::WatchEventsResponse response_;  // gRPC's while busy
};

EventStreams::EventStreams(EventLog& log, Worker& worker) : log_(log), worker_(worker) {
  log_.SetListener([this] {
    if (waking_.exchange(true)) return;
    worker_.Post([this](bool run) {
      waking_.store(false);  // before the look: what is added from now on wakes again
      if (run) WakeAll();
    });
  });
}

EventStreams::~EventStreams() { log_.SetListener(nullptr); }

EventStreams::Reactor* EventStreams::Open(const v1::WatchEventsRequest& request) {
  if (request.after_sequence() < 0) {
    return new Refusal(InvalidArgument({{"after_sequence", "must not be negative"}}));
  }
  Watcher* watcher = nullptr;
  {
    MutexLock lock(mutex_);
    if (stopped_) return new Refusal(Draining());
    if (watchers_.size() >= kMaxWatchers) {
      return new Refusal(MakeError(
          Reason::kWatcherLimit,
          "all " + std::to_string(kMaxWatchers) + " places of WatchEvents are taken; end a watcher",
          {{"resource", "watchers"}, {"limit", std::to_string(kMaxWatchers)}}));
    }
    watcher = new Watcher(*this, request);  // OnDone deletes it
    watchers_.insert(watcher);
    // Under the lock: a Stop in between would end it, and with it the pointer.
    watcher->Advance();
  }
  return watcher;
}

void EventStreams::Stop() {
  MutexLock lock(mutex_);
  stopped_ = true;
  for (Watcher* watcher : watchers_) watcher->Drain();
}

void EventStreams::WakeAll() {
  MutexLock lock(mutex_);
  for (Watcher* watcher : watchers_) watcher->Advance();
}

void EventStreams::Leave(Watcher* watcher) {
  MutexLock lock(mutex_);
  watchers_.erase(watcher);
}

}  // namespace zerocp
