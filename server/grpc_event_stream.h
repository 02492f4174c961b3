// The streams of WatchEvents.
//
// A watcher reads the EventLog where it is, so that one that was slow finds a gap in the sequence
// numbers when it goes on. New events wake a job on a worker, which looks at the watchers that
// wait.
#pragma once

#include <atomic>

#include "server/event_log.h"
#include "server/grpc_watchers.h"
#include "server/worker.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp {

class EventStreams {
 public:
  // REQUIRES: both outlive this; the worker's jobs end before this does.
  EventStreams(EventLog& log, Worker& worker);
  // REQUIRES: every stream has ended.
  ~EventStreams();
  EventStreams(const EventStreams&) = delete;
  EventStreams& operator=(const EventStreams&) = delete;

  using Reactor = grpc::ServerWriteReactor<v1::WatchEventsResponse>;
  // As WatcherSet::Open; also FIELD_INVALID.
  Reactor* Open(const v1::WatchEventsRequest& request);
  // As WatcherSet::Stop.
  void Stop();

 private:
  class EventWatcher;

  EventLog& log_;  // its mutex is taken after a watcher's
  Worker& worker_;
  std::atomic<bool> waking_{false};  // a job that looks at every watcher is on its way
  WatcherSet<EventWatcher, v1::WatchEventsResponse> watchers_;
};

}  // namespace zerocp
