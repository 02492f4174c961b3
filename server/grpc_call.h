// What the three services share: their managers, and how a unary call leaves gRPC's poller threads.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_manager.h"
#include "server/error.h"
#include "server/grpc_access.h"
#include "server/grpc_call_record.h"
#include "server/grpc_error.h"
#include "server/pool_manager.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"
#include "server/stats_reader.h"
#include "server/worker.h"

namespace zerocp {

class EventStreams;
class StatsStreams;

// What the services work on. Everything outlives them.
struct ServiceContext {
  Core& core;
  PoolManager& pools;
  ChannelManager& channels;
  ConfigManager& config;
  SessionDirectory& sessions;
  Cleaner& cleaner;
  PoolWatch& watch;
  StatsReader& stats;
  Worker& change_worker;  // of pools and configuration, in order: minutes for large pools
  Worker& long_worker;    // what takes seconds at times, as the audit
  Worker& short_worker;   // everything else: does not wait for those
  EventStreams& event_streams;
  StatsStreams& stats_streams;
  std::string tls_address = {};    // empty: off
  AuditLog* audit = nullptr;       // nullptr: none
  const Access* access = nullptr;  // of the listener whose service this is

  ServiceContext With(const Access& of_listener) const {
    ServiceContext copy = *this;
    copy.access = &of_listener;
    return copy;
  }
};

// The answer to a call that came too late.
inline absl::Status Draining() {
  return MakeError(Reason::kServerDraining, "the daemon is stopping; try again when it is back");
}

// Ends a call with `status` and does nothing else.
template <class Message>
grpc::ServerWriteReactor<Message>* Refuse(const grpc::Status& status) {
  class Refusal final : public grpc::ServerWriteReactor<Message> {
   public:
    explicit Refusal(const grpc::Status& end) { this->Finish(end); }
    void OnDone() override { delete this; }
  };
  return new Refusal(status);  // OnDone deletes it
}

template <class Message>
grpc::ServerWriteReactor<Message>* Refuse(const absl::Status& status) {
  return Refuse<Message>(ToGrpc(status));
}

inline CallRecord BeginCall(const ServiceContext& context, const grpc::ServerContextBase& call,
                            const google::protobuf::Message& request) {
  return CallRecord(*context.access, context.audit, call, MethodOf(request), &request);
}

using Done = std::function<void(const absl::Status&, const Changes&)>;

// Runs `work` on `worker` if the caller may call this; it finishes the call by its Done, once, then
// or later. A call that its caller gave up before its turn does not run.
template <class Request, class Work>
grpc::ServerUnaryReactor* RunUntilDone(const ServiceContext& context, Worker& worker,
                                       grpc::CallbackServerContext* call, const Request* request,
                                       Work work) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  const auto record = std::make_shared<const CallRecord>(BeginCall(context, *call, *request));
  const Done done = [reactor, record](const absl::Status& status, const Changes& changes) {
    reactor->Finish(record->End(status, changes));
  };
  if (!record->allowed().ok()) {
    done(record->allowed(), {});
    return reactor;
  }
  Worker::Job job = [call, done, work = std::move(work)](bool run) {
    if (!run) {
      done(Draining(), {});
    } else if (call->IsCancelled()) {
      done(absl::CancelledError("given up by the caller before its turn"), {});
    } else {
      work(done);
    }
  };
  // The way to another thread and back would take as long as what is short.
  if (&worker == &context.short_worker) {
    worker.Run(std::move(job));
  } else {
    worker.Post(std::move(job));
  }
  return reactor;
}

// The same for `work` that returns the call's status, and tells what it changed if it takes that.
template <class Request, class Work>
grpc::ServerUnaryReactor* RunOn(const ServiceContext& context, Worker& worker,
                                grpc::CallbackServerContext* call, const Request* request,
                                Work work) {
  return RunUntilDone(context, worker, call, request, [work = std::move(work)](const Done& done) {
    Changes changes;
    absl::Status status;
    if constexpr (std::is_invocable_v<Work, Changes&>) {
      status = work(changes);
    } else {
      status = work();
    }
    done(status, changes);
  });
}

// The stream that `open` returns, if the caller may call this.
template <class Message, class Request, class Open>
grpc::ServerWriteReactor<Message>* OpenStream(const ServiceContext& context,
                                              grpc::CallbackServerContext* call,
                                              const Request* request, Open open) {
  const CallRecord record = BeginCall(context, *call, *request);
  return record.allowed().ok() ? open() : Refuse<Message>(record.End(record.allowed()));
}

}  // namespace zerocp
