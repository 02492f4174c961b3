// What happens around every call of a method of zerocp.v1, whatever it does: a request that cannot
// be decoded gets an error like any other, and the call is counted.
//
// Threads. gRPC calls it from its own.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <map>
#include <set>
#include <string>

#include "server/audit_log.h"
#include "server/grpc_access.h"
#include "server/rpc_metrics.h"

namespace zerocp {

class CallInterceptorFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // `services`: full names of those whose methods are meant; a call of any other method, or of one
  // that does not exist, is left as it is. `audit`: nullptr: none. REQUIRES: all but `services`
  // outlive the server.
  CallInterceptorFactory(const std::set<std::string>& services, RpcMetrics& metrics,
                         const Access& access, AuditLog* audit);

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  // By path: "/zerocp.v1.AdminService/CreatePool".
  std::map<std::string, const google::protobuf::MethodDescriptor*, std::less<>> methods_;
  RpcMetrics& metrics_;
  const Access& access_;
  AuditLog* const audit_;
};

}  // namespace zerocp
