// The one table of what can go wrong: reason -> canonical code, name and google.rpc detail.
//
// Managers return absl::Status made here; the details travel as payloads (type URL -> serialized
// google.rpc message), so that only server/grpc_error.h knows gRPC. Every error carries one
// ErrorInfo{reason, domain "zerocp", metadata} and at most one detail of each other type. What is
// dynamic in the message is repeated in the metadata, for programs.
//
// Threads. All functions from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "shm/mem_pool_config.h"
#include "shm/memory_budget.h"
#include "shm/status.h"

namespace zerocp {

inline constexpr char kErrorDomain[] = "zerocp";
// A peer accepts 8 KiB of headers by default, and they carry an error twice.
inline constexpr size_t kMaxFieldViolations = 16;
inline constexpr size_t kMaxMessageBytes = 512;

enum class Reason {
  kFieldInvalid,           // INVALID_ARGUMENT
  kPageTokenInvalid,       // INVALID_ARGUMENT
  kPoolNotFound,           // NOT_FOUND
  kChannelNotFound,        // NOT_FOUND
  kSessionNotFound,        // NOT_FOUND
  kSubscriberNotFound,     // NOT_FOUND
  kPoolAlreadyExists,      // ALREADY_EXISTS
  kChannelAlreadyExists,   // ALREADY_EXISTS
  kPoolLimit,              // RESOURCE_EXHAUSTED
  kChannelLimit,           // RESOURCE_EXHAUSTED
  kSessionLimit,           // RESOURCE_EXHAUSTED, worth another try
  kWatcherLimit,           // RESOURCE_EXHAUSTED, worth another try
  kSegmentFull,            // RESOURCE_EXHAUSTED: a segment's address range
  kShmFilesystemFull,      // RESOURCE_EXHAUSTED: the segment directory's file system
  kMemoryLimit,            // RESOURCE_EXHAUSTED: a memory cgroup or MemAvailable
  kLayoutVersionMismatch,  // FAILED_PRECONDITION
  kSignalNotPermitted,     // FAILED_PRECONDITION: the daemon cannot kill the process
  kStillAttached,          // DEADLINE_EXCEEDED: the process has not detached
  kChannelInUse,           // FAILED_PRECONDITION
  kPoolInUse,              // FAILED_PRECONDITION: by a channel, or by who holds chunks
  kPoolDraining,           // FAILED_PRECONDITION: it is being deleted
  kPoolShrinkUnsupported,  // FAILED_PRECONDITION: a pool only grows
  kDeletionNotAllowed,     // FAILED_PRECONDITION: a configuration without what is there
  kConfigFileUnusable,     // FAILED_PRECONDITION: none, or not as it should be
  kEtagMismatch,           // ABORTED: the resource has changed since it was read
  kRoleRequired,           // PERMISSION_DENIED: the caller's role is too low
  kOperationInProgress,    // ABORTED: the resource is being created, worth another try
  kServerDraining,         // UNAVAILABLE, worth another try
  kSegmentCorrupt,         // DATA_LOSS
  kInternal,               // INTERNAL: a bug
};

// Key -> value of an ErrorInfo. The key `resource` also becomes the name in the ResourceInfo, or
// the subject of the QuotaFailure or PreconditionFailure.
using ErrorMetadata = std::map<std::string, std::string>;

// An error of the reason's code with the reason's details. A message is cut to kMaxMessageBytes.
absl::Status MakeError(Reason reason, std::string_view message, ErrorMetadata metadata = {});

// ETAG_MISMATCH if `wanted` is neither empty nor `actual`, the etag of `resource` as it is now.
absl::Status CheckEtag(std::string_view resource, std::string_view actual, std::string_view wanted);

// INVALID_ARGUMENT with a BadRequest that lists every violation, up to kMaxFieldViolations;
// `prefix`
// ("pool.") goes before each field. REQUIRES: `violations` is not empty.
absl::Status InvalidArgument(const std::vector<shm::Violation>& violations,
                             std::string_view prefix = {}, Reason reason = Reason::kFieldInvalid);

// The error for memory that a resource ("pools/video") needs and the system does not have.
absl::Status OutOfMemory(std::string_view resource, uint64_t requested_bytes,
                         const shm::MemoryBudget& budget);

// What an operation of shm worked on: decides between POOL_NOT_FOUND and CHANNEL_NOT_FOUND and the
// like.
enum class Resource { kPool, kChannel };

// Total: codes that no control call can meet become INTERNAL. `name` is the resource's name,
// "pools/video". OK stays OK.
absl::Status FromShm(const shm::Status& status, Resource resource, std::string_view name);

// The reason of an error made here; none for OK and for foreign errors.
std::optional<std::string> ReasonOf(const absl::Status& status);
// The text of a reason in an ErrorInfo, "POOL_NOT_FOUND".
std::string_view ReasonName(Reason reason);

// Type URLs of all details, the ErrorInfo first: the order in which they are sent.
const std::vector<std::string_view>& ErrorDetailUrls();

}  // namespace zerocp
