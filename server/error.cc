#include "server/error.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/cord.h"

namespace zerocp {
namespace {

// The google.rpc message that goes with the ErrorInfo.
enum class Detail { kNone, kBadRequest, kResourceInfo, kPreconditionFailure, kQuotaFailure };

struct Row {
  Reason reason;
  absl::StatusCode code;
  const char* name;
  Detail detail;
  // Type of the ResourceInfo or of the PreconditionFailure.
  const char* type;
  // Seconds of the RetryInfo; 0: another try is no use.
  uint8_t retry_seconds;
};

using absl::StatusCode;

constexpr char kPoolType[] = "zerocp.v1.Pool";
constexpr char kChannelType[] = "zerocp.v1.Channel";
constexpr char kSessionType[] = "zerocp.v1.Session";
constexpr char kSubscriberType[] = "zerocp.v1.Subscriber";

constexpr std::array kTable = {
    Row{Reason::kFieldInvalid, StatusCode::kInvalidArgument, "FIELD_INVALID", Detail::kBadRequest,
        "", 0},
    Row{Reason::kPageTokenInvalid, StatusCode::kInvalidArgument, "PAGE_TOKEN_INVALID",
        Detail::kBadRequest, "", 0},
    Row{Reason::kPoolNotFound, StatusCode::kNotFound, "POOL_NOT_FOUND", Detail::kResourceInfo,
        kPoolType, 0},
    Row{Reason::kChannelNotFound, StatusCode::kNotFound, "CHANNEL_NOT_FOUND", Detail::kResourceInfo,
        kChannelType, 0},
    Row{Reason::kSessionNotFound, StatusCode::kNotFound, "SESSION_NOT_FOUND", Detail::kResourceInfo,
        kSessionType, 0},
    Row{Reason::kSubscriberNotFound, StatusCode::kNotFound, "SUBSCRIBER_NOT_FOUND",
        Detail::kResourceInfo, kSubscriberType, 0},
    Row{Reason::kPoolAlreadyExists, StatusCode::kAlreadyExists, "POOL_ALREADY_EXISTS",
        Detail::kResourceInfo, kPoolType, 0},
    Row{Reason::kChannelAlreadyExists, StatusCode::kAlreadyExists, "CHANNEL_ALREADY_EXISTS",
        Detail::kResourceInfo, kChannelType, 0},
    Row{Reason::kPoolLimit, StatusCode::kResourceExhausted, "POOL_LIMIT", Detail::kQuotaFailure, "",
        0},
    Row{Reason::kChannelLimit, StatusCode::kResourceExhausted, "CHANNEL_LIMIT",
        Detail::kQuotaFailure, "", 0},
    Row{Reason::kSessionLimit, StatusCode::kResourceExhausted, "SESSION_LIMIT",
        Detail::kQuotaFailure, "", 1},
    Row{Reason::kWatcherLimit, StatusCode::kResourceExhausted, "WATCHER_LIMIT",
        Detail::kQuotaFailure, "", 1},
    Row{Reason::kSegmentFull, StatusCode::kResourceExhausted, "SEGMENT_FULL", Detail::kQuotaFailure,
        "", 0},
    Row{Reason::kShmFilesystemFull, StatusCode::kResourceExhausted, "SHM_FILESYSTEM_FULL",
        Detail::kQuotaFailure, "", 0},
    Row{Reason::kMemoryLimit, StatusCode::kResourceExhausted, "MEMORY_LIMIT", Detail::kQuotaFailure,
        "", 0},
    Row{Reason::kLayoutVersionMismatch, StatusCode::kFailedPrecondition, "LAYOUT_VERSION_MISMATCH",
        Detail::kPreconditionFailure, "LAYOUT_VERSION", 0},
    Row{Reason::kSignalNotPermitted, StatusCode::kFailedPrecondition, "SIGNAL_NOT_PERMITTED",
        Detail::kPreconditionFailure, "SIGNAL", 0},
    Row{Reason::kStillAttached, StatusCode::kDeadlineExceeded, "STILL_ATTACHED", Detail::kNone, "",
        0},
    Row{Reason::kChannelInUse, StatusCode::kFailedPrecondition, "CHANNEL_IN_USE",
        Detail::kPreconditionFailure, "CHANNEL_IN_USE", 0},
    Row{Reason::kPoolInUse, StatusCode::kFailedPrecondition, "POOL_IN_USE",
        Detail::kPreconditionFailure, "POOL_IN_USE", 0},
    Row{Reason::kPoolDraining, StatusCode::kFailedPrecondition, "POOL_DRAINING",
        Detail::kPreconditionFailure, "POOL_STATE", 0},
    Row{Reason::kPoolShrinkUnsupported, StatusCode::kFailedPrecondition, "POOL_SHRINK_UNSUPPORTED",
        Detail::kPreconditionFailure, "POOL_SIZE", 0},
    Row{Reason::kDeletionNotAllowed, StatusCode::kFailedPrecondition, "DELETION_NOT_ALLOWED",
        Detail::kPreconditionFailure, "DELETION", 0},
    Row{Reason::kConfigFileUnusable, StatusCode::kFailedPrecondition, "CONFIG_FILE_UNUSABLE",
        Detail::kPreconditionFailure, "CONFIG_FILE", 0},
    Row{Reason::kEtagMismatch, StatusCode::kAborted, "ETAG_MISMATCH", Detail::kNone, "", 0},
    Row{Reason::kRoleRequired, StatusCode::kPermissionDenied, "ROLE_REQUIRED", Detail::kNone, "",
        0},
    Row{Reason::kOperationInProgress, StatusCode::kAborted, "OPERATION_IN_PROGRESS", Detail::kNone,
        "", 1},
    Row{Reason::kServerDraining, StatusCode::kUnavailable, "SERVER_DRAINING", Detail::kNone, "", 1},
    Row{Reason::kSegmentCorrupt, StatusCode::kDataLoss, "SEGMENT_CORRUPT", Detail::kNone, "", 0},
    Row{Reason::kInternal, StatusCode::kInternal, "INTERNAL", Detail::kNone, "", 0},
};

constexpr bool TableIsInOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].reason) != i) return false;
  }
  return static_cast<size_t>(Reason::kInternal) + 1 == kTable.size();
}
static_assert(TableIsInOrder(), "one row per reason, in the order of the enumeration");

