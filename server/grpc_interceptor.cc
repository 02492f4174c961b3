#include "server/grpc_interceptor.h"

#include <google/protobuf/descriptor.h>

#include <chrono>
#include <string_view>
#include <utility>

#include "server/error.h"
#include "server/grpc_call_record.h"

namespace zerocp {
namespace {

using grpc::experimental::InterceptionHookPoints;
using Clock = std::chrono::steady_clock;

class CallInterceptor final : public grpc::experimental::Interceptor {
 public:
  CallInterceptor(const google::protobuf::MethodDescriptor& method, RpcMetrics& metrics,
                  const Access& access, AuditLog* audit, const grpc::ServerContextBase& call)
      : method_(method), metrics_(metrics), access_(access), audit_(audit), call_(call) {
    metrics_.Begin(method_);
  }
  // A call that got no status had lost its caller.
  ~CallInterceptor() override { End(grpc::StatusCode::CANCELLED); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      grpc::StatusCode code = status.error_code();
      // gRPC 1.51 answers a request that it cannot decode with an empty UNIMPLEMENTED. No method of
      // ours does, so that is what it means.
      if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED &&
          status.error_message().empty()) {
        const CallRecord record(access_, audit_, call_, &method_, /*request=*/nullptr);
        const absl::Status undecodable = InvalidArgument(
            {{"request",
              "cannot be decoded: it is no message of this method, or a string in it is not "
              "UTF-8"}});
        const grpc::Status refusal =
            record.End(record.allowed().ok() ? undecodable : record.allowed());
        code = refusal.error_code();
        methods->ModifySendStatus(refusal);
      }
      End(code);  // before the caller can know
    }
    methods->Proceed();
  }

 private:
  void End(grpc::StatusCode code) {
    if (!std::exchange(ended_, true)) metrics_.End(method_, code, Clock::now() - begin_);
  }

  const google::protobuf::MethodDescriptor& method_;
  RpcMetrics& metrics_;
  const Access& access_;
  AuditLog* const audit_;
  const grpc::ServerContextBase& call_;
  const Clock::time_point begin_ = Clock::now();
  bool ended_ = false;
};

}  // namespace

CallInterceptorFactory::CallInterceptorFactory(const std::set<std::string>& services,
                                               RpcMetrics& metrics, const Access& access,
                                               AuditLog* audit)
    : metrics_(metrics), access_(access), audit_(audit) {
  for (const std::string& name : services) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    for (int i = 0; i < service->method_count(); ++i)
      methods_["/" + name + "/" + service->method(i)->name()] = service->method(i);
  }
}

grpc::experimental::Interceptor* CallInterceptorFactory::CreateServerInterceptor(
    grpc::experimental::ServerRpcInfo* info) {
  const auto method = methods_.find(std::string_view(info->method()));
  if (method == methods_.end()) return nullptr;
  // gRPC deletes it.
  return new CallInterceptor(*method->second, metrics_, access_, audit_, *info->server_context());
}

}  // namespace zerocp
