#include "server/session_service.h"

#include "server/convert.h"

namespace zerocp {

grpc::ServerUnaryReactor* SessionService::CreateSession(grpc::CallbackServerContext* call,
                                                        const v1::CreateSessionRequest* request,
                                                        v1::CreateSessionResponse* response) {
  return RunOn(
      context_, context_.short_worker, call, request, [=, this](Changes& changes) -> absl::Status {
        const auto wanted = ToSession(*request);
        if (!wanted.ok()) return wanted.status();
        const auto result = context_.sessions.Create(wanted->client_name, wanted->layout_version,
                                                     wanted->peer_uid, wanted->read_only);
        if (!result.ok()) return result.status();
        *response->mutable_session() = ToProto(result->session);
        changes.push_back({ConfigChange::Action::kAdd, response->session().name(), "",
                           response->session().client_name()});
        response->set_handshake_token(result->token.data(), result->token.size());
        response->set_attach_socket(context_.sessions.attach_socket());
        *response->mutable_token_expire_time() = ToProto(result->token_expire_time);
        return absl::OkStatus();
      });
}

}  // namespace zerocp
