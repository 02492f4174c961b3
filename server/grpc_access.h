// Who calls over a listener, and what they may do there.
//
// On a Unix socket everybody has the role of the socket, whose mode and group decide who can open
// it. Over TLS the role is that of the certificate's identities: its URI and DNS names, compared
// exactly.
//
// Threads. Functions from any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "server/grpc_connections.h"

namespace google::protobuf {
class Message;
class MethodDescriptor;
}  // namespace google::protobuf

namespace zerocp {

// Each may do what those before it may.
enum class Role {
  kNone,      // health and reflection
  kObserver,  // ObserverService
  kClient,    // SessionService
  kAdmin,     // AdminService
};
std::string_view RoleName(Role role);

struct CallerIdentity {
  Role role = Role::kNone;
  std::string identity;          // TLS: the certificate's name that decided, else its first
  std::string address;           // TLS
  std::optional<UnixPeer> user;  // Unix
};

// For people: "user 1000 (process 71)", or the certificate's name.
std::string NameOf(const CallerIdentity& caller);

class Access {
 public:
  // A Unix socket. REQUIRES: `connections`, the listener's, outlives this.
  Access(std::string listener, Role role, GrpcConnections& connections)
      : listener_(std::move(listener)), role_(role), connections_(&connections) {}
  // TLS.
  Access(std::string listener, std::set<std::string> admins, std::set<std::string> observers)
      : listener_(std::move(listener)),
        admins_(std::move(admins)),
        observers_(std::move(observers)) {}

  const std::string& listener() const { return listener_; }
  // Callers are on other machines: errors tell them nothing of this one.
  bool remote() const { return connections_ == nullptr; }
  CallerIdentity Identify(const grpc::ServerContextBase& call) const;

 private:
  CallerIdentity IdentifyCertificate(const grpc::AuthContext& context) const;

  const std::string listener_;
  const Role role_ = Role::kNone;
  GrpcConnections* const connections_ = nullptr;  // nullptr: TLS
  const std::set<std::string> admins_;
  const std::set<std::string> observers_;
};

// The method with this request: each has a request type of its own. nullptr: none of ours.
const google::protobuf::MethodDescriptor* MethodOf(const google::protobuf::Message& request);
// "zerocp.v1.AdminService/CreatePool".
std::string MethodName(const google::protobuf::MethodDescriptor* method);
// ROLE_REQUIRED if `caller` may not call it.
absl::Status CheckRole(const CallerIdentity& caller,
                       const google::protobuf::MethodDescriptor* method);

}  // namespace zerocp
