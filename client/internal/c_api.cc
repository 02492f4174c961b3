// Codes and errors of zerocp.h.
#include "client/internal/c_api.h"

#include <bit>

using zerocp::shm::Code;

static_assert(ZEROCP_OK == static_cast<int>(Code::kOk));
static_assert(ZEROCP_TIMEOUT == static_cast<int>(Code::kTimeout));
static_assert(ZEROCP_END_OF_STREAM == static_cast<int>(Code::kEndOfStream));
static_assert(ZEROCP_PUBLISHER_DIED == static_cast<int>(Code::kPublisherDied));
static_assert(ZEROCP_DETACHED == static_cast<int>(Code::kDetached));
static_assert(ZEROCP_CHANNEL_DELETED == static_cast<int>(Code::kChannelDeleted));
static_assert(ZEROCP_INSTANCE_LOST == static_cast<int>(Code::kInstanceLost));
static_assert(ZEROCP_EXHAUSTED == static_cast<int>(Code::kExhausted));
static_assert(ZEROCP_TOO_LARGE == static_cast<int>(Code::kTooLarge));
static_assert(ZEROCP_HELD_LIMIT == static_cast<int>(Code::kHeldLimit));
static_assert(ZEROCP_HOLDERS_FULL == static_cast<int>(Code::kHoldersFull));
static_assert(ZEROCP_NOT_FOUND == static_cast<int>(Code::kNotFound));
static_assert(ZEROCP_TYPE_MISMATCH == static_cast<int>(Code::kTypeMismatch));
static_assert(ZEROCP_STALE == static_cast<int>(Code::kStale));
static_assert(ZEROCP_DENIED == static_cast<int>(Code::kDenied));
static_assert(ZEROCP_INVALID == static_cast<int>(Code::kInvalid));
static_assert(ZEROCP_UNAVAILABLE == static_cast<int>(Code::kUnavailable));
static_assert(ZEROCP_VERSION_MISMATCH == static_cast<int>(Code::kVersionMismatch));
static_assert(ZEROCP_DAMAGED == static_cast<int>(Code::kDamaged));
static_assert(ZEROCP_LIMIT == static_cast<int>(Code::kLimit));
static_assert(ZEROCP_USER_HEADER_BYTES == zerocp::shm::kUserHeaderBytes);
static_assert(sizeof(zerocp_region::pool) == zerocp::shm::kNameBytes);
static_assert(ZEROCP_MAX_POOLS == zerocp::shm::kMaxPools);
static_assert(ZEROCP_TOKEN_BYTES == zerocp::shm::kTokenBytes);
// Part of the ABI.
static_assert(sizeof(zerocp_loan) == 64 && sizeof(zerocp_sample) == 72 &&
              sizeof(zerocp_handle) == 16);

namespace zerocp::internal {

zerocp_code FailClosed(ClientCore& core) {
  if (core.state() == ClientCore::kLost) {
    return Fail(Code::kInstanceLost,
                "the daemon came back with other segments: what this client has can be read and "
                "released, and reaches nobody; connect again");
  }
  if (core.state() == ClientCore::kRevoked) {
    core.session().FlushThisThread();
    return Fail(Code::kDetached,
                "an operator ended this session (TerminateSession): release what this client has "
                "and close it; connect again if that makes sense");
  }
  return Fail(Code::kUnavailable,
              "this process is the child of a fork, which does not have the memory of its parent: "
              "connect again after fork");
}

zerocp_code FailReadOnly() {
  return Fail(Code::kDenied,
              "this client is read-only: it cannot loan or publish. Connect without read_only, or "
              "create the session with PAYLOAD_ACCESS_READ_WRITE");
}

zerocp_code FailHeldLimit(ClientCore& core) {
  return Fail(Code::kHeldLimit, "this session has " + std::to_string(core.session().held()) +
                                    " loans and samples, and the daemon allows a session " +
                                    std::to_string(core.session().held_limit()) +
                                    " at once (zerocpd --max-chunks-per-session): release or "
                                    "publish one");
}

zerocp_code FailWait(ClientCore& core, Code code) {
  return core.open() ? Fail(code) : FailClosed(core);
}

shm::Status CheckMessage(const ClientCore& core, const zerocp_join_options* options,
                         uint32_t pool_index) {
  const PoolView* pool = core.session().manager().pool(pool_index);
  if (pool == nullptr) return shm::Status(Code::kDamaged, "the channel's pool does not exist");
  const size_t bytes = Option(options, &zerocp_join_options::message_bytes);
  if (bytes > pool->chunk_size_bytes) {
    return shm::Status(Code::kTooLarge, "a message has " + std::to_string(bytes) +
                                            " bytes (message_bytes), the chunks of pool '" +
                                            pool->name + "' have " +
                                            std::to_string(pool->chunk_size_bytes));
  }
  const size_t alignment = Option(options, &zerocp_join_options::message_alignment);
  if (alignment != 0 && (!std::has_single_bit(alignment) || alignment > pool->alignment_bytes)) {
    return shm::Status(Code::kInvalid,
                       "messages are to be aligned to " + std::to_string(alignment) +
                           " bytes (message_alignment), which must be a power of two; pool '" +
                           pool->name + "' aligns its chunks to " +
                           std::to_string(pool->alignment_bytes) +
                           ": create one with that chunk_alignment_bytes");
  }
  return {};
}

}  // namespace zerocp::internal

const char* zerocp_last_error(void) { return zerocp::internal::LastError(); }

const char* zerocp_version(void) { return ZEROCP_VERSION; }

const char* zerocp_code_name(zerocp_code code) {
  switch (code) {
    case ZEROCP_OK:
      return "OK";
    case ZEROCP_TIMEOUT:
      return "TIMEOUT";
    case ZEROCP_END_OF_STREAM:
      return "END_OF_STREAM";
    case ZEROCP_PUBLISHER_DIED:
      return "PUBLISHER_DIED";
    case ZEROCP_DETACHED:
      return "DETACHED";
    case ZEROCP_INSTANCE_LOST:
      return "INSTANCE_LOST";
    case ZEROCP_EXHAUSTED:
      return "EXHAUSTED";
    case ZEROCP_TOO_LARGE:
      return "TOO_LARGE";
    case ZEROCP_HELD_LIMIT:
      return "HELD_LIMIT";
    case ZEROCP_HOLDERS_FULL:
      return "HOLDERS_FULL";
    case ZEROCP_NOT_FOUND:
      return "NOT_FOUND";
    case ZEROCP_TYPE_MISMATCH:
      return "TYPE_MISMATCH";
    case ZEROCP_STALE:
      return "STALE";
    case ZEROCP_DENIED:
      return "DENIED";
    case ZEROCP_INVALID:
      return "INVALID";
    case ZEROCP_UNAVAILABLE:
      return "UNAVAILABLE";
    case ZEROCP_VERSION_MISMATCH:
      return "VERSION_MISMATCH";
    case ZEROCP_DAMAGED:
      return "DAMAGED";
    case ZEROCP_LIMIT:
      return "LIMIT";
    case ZEROCP_CHANNEL_DELETED:
      return "CHANNEL_DELETED";
    default:
      return "UNKNOWN";
  }
}
