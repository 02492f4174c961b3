// The watchers of WatchEvents: each a stream with at most one message on its way.
//
// A watcher has no queue: it reads the EventLog where it is, so that one that does not read costs
// nothing, holds up nobody, and finds a gap in the sequence numbers when it goes on. New events
// wake a job on a worker, which looks at the watchers that wait.
//
// Threads. Open from gRPC's threads, Stop from the one that stops the server. A watcher's place is
// free when gRPC has let go of its call: after its end, its cancellation, or the death of its
// connection.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <set>

#include "server/event_log.h"
#include "server/mutex.h"
#include "server/worker.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp {

inline constexpr size_t kMaxWatchers = 64;

class EventStreams {
 public:
  // REQUIRES: both outlive this; the worker's jobs end before this does.
  EventStreams(EventLog& log, Worker& worker);
  // REQUIRES: every stream has ended.
  ~EventStreams();
  EventStreams(const EventStreams&) = delete;
  EventStreams& operator=(const EventStreams&) = delete;

  using Reactor = grpc::ServerWriteReactor<v1::WatchEventsResponse>;
  // Serves one call; gRPC owns what it returns. The call ends with FIELD_INVALID, WATCHER_LIMIT, or
  // SERVER_DRAINING after Stop.
  Reactor* Open(const v1::WatchEventsRequest& request);
  // Ends every stream with SERVER_DRAINING: at once those that wait, the others when their message
  // has gone or their call is cancelled. Waits for none.
  void Stop();

 private:
  class Watcher;
  void WakeAll();
  void Leave(Watcher* watcher);

  EventLog& log_;
  Worker& worker_;
  std::atomic<bool> waking_{false};  // a job that looks at every watcher is on its way
  Mutex mutex_;                      // before a watcher's, and that before the log's
  std::set<Watcher*> watchers_ ZEROCP_GUARDED_BY(mutex_);
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
};

}  // namespace zerocp
