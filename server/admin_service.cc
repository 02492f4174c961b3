#include "server/admin_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "server/convert.h"
#include "shm/mutant.h"

namespace zerocp {

namespace {

// Runs `work` on the worker of changes, unless the pool named, "video" or "pools/video", is being
// created: its caller is told at once, and not when that is done.
template <class Request, class Work>
grpc::ServerUnaryReactor* RunOnPool(const ServiceContext& context, const std::string& name,
                                    grpc::CallbackServerContext* call, const Request* request,
                                    Work work) {
  absl::Status status = context.pools.CheckNotCreating(name.substr(name.find('/') + 1));
  if (status.ok()) return RunOn(context, context.change_worker, call, request, std::move(work));
  return RunOn(context, context.short_worker, call, request,
               [status = std::move(status)] { return status; });
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::CreatePool(grpc::CallbackServerContext* call,
                                                   const v1::CreatePoolRequest* request,
                                                   v1::CreatePoolResponse* response) {
  return RunOnPool(
      context_, request->pool_id(), call, request, [=, this](Changes& changes) -> absl::Status {
        const auto spec = ToSpec(*request);
        if (!spec.ok()) return spec.status();
        const auto result =
            context_.pools.Create(*spec, {request->validate_only(), request->allow_existing()});
        if (!result.ok()) return result.status();
        if (result->created || result->pool.etag.empty())  // or a preview
          changes = ChangesBetween({}, {{result->pool.spec}, {}});
        *response->mutable_pool() = ToProto(result->pool);
        response->set_created(result->created);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::UpdatePool(grpc::CallbackServerContext* call,
                                                   const v1::UpdatePoolRequest* request,
                                                   v1::UpdatePoolResponse* response) {
  return RunOnPool(
      context_, request->pool().name(), call, request, [=, this](Changes& changes) -> absl::Status {
        const auto change = ToChange(*request);
        if (!change.ok()) return change.status();
        PoolInfo before;
        const auto pool = context_.pools.Update(*change, request->validate_only(), &before);
        if (!pool.ok()) return pool.status();
        changes = ChangesBetween({{before.spec}, {}}, {{pool->spec}, {}});
        *response->mutable_pool() = ToProto(*pool);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::DeletePool(grpc::CallbackServerContext* call,
                                                   const v1::DeletePoolRequest* request,
                                                   v1::DeletePoolResponse* response) {
  return RunOnPool(
      context_, request->name(), call, request, [=, this](Changes& changes) -> absl::Status {
        const auto name = ToName("pools", "name", request->name());
        if (!name.ok()) return name.status();
        const auto before = context_.pools.Get(*name);
        const auto pool = context_.pools.Delete({*name, request->etag(), request->validate_only(),
                                                 request->allow_missing(), request->drain()});
        if (!pool.ok()) return pool.status();
        if (!*pool) return absl::OkStatus();
        *response->mutable_pool() = ToProto(**pool);
        if (!before.ok() || !before->draining) changes = ChangesBetween({{(*pool)->spec}, {}}, {});

        return absl::OkStatus();
      });
}

namespace {

template <class Response>
absl::Status Answer(const absl::StatusOr<AppliedConfig>& applied, Response* response,
                    Changes& changes) {
  if (!applied.ok()) return applied.status();
  for (const ConfigChange& change : applied->changes)
    if (change.action != ConfigChange::Action::kKeep) changes.push_back(change);
  *response->mutable_config() = ToProto(applied->config);
  response->mutable_config()->set_etag(applied->etag);
  for (const ConfigChange& change : applied->changes) *response->add_changes() = ToProto(change);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::ApplyConfig(grpc::CallbackServerContext* call,
                                                    const v1::ApplyConfigRequest* request,
                                                    v1::ApplyConfigResponse* response) {
  return RunOn(context_, context_.change_worker, call, request,
               [=, this](Changes& changes) -> absl::Status {
                 const auto config = ToConfig(*request);
                 if (!config.ok()) return config.status();
                 const ApplyMode mode{request->config().etag(), request->validate_only(),
                                      request->allow_deletion(), request->persist()};
                 return Answer(context_.config.Apply(*config, mode), response, changes);
               });
}

grpc::ServerUnaryReactor* AdminService::ReloadConfig(grpc::CallbackServerContext* call,
                                                     const v1::ReloadConfigRequest* request,
                                                     v1::ReloadConfigResponse* response) {
  return RunOn(context_, context_.change_worker, call, request,
               [=, this](Changes& changes) -> absl::Status {
                 ApplyMode mode;
                 mode.validate_only = request->validate_only();
                 mode.allow_deletion = request->allow_deletion();
                 return Answer(context_.config.Reload(mode), response, changes);
               });
}

namespace {

// Runs `work` at once, as no change of a channel takes long; not while the configuration changes.
template <class Request, class Work>
grpc::ServerUnaryReactor* RunOnChannel(const ServiceContext& context,
                                       grpc::CallbackServerContext* call, const Request* request,
                                       Work work) {
  return RunOn(context, context.short_worker, call, request,
               [&config = context.config, work = std::move(work)](Changes& changes) {
                 return config.RunApart([&] { return work(changes); });
               });
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::CreateChannel(grpc::CallbackServerContext* call,
                                                      const v1::CreateChannelRequest* request,
                                                      v1::CreateChannelResponse* response) {
  return RunOnChannel(context_, call, request, [=, this](Changes& changes) -> absl::Status {
    const auto spec = ToSpec(*request);
    if (!spec.ok()) return spec.status();
    const auto result =
        context_.channels.Create(*spec, {request->validate_only(), request->allow_existing()});
    if (!result.ok()) return result.status();
    if (result->created || result->channel.etag.empty())  // or a preview
      changes = ChangesBetween({}, {{}, {result->channel.spec}});
    *response->mutable_channel() = ToProto(result->channel);
    response->set_created(result->created);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::DeleteChannel(grpc::CallbackServerContext* call,
                                                      const v1::DeleteChannelRequest* request,
                                                      v1::DeleteChannelResponse*) {
  return RunOnChannel(context_, call, request, [=, this](Changes& changes) -> absl::Status {
    const auto name = ToName("channels", "name", request->name());
    if (!name.ok()) return name.status();
    const auto before = context_.channels.Get(*name);
    absl::Status status = context_.channels.Delete(*name, request->even_if_in_use(),
                                                   request->allow_missing(), request->etag());
    if (status.ok() && before.ok()) changes = ChangesBetween({{}, {before->spec}}, {});
    return status;
  });
}

grpc::ServerUnaryReactor* AdminService::DetachSubscriber(grpc::CallbackServerContext* call,
                                                         const v1::DetachSubscriberRequest* request,
                                                         v1::DetachSubscriberResponse* response) {
  return RunOn(
      context_, context_.long_worker, call, request, [=, this](Changes& changes) -> absl::Status {
        const auto name = ToSubscriber(*request);
        if (!name.ok()) return name.status();
        const auto detached = context_.channels.DetachSubscriber(*name);
        if (!detached.ok()) return detached.status();
        response->set_queued_count(static_cast<int64_t>(detached->queued_count));
        if (!detached->before) {
          changes.push_back({ConfigChange::Action::kRemove, request->name(),
                             Counted(detached->queued_count, "message") + " waited for it"});
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::Cleanup(grpc::CallbackServerContext* call,
                                                const v1::CleanupRequest* request,
                                                v1::CleanupResponse* response) {
  return RunOn(context_, context_.long_worker, call, request,
               [=, this](Changes& changes) -> absl::Status {
                 const auto scope = ToScope(*request);
                 if (!scope.ok()) return scope.status();
                 const std::vector<LeftBehind> found = context_.cleaner.Run(*scope);
                 for (const LeftBehind& thing : found)
                   changes.push_back({ConfigChange::Action::kRemove, thing.name, thing.reason});
                 *response = ToProto(found);
                 return absl::OkStatus();
               });
}

grpc::ServerUnaryReactor* AdminService::Audit(grpc::CallbackServerContext* call,
                                              const v1::AuditRequest* request,
                                              v1::AuditResponse* response) {
  return RunOn(context_, context_.long_worker, call, request, [=, this] {
    const shm::AuditReport report = context_.channels.Audit();
    for (const shm::PoolCounts& counts : report.pools) {
      *response->add_pools() = ToProto(context_.pools.StatsOf(counts));
    }
    std::sort(response->mutable_pools()->begin(), response->mutable_pools()->end(),
              [](const v1::PoolStats& a, const v1::PoolStats& b) { return a.pool() < b.pool(); });
    for (const auto& found : report.violations) {
      v1::AuditResponse::Violation& violation = *response->add_violations();
      violation.set_invariant(found.invariant);
      violation.set_detail(found.detail);
    }
    response->set_checked_chunk_count(static_cast<int64_t>(report.checked_chunk_count));
    response->set_violation_count(static_cast<int64_t>(report.violation_count));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* call,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse* response) {
  return RunOn(
      context_, context_.short_worker, call, request, [=, this](Changes& changes) -> absl::Status {
        const auto wanted = ToLevel(*request);
        if (!wanted.ok()) return wanted.status();
        const auto before = spdlog::get_level();
        const auto now = Mutant(51) ? wanted->value_or(before) : wanted->value_or(start_level_);
        // At a level that is logged before or after it, so that the log tells of its own silence.
        const auto lower = std::min(before, now);
        spdlog::set_level(lower);
        spdlog::log(std::max(lower, spdlog::level::info),
                    "log level: {} instead of {}, until the next start",
                    spdlog::level::to_string_view(now), spdlog::level::to_string_view(before));
        spdlog::set_level(now);
        response->set_previous_level(ToProto(before));
        if (now != before) {
          changes.push_back({ConfigChange::Action::kUpdate, "log_level",
                             fmt::format("{}", spdlog::level::to_string_view(before)),
                             fmt::format("{}", spdlog::level::to_string_view(now))});
        }
        return absl::OkStatus();
      });
}

namespace {

// How long TerminateSession waits: so that its answer is there before the caller gives up.
std::chrono::milliseconds PatienceOf(const grpc::CallbackServerContext& call) {
  constexpr std::chrono::milliseconds kMost{5000};
  constexpr std::chrono::milliseconds kWayBack{200};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::min(call.deadline() - std::chrono::system_clock::now(),
               std::chrono::system_clock::duration(kMost + kWayBack)));
  return std::max(left - kWayBack, std::chrono::milliseconds::zero());
}

}  // namespace

// The worker only asks for it: whoever sees the session go answers, so that other calls go on.
grpc::ServerUnaryReactor* AdminService::TerminateSession(grpc::CallbackServerContext* call,
                                                         const v1::TerminateSessionRequest* request,
                                                         v1::TerminateSessionResponse* response) {
  return RunUntilDone(context_, context_.short_worker, call, request, [=, this](const Done& done) {
    const auto name = ToSessionName(*request);
    if (!name.ok()) return done(name.status(), {});
    context_.sessions.Terminate(
        *name, NameOf(context_.access->Identify(*call)), request->kill(), PatienceOf(*call),
        [done, request, response](const absl::StatusOr<uint64_t>& released) {
          if (!released.ok()) {
            // Also when the daemon stops meanwhile: it is to go, and learns so.
            const bool revoked =
                ReasonOf(released.status()) != ReasonName(Reason::kSessionNotFound);
            const ConfigChange change{ConfigChange::Action::kUpdate, request->name() + ".state",
                                      "attached", "revoked"};
            return done(released.status(), revoked ? Changes{change} : Changes());
          }
          response->set_released_chunk_count(static_cast<int64_t>(*released));
          done(absl::OkStatus(), {{ConfigChange::Action::kRemove, request->name(),
                                   "held " + Counted(*released, "chunk")}});
        });
  });
}

}  // namespace zerocp
