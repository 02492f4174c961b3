// zerocp.v1.AdminService: check, call one manager, translate. Admin socket only.
#pragma once

#include <spdlog/spdlog.h>

#include "server/grpc_call.h"
#include "zerocp/v1/admin_service.grpc.pb.h"

namespace zerocp {

class AdminService final : public v1::AdminService::CallbackService {
 public:
  // The log has the level of the start.
  explicit AdminService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreatePool(grpc::CallbackServerContext* call,
                                       const v1::CreatePoolRequest* request,
                                       v1::CreatePoolResponse* response) override;
  grpc::ServerUnaryReactor* UpdatePool(grpc::CallbackServerContext* call,
                                       const v1::UpdatePoolRequest* request,
                                       v1::UpdatePoolResponse* response) override;
  grpc::ServerUnaryReactor* DeletePool(grpc::CallbackServerContext* call,
                                       const v1::DeletePoolRequest* request,
                                       v1::DeletePoolResponse* response) override;
  grpc::ServerUnaryReactor* ApplyConfig(grpc::CallbackServerContext* call,
                                        const v1::ApplyConfigRequest* request,
                                        v1::ApplyConfigResponse* response) override;
  grpc::ServerUnaryReactor* ReloadConfig(grpc::CallbackServerContext* call,
                                         const v1::ReloadConfigRequest* request,
                                         v1::ReloadConfigResponse* response) override;
  grpc::ServerUnaryReactor* CreateChannel(grpc::CallbackServerContext* call,
                                          const v1::CreateChannelRequest* request,
                                          v1::CreateChannelResponse* response) override;
  grpc::ServerUnaryReactor* DeleteChannel(grpc::CallbackServerContext* call,
                                          const v1::DeleteChannelRequest* request,
                                          v1::DeleteChannelResponse* response) override;
  grpc::ServerUnaryReactor* DetachSubscriber(grpc::CallbackServerContext* call,
                                             const v1::DetachSubscriberRequest* request,
                                             v1::DetachSubscriberResponse* response) override;
  grpc::ServerUnaryReactor* Cleanup(grpc::CallbackServerContext* call,
                                    const v1::CleanupRequest* request,
                                    v1::CleanupResponse* response) override;
  grpc::ServerUnaryReactor* Audit(grpc::CallbackServerContext* call,
                                  const v1::AuditRequest* request,
                                  v1::AuditResponse* response) override;
  grpc::ServerUnaryReactor* TerminateSession(grpc::CallbackServerContext* call,
                                             const v1::TerminateSessionRequest* request,
                                             v1::TerminateSessionResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* call,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

 private:
  const ServiceContext context_;
  const spdlog::level::level_enum start_level_ = spdlog::get_level();
};

}  // namespace zerocp
