// One call from its beginning to its end: who calls what, whether they may, and what came of it.
//
// A call that fails, or is in the audit log, has a number, the correlation id: its error carries it
// (RequestInfo), and so do the daemon's log and the audit log. Calls of AdminService and
// SessionService are in the audit log, whatever came of them, with what they changed.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/audit_log.h"
#include "server/config_plan.h"
#include "server/grpc_access.h"
#include "server/grpc_error.h"

namespace zerocp {

// What a call changed, or with validate_only would have changed.
using Changes = std::vector<ConfigChange>;

class CallRecord {
 public:
  // `audit`: nullptr: none. `method`: nullptr: none of ours. `request`: nullptr: it could not be
  // decoded. REQUIRES: all outlive this.
  CallRecord(const Access& access, AuditLog* audit, const grpc::ServerContextBase& call,
             const google::protobuf::MethodDescriptor* method,
             const google::protobuf::Message* request);

  // OK, or ROLE_REQUIRED: then nothing must be done.
  const absl::Status& allowed() const { return allowed_; }
  // What the caller gets. To be called once.
  grpc::Status End(const absl::Status& status, const Changes& changes = {}) const;

 private:
  std::string AuditLine(const std::string& id, const absl::Status& status,
                        const Changes& changes) const;

  const Access& access_;
  AuditLog* const audit_;
  const google::protobuf::MethodDescriptor* const method_;
  const google::protobuf::Message* const request_;
  const CallerIdentity caller_;
  const absl::Status allowed_;
};

}  // namespace zerocp
