// zerocp.v1.SessionService: check, call one manager, translate. Both sockets.
#pragma once

#include "server/grpc_call.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp {

class SessionService final : public v1::SessionService::CallbackService {
 public:
  explicit SessionService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* call,
                                          const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;

 private:
  const ServiceContext context_;
};

}  // namespace zerocp