const Row& RowOf(Reason reason) { return kTable[static_cast<size_t>(reason)]; }

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kResourceInfoUrl[] = "type.googleapis.com/google.rpc.ResourceInfo";
constexpr char kPreconditionFailureUrl[] = "type.googleapis.com/google.rpc.PreconditionFailure";
constexpr char kQuotaFailureUrl[] = "type.googleapis.com/google.rpc.QuotaFailure";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// Protobuf's wire format for what the details are made of: strings and messages. Written by hand,
// so that the managers and their tests under ThreadSanitizer need no Protobuf.
class Message {
 public:
  Message& Add(int field, std::string_view bytes) {
    bytes_.push_back(static_cast<char>(field << 3 | 2));
    size_t size = bytes.size();
    for (; size >= 0x80; size >>= 7) bytes_.push_back(static_cast<char>(size | 0x80));
    bytes_.push_back(static_cast<char>(size));
    bytes_.append(bytes);
    return *this;
  }
  Message& Add(int field, const Message& message) { return Add(field, message.bytes_); }
  // REQUIRES: number < 128.
  Message& AddNumber(int field, uint8_t number) {
    bytes_.push_back(static_cast<char>(field << 3));
    bytes_.push_back(static_cast<char>(number));
    return *this;
  }
  absl::Cord ToCord() const { return absl::Cord(bytes_); }

 private:
  std::string bytes_;
};

Message ErrorInfo(const Row& row, const ErrorMetadata& metadata) {
  Message info;
  info.Add(1, row.name).Add(2, kErrorDomain);
  for (const auto& [key, value] : metadata) info.Add(3, Message().Add(1, key).Add(2, value));
  return info;
}

void SetDetail(absl::Status& status, const Row& row, std::string_view resource) {
  const std::string_view message(status.message().data(), status.message().size());
  switch (row.detail) {
    case Detail::kNone:
    case Detail::kBadRequest:
      break;
    case Detail::kResourceInfo:
      status.SetPayload(kResourceInfoUrl,
                        Message().Add(1, row.type).Add(2, resource).Add(4, message).ToCord());
      break;
    case Detail::kPreconditionFailure:
      status.SetPayload(
          kPreconditionFailureUrl,
          Message().Add(1, Message().Add(1, row.type).Add(2, resource).Add(3, message)).ToCord());
      break;
    case Detail::kQuotaFailure:
      status.SetPayload(kQuotaFailureUrl,
                        Message().Add(1, Message().Add(1, resource).Add(2, message)).ToCord());
      break;
  }
}

// At most kMaxMessageBytes, and never half a character.
absl::string_view Cut(std::string_view text) {
  size_t size = std::min(text.size(), kMaxMessageBytes);
  if (size < text.size()) {
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  }
  return {text.data(), size};
}

}  // namespace

absl::Status MakeError(Reason reason, std::string_view message, ErrorMetadata metadata) {
  const Row& row = RowOf(reason);
  absl::Status status(row.code, Cut(message));
  status.SetPayload(kErrorInfoUrl, ErrorInfo(row, metadata).ToCord());
  SetDetail(status, row, metadata["resource"]);
  if (row.retry_seconds != 0) {
    const Message delay = Message().AddNumber(1, row.retry_seconds);
    status.SetPayload(kRetryInfoUrl, Message().Add(1, delay).ToCord());
  }
  return status;
}

