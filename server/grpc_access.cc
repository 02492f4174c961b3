#include "server/grpc_access.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpc/grpc_security_constants.h>

#include <map>
#include <utility>
#include <vector>

#include "server/error.h"
#include "shm/mutant.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp {
namespace {

using google::protobuf::MethodDescriptor;

std::vector<std::string> Property(const grpc::AuthContext& context, const char* name) {
  std::vector<std::string> values;
  for (const grpc::string_ref& value : context.FindPropertyValues(name))
    values.emplace_back(value.data(), value.size());
  return values;
}

// For errors and the audit log: a certificate can hold any bytes.
std::string Printable(std::string name) {
  constexpr size_t kMaxIdentityBytes = 256;
  if (name.size() > kMaxIdentityBytes) name.resize(kMaxIdentityBytes);
  for (char& c : name) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return name;
}

// A name with a colon can only be a URI's, one without only a DNS name's.
bool IsUri(const std::string& name) { return name.find(':') != std::string::npos; }

Role RequiredRole(const MethodDescriptor* method) {
  if (method == nullptr) return Role::kAdmin;
  const std::string& service = method->service()->full_name();
  if (service == v1::ObserverService::service_full_name()) return Role::kObserver;
  if (service == v1::SessionService::service_full_name()) return Role::kClient;
  return Role::kAdmin;
}

}  // namespace

std::string NameOf(const CallerIdentity& caller) {
  if (!caller.user) return caller.identity + " at " + caller.address;
  const UnixPeer& peer = *caller.user;
  return "user " + std::to_string(peer.uid) +
         (peer.pid == 0 ? "" : " (process " + std::to_string(peer.pid) + ")");
}

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kNone:
      return "none";
    case Role::kObserver:
      return "observer";
    case Role::kClient:
      return "client";
    case Role::kAdmin:
      return "admin";
  }
  return "none";
}

CallerIdentity Access::Identify(const grpc::ServerContextBase& call) const {
  const std::string peer = call.peer();
  if (connections_ != nullptr) return {role_, "", "", connections_->PeerOf(peer)};
  const auto context = call.auth_context();
  CallerIdentity caller;
  if (context != nullptr && context->IsPeerAuthenticated()) caller = IdentifyCertificate(*context);
  caller.address = peer;
  return caller;
}

CallerIdentity Access::IdentifyCertificate(const grpc::AuthContext& context) const {
  CallerIdentity caller;
  for (const char* property : {GRPC_PEER_URI_PROPERTY_NAME, GRPC_PEER_DNS_PROPERTY_NAME}) {
    const bool uri = property == std::string_view(GRPC_PEER_URI_PROPERTY_NAME);
    for (const std::string& name : Property(context, property)) {
      if (caller.identity.empty()) caller.identity = name;
      if (IsUri(name) != uri) continue;
      const Role role = admins_.count(name) != 0      ? Role::kAdmin
                        : observers_.count(name) != 0 ? Role::kObserver
                                                      : Role::kNone;
      if (role <= caller.role) continue;
      caller.role = role;
      caller.identity = name;
    }
  }
  if (caller.identity.empty()) {
    const auto names = Property(context, GRPC_X509_CN_PROPERTY_NAME);
    if (!names.empty()) caller.identity = "CN=" + names.front();
  }
  caller.identity = Printable(std::move(caller.identity));
  return caller;
}

const MethodDescriptor* MethodOf(const google::protobuf::Message& request) {
  static const auto methods = [] {
    std::map<const google::protobuf::Descriptor*, const MethodDescriptor*> found;
    for (const char* name :
         {v1::AdminService::service_full_name(), v1::ObserverService::service_full_name(),
          v1::SessionService::service_full_name()}) {
      const auto* service =
          google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
      for (int i = 0; i < service->method_count(); ++i)
        found[service->method(i)->input_type()] = service->method(i);
    }
    return found;
  }();
  const auto method = methods.find(request.GetDescriptor());
  return method == methods.end() ? nullptr : method->second;
}

std::string MethodName(const MethodDescriptor* method) {
  return method == nullptr ? "unknown" : method->service()->full_name() + "/" + method->name();
}

absl::Status CheckRole(const CallerIdentity& caller, const MethodDescriptor* method) {
  const Role required = RequiredRole(method);
  if (caller.role >= required || Mutant(62)) return absl::OkStatus();
  const std::string role(RoleName(caller.role));
  const std::string wanted(RoleName(required));
  const std::string name = MethodName(method);
  return MakeError(
      Reason::kRoleRequired,
      name + " needs the role " + wanted + ", \"" + caller.identity + "\" has the role " + role +
          "; zerocpd --tls-" + wanted + " gives it to a certificate's name",
      {{"requiredRole", wanted}, {"role", role}, {"identity", caller.identity}, {"method", name}});
}

}  // namespace zerocp
