#include "server/grpc_error.h"

#include <gtest/gtest.h>

#include <iterator>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/error.h"

namespace zerocp {
namespace {

using google::rpc::Status;

Status Details(const grpc::Status& status) {
  Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.message(), status.error_message());
  return details;
}

// The detail of type T; fails the test if it is not there exactly once.
template <class T>
T Only(const Status& status) {
  T message;
  int count = 0;
  for (const auto& detail : status.details()) {
    if (!detail.Is<T>()) continue;
    EXPECT_TRUE(detail.UnpackTo(&message));
    EXPECT_TRUE(message.GetReflection()->GetUnknownFields(message).empty());
    ++count;
  }
  EXPECT_EQ(count, 1) << T::descriptor()->full_name();
  return message;
}

TEST(GrpcError, OkIsOk) { EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok()); }

TEST(GrpcError, EachReasonHasItsCodeAndDetails) {
  const struct {
    Reason reason;
    grpc::StatusCode code;
    std::string detail;
    const char* type;
    bool retry;
  } rows[] = {
      {Reason::kPoolNotFound, grpc::NOT_FOUND, "ResourceInfo", "zerocp.v1.Pool", false},
      {Reason::kChannelNotFound, grpc::NOT_FOUND, "ResourceInfo", "zerocp.v1.Channel", false},
      {Reason::kSessionNotFound, grpc::NOT_FOUND, "ResourceInfo", "zerocp.v1.Session", false},
      {Reason::kSubscriberNotFound, grpc::NOT_FOUND, "ResourceInfo", "zerocp.v1.Subscriber", false},
      {Reason::kPoolAlreadyExists, grpc::ALREADY_EXISTS, "ResourceInfo", "zerocp.v1.Pool", false},
      {Reason::kChannelAlreadyExists, grpc::ALREADY_EXISTS, "ResourceInfo", "zerocp.v1.Channel",
       false},
      {Reason::kPoolLimit, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", false},
      {Reason::kChannelLimit, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", false},
      {Reason::kSessionLimit, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", true},
      {Reason::kWatcherLimit, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", true},
      {Reason::kSegmentFull, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", false},
      {Reason::kShmFilesystemFull, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", false},
      {Reason::kMemoryLimit, grpc::RESOURCE_EXHAUSTED, "QuotaFailure", "", false},
      {Reason::kLayoutVersionMismatch, grpc::FAILED_PRECONDITION, "PreconditionFailure",
       "LAYOUT_VERSION", false},
      {Reason::kSignalNotPermitted, grpc::FAILED_PRECONDITION, "PreconditionFailure", "SIGNAL",
       false},
      {Reason::kStillAttached, grpc::DEADLINE_EXCEEDED, "", "", false},
      {Reason::kChannelInUse, grpc::FAILED_PRECONDITION, "PreconditionFailure", "CHANNEL_IN_USE",
       false},
      {Reason::kPoolInUse, grpc::FAILED_PRECONDITION, "PreconditionFailure", "POOL_IN_USE", false},
      {Reason::kPoolDraining, grpc::FAILED_PRECONDITION, "PreconditionFailure", "POOL_STATE",
       false},
      {Reason::kPoolShrinkUnsupported, grpc::FAILED_PRECONDITION, "PreconditionFailure",
       "POOL_SIZE", false},
      {Reason::kDeletionNotAllowed, grpc::FAILED_PRECONDITION, "PreconditionFailure", "DELETION",
       false},
      {Reason::kConfigFileUnusable, grpc::FAILED_PRECONDITION, "PreconditionFailure", "CONFIG_FILE",
       false},
      {Reason::kEtagMismatch, grpc::ABORTED, "", "", false},
      {Reason::kRoleRequired, grpc::PERMISSION_DENIED, "", "", false},
      {Reason::kOperationInProgress, grpc::ABORTED, "", "", true},
      {Reason::kServerDraining, grpc::UNAVAILABLE, "", "", true},
      {Reason::kSegmentCorrupt, grpc::DATA_LOSS, "", "", false},
  };
  // The others have tests of their own below: FIELD_INVALID, PAGE_TOKEN_INVALID, INTERNAL.
  EXPECT_EQ(std::size(rows) + 3, static_cast<size_t>(Reason::kInternal) + 1);
  for (const auto& row : rows) {
    SCOPED_TRACE(ReasonName(row.reason));
    const grpc::Status status =
        ToGrpc(MakeError(row.reason, "what happened", {{"resource", "pools/a"}, {"n", "7"}}));
    EXPECT_EQ(status.error_code(), row.code);
    EXPECT_EQ(status.error_message(), "what happened");
    const Status details = Details(status);
    const auto info = Only<google::rpc::ErrorInfo>(details);
    EXPECT_EQ(info.reason(), ReasonName(row.reason));
    EXPECT_EQ(info.domain(), "zerocp");
    EXPECT_EQ(info.metadata().at("n"), "7");
    if (row.detail == "ResourceInfo") {
      const auto resource = Only<google::rpc::ResourceInfo>(details);
      EXPECT_EQ(resource.resource_name(), "pools/a");
      EXPECT_EQ(resource.resource_type(), row.type);
      EXPECT_EQ(resource.description(), "what happened");
    } else if (row.detail == "QuotaFailure") {
      const auto quota = Only<google::rpc::QuotaFailure>(details);
      ASSERT_EQ(quota.violations_size(), 1);
      EXPECT_EQ(quota.violations(0).subject(), "pools/a");
      EXPECT_EQ(quota.violations(0).description(), "what happened");
    } else if (row.detail == "PreconditionFailure") {
      const auto failure = Only<google::rpc::PreconditionFailure>(details);
      ASSERT_EQ(failure.violations_size(), 1);
      EXPECT_EQ(failure.violations(0).type(), row.type);
      EXPECT_EQ(failure.violations(0).subject(), "pools/a");
    }
    if (row.retry) {
      EXPECT_EQ(Only<google::rpc::RetryInfo>(details).retry_delay().seconds(), 1);
    }
    EXPECT_EQ(Only<google::rpc::RequestInfo>(details).request_id().size(), 16u);
    EXPECT_EQ(details.details_size(), 2 + (row.detail.empty() ? 0 : 1) + (row.retry ? 1 : 0));
  }
}

TEST(GrpcError, InvalidArgumentListsEveryViolation) {
  for (Reason reason : {Reason::kFieldInvalid, Reason::kPageTokenInvalid}) {
    const grpc::Status status =
        ToGrpc(InvalidArgument({{"a", "is wrong"}, {"b", "too"}}, "pool.", reason));
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
    const Status details = Details(status);
    EXPECT_EQ(Only<google::rpc::ErrorInfo>(details).reason(), ReasonName(reason));
    const auto bad = Only<google::rpc::BadRequest>(details);
    ASSERT_EQ(bad.field_violations_size(), 2);
    EXPECT_EQ(bad.field_violations(0).field(), "pool.a");
    EXPECT_EQ(bad.field_violations(0).description(), "is wrong");
    EXPECT_EQ(bad.field_violations(1).field(), "pool.b");
  }
}

TEST(GrpcError, LongFieldsAreEncodedAsProtobufDoes) {
  const std::string value(300, 'v');  // its length takes two bytes
  const Status details = Details(ToGrpc(MakeError(Reason::kSegmentCorrupt, "x", {{"key", value}})));
  EXPECT_EQ(Only<google::rpc::ErrorInfo>(details).metadata().at("key"), value);
}

TEST(GrpcError, ABugIsConcealedAndGetsANumber) {
  for (const absl::Status& bug :
       {MakeError(Reason::kInternal, "the secret"), absl::UnknownError("the secret"),
        absl::InternalError("the secret"), absl::NotFoundError("the secret")}) {
    const grpc::Status status = ToGrpc(bug);
    EXPECT_EQ(status.error_code(), grpc::INTERNAL);
    EXPECT_EQ(status.error_message().find("the secret"), std::string::npos);
    const Status details = Details(status);
    EXPECT_EQ(Only<google::rpc::ErrorInfo>(details).reason(), "INTERNAL");
    const std::string id = Only<google::rpc::RequestInfo>(details).request_id();
    EXPECT_EQ(id.size(), 16u);
    EXPECT_NE(status.error_message().find(id), std::string::npos);
  }
}

TEST(GrpcError, ARemoteCallerLearnsNoPaths) {
  const absl::Status status =
      MakeError(Reason::kMemoryLimit,
                "pools/a needs 7 bytes (limited by: memory cgroup /sys/fs/cgroup/a b); see "
                "/dev/shm, \"/run/zerocp/x\", spiffe://test/admin and zerocp.v1.AdminService/Audit",
                {{"limitedBy", "memory cgroup /sys/fs/cgroup/a"},
                 {"resource", "pools/a"},
                 {"path", "/dev/shm/x"}});
  const grpc::Status local = ToGrpc(status);
  EXPECT_NE(local.error_message().find("cgroup /sys/fs/cgroup/a"), std::string::npos);
  const grpc::Status remote = ToGrpc(status, {.remote = true});
  EXPECT_EQ(remote.error_message(),
            "pools/a needs 7 bytes (limited by: memory cgroup (path) b); see (path), \"(path)\", "
            "spiffe://test/admin and zerocp.v1.AdminService/Audit");
  const Status details = Details(remote);
  const auto info = Only<google::rpc::ErrorInfo>(details);
  EXPECT_EQ(info.metadata().at("limitedBy"), "memory cgroup (path)");
  EXPECT_EQ(info.metadata().at("resource"), "pools/a");
  EXPECT_EQ(info.metadata().at("path"), "(path)");
  EXPECT_EQ(Only<google::rpc::QuotaFailure>(details).violations(0).description(),
            remote.error_message());
  EXPECT_EQ(remote.error_details().find("/sys"), std::string::npos);
}

TEST(GrpcError, TheWorstErrorFitsIntoHeaders) {
  std::vector<shm::Violation> violations(100, {std::string(100, 'f'), std::string(300, 'd')});
  for (const absl::Status& worst :
       {InvalidArgument(violations, "pool."),
        MakeError(Reason::kSegmentFull, std::string(5000, 'm'),
                  {{"resource", std::string(1500, 'r')}}),
        MakeError(Reason::kSessionNotFound, "x", {{"resource", std::string(100'000, 'r')}})}) {
    const grpc::Status status = ToGrpc(worst);
    EXPECT_LE(status.error_message().size(), kMaxMessageBytes);
    EXPECT_LE(status.error_details().size(), kMaxStatusBytes);
    Only<google::rpc::ErrorInfo>(Details(status));
    Only<google::rpc::RequestInfo>(Details(status));
  }
}

}  // namespace
}  // namespace zerocp