absl::Status InvalidArgument(const std::vector<shm::Violation>& violations, std::string_view prefix,
                             Reason reason) {
  std::string text;
  Message bad_request;
  size_t listed = 0;
  for (const auto& [field, description] : violations) {
    if (++listed > kMaxFieldViolations) break;
    const std::string path = std::string(prefix) + field;
    bad_request.Add(1, Message().Add(1, path).Add(2, description));
    if (!text.empty()) text += "; ";
    text.append(path).append(" ").append(description);
  }
  if (violations.size() > kMaxFieldViolations) {
    text += "; and " + std::to_string(violations.size() - kMaxFieldViolations) + " more";
  }
  absl::Status status = MakeError(reason, text);
  status.SetPayload(kBadRequestUrl, bad_request.ToCord());
  return status;
}

absl::Status CheckEtag(std::string_view resource, std::string_view actual,
                       std::string_view wanted) {
  if (wanted.empty() || wanted == actual) return absl::OkStatus();
  return MakeError(Reason::kEtagMismatch,
                   std::string(resource) + " has etag " + std::string(actual) + ", not " +
                       std::string(wanted) +
                       ": it has changed since it was read; read it again, then decide",
                   {{"resource", std::string(resource)}, {"etag", std::string(actual)}});
}

absl::Status OutOfMemory(std::string_view resource, uint64_t requested_bytes,
                         const shm::MemoryBudget& budget) {
  const bool file_system = budget.limited_by.starts_with("file system");
  const std::string requested = std::to_string(requested_bytes);
  const std::string available = std::to_string(budget.available_bytes);
  return MakeError(file_system ? Reason::kShmFilesystemFull : Reason::kMemoryLimit,
                   std::string(resource) + " needs " + requested + " bytes of memory, " +
                       available + " are available (limited by: " + budget.limited_by +
                       "); ask for fewer or smaller chunks, or raise that limit",
                   {{"requestedBytes", requested},
                    {"availableBytes", available},
                    {"limitedBy", budget.limited_by},
                    {"resource", std::string(resource)}});
}

absl::Status FromShm(const shm::Status& status, Resource resource, std::string_view name) {
  const bool pool = resource == Resource::kPool;
  const ErrorMetadata metadata{{"resource", std::string(name)}};
  switch (status.code()) {
    case shm::Code::kOk:
      return absl::OkStatus();
    case shm::Code::kInvalid:
      return InvalidArgument({{pool ? "pool" : "channel", status.message()}});
    case shm::Code::kNotFound:
      return MakeError(pool ? Reason::kPoolNotFound : Reason::kChannelNotFound, status.message(),
                       metadata);
    case shm::Code::kAlreadyExists:
      return MakeError(pool ? Reason::kPoolAlreadyExists : Reason::kChannelAlreadyExists,
                       status.message(), metadata);
    case shm::Code::kLimit:
      return MakeError(pool ? Reason::kPoolLimit : Reason::kChannelLimit, status.message(),
                       metadata);
    case shm::Code::kNoMemory:
      return MakeError(Reason::kSegmentFull, status.message(), metadata);
    case shm::Code::kVersionMismatch:
      return MakeError(Reason::kLayoutVersionMismatch, status.message(), metadata);
    case shm::Code::kDamaged:
      return MakeError(Reason::kSegmentCorrupt, status.message(), metadata);
    case shm::Code::kTimeout:
    case shm::Code::kEndOfStream:
    case shm::Code::kPublisherDied:
    case shm::Code::kDetached:
    case shm::Code::kChannelDeleted:
    case shm::Code::kInstanceLost:
    case shm::Code::kExhausted:
    case shm::Code::kTooLarge:
    case shm::Code::kHeldLimit:
    case shm::Code::kHoldersFull:
    case shm::Code::kTypeMismatch:
    case shm::Code::kStale:
    case shm::Code::kDenied:
    case shm::Code::kUnavailable:
    case shm::Code::kInternal:
      break;
  }
  return MakeError(Reason::kInternal, std::string(name) + ": " + status.message(),
                   {{"resource", std::string(name)}});
}

std::optional<std::string> ReasonOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  if (!payload) return std::nullopt;
  const std::string bytes(*payload);  // begins with field 1, shorter than 128 bytes
  const auto size = static_cast<size_t>(static_cast<unsigned char>(bytes.at(1)));
  return bytes.substr(2, size);
}

std::string_view ReasonName(Reason reason) { return RowOf(reason).name; }

const std::vector<std::string_view>& ErrorDetailUrls() {
  static const std::vector<std::string_view> urls = {kErrorInfoUrl,    kBadRequestUrl,
                                                     kResourceInfoUrl, kPreconditionFailureUrl,
                                                     kQuotaFailureUrl, kRetryInfoUrl};
  return urls;
}

}  // namespace zerocp
