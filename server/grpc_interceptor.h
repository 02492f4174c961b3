// What happens around every call of a method of zerocp.v1, whatever it does: a request that cannot
// be decoded gets an error like any other, and the call is counted.
//
// Threads. gRPC calls it from its own.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <set>
#include <string>
#include <utility>

#include "server/audit_log.h"
#include "server/grpc_access.h"
#include "server/rpc_metrics.h"

namespace zerocp {

class CallInterceptorFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // `services`: full names of those whose methods are meant; a call of any other method, or of one
  // that does not exist, is left as it is. `audit`: nullptr: none. REQUIRES: all outlive the
  // server.
  CallInterceptorFactory(std::set<std::string> services, RpcMetrics& metrics, const Access& access,
                         AuditLog* audit)
      : services_(std::move(services)), metrics_(metrics), access_(access), audit_(audit) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  const std::set<std::string> services_;
  RpcMetrics& metrics_;
  const Access& access_;
  AuditLog* const audit_;
};

}  // namespace zerocp
