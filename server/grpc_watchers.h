// What the streams that tell what goes on have in common: watchers, each with at most one message
// on its way, and the set of those of one method.
//
// A watcher has no queue. It is asked for the next message when nothing is on its way, so that one
// that does not read costs nothing and holds up nobody.
//
// Threads. Open from gRPC's threads, Stop from the one that stops the server. A watcher's place is
// free when gRPC has let go of its call: after its end, its cancellation, or the death of its
// connection.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "server/error.h"
#include "server/grpc_call.h"
#include "server/grpc_error.h"
#include "server/mutex.h"

namespace zerocp {

inline constexpr size_t kMaxWatchers = 64;  // of one method

template <class Message>
class Watcher : public grpc::ServerWriteReactor<Message> {
 public:
  // Writes the next message or ends, if there is anything to do and nothing is on its way.
  void Advance() ZEROCP_EXCLUDES(mutex_) {
    Step step = Step::kEnd;
    grpc::Status end;
    {
      MutexLock lock(mutex_);
      if (busy_) return;
      if (cancelled_) {
        end = grpc::Status::CANCELLED;
      } else if (draining_) {
        end = ToGrpc(Draining());
      } else {
        step = Next(message_, end);
      }
      busy_ = step != Step::kWait;
    }
    // Without the lock: what follows may be called before these return.
    if (step == Step::kWrite) this->StartWrite(&message_);
    if (step == Step::kEnd) this->Finish(end);
  }
  void Drain() ZEROCP_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      draining_ = true;
    }
    Advance();
  }

  void OnWriteDone(bool ok) final {
    {
      MutexLock lock(mutex_);
      busy_ = false;
      if (!ok) cancelled_ = true;
    }
    Advance();
  }
  void OnCancel() final {
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
    }
    Advance();
  }
  void OnDone() final {
    leave_();
    delete this;
  }

 protected:
  enum class Step { kWait, kWrite, kEnd };
  // What to do while nothing is on its way; kWrite: `message` is it, kEnd: the call ends with
  // `end`.
  virtual Step Next(Message& message, grpc::Status& end) ZEROCP_REQUIRES(mutex_) = 0;

  Mutex mutex_;
  bool busy_ ZEROCP_GUARDED_BY(mutex_) = false;  // a message is on its way, or the end is

 private:
  template <class, class>
  friend class WatcherSet;

  bool cancelled_ ZEROCP_GUARDED_BY(mutex_) = false;
  bool draining_ ZEROCP_GUARDED_BY(mutex_) = false;
  Message message_;  // gRPC's while busy
  std::function<void()> leave_ = [] {};
};

// Those of one method; W is a Watcher<Message>.
template <class W, class Message>
class WatcherSet {
 public:
  using Reactor = grpc::ServerWriteReactor<Message>;

  // `method`: its name, for the one who does not get a place.
  explicit WatcherSet(std::string method) : method_(std::move(method)) {}
  WatcherSet(const WatcherSet&) = delete;
  WatcherSet& operator=(const WatcherSet&) = delete;

  // Serves one call; gRPC owns what it returns. The call ends with WATCHER_LIMIT if all places are
  // taken, with SERVER_DRAINING after Stop.
  Reactor* Open(std::unique_ptr<W> watcher) {
    MutexLock lock(mutex_);
    if (stopped_) return Refuse<Message>(Draining());
    if (watchers_.size() >= kMaxWatchers) {
      const std::string limit = std::to_string(kMaxWatchers);
      return Refuse<Message>(
          MakeError(Reason::kWatcherLimit,
                    "all " + limit + " places of " + method_ + " are taken; end a watcher",
                    {{"resource", "watchers"}, {"limit", limit}, {"method", method_}}));
    }
    W* const opened = watcher.release();  // OnDone deletes it
    watchers_.insert(opened);
    opened->leave_ = [this, opened] { Leave(opened); };
    // Under the lock: a Stop in between would end it, and with it the pointer.
    opened->Advance();
    return opened;
  }
  // Ends every stream with SERVER_DRAINING: at once those that wait, the others when their message
  // has gone or their call is cancelled. Waits for none.
  void Stop() {
    MutexLock lock(mutex_);
    stopped_ = true;
    for (W* watcher : watchers_) watcher->Drain();
  }
  // Nobody opens or leaves meanwhile: `visit` must not wait.
  template <class Visit>
  void ForEach(Visit visit) {
    MutexLock lock(mutex_);
    for (W* watcher : watchers_) visit(*watcher);
  }

 private:
  void Leave(W* watcher) {
    MutexLock lock(mutex_);
    watchers_.erase(watcher);
  }

  const std::string method_;
  Mutex mutex_;  // before a watcher's
  std::set<W*> watchers_ ZEROCP_GUARDED_BY(mutex_);
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
};

}  // namespace zerocp
