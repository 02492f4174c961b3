#include "client/internal/last_error.h"

#include <utility>

namespace zerocp::internal {
namespace {

thread_local std::string t_text;

const char* FixedText(shm::Code code) {
  switch (code) {
    case shm::Code::kEndOfStream:
      return "end of stream: every publisher closed in order and nothing is left to take";
    case shm::Code::kPublisherDied:
      return "a publisher died, and nothing is left to take";
    case shm::Code::kChannelDeleted:
      return "the channel was deleted; close what belongs to it";
    case shm::Code::kStale:
      return "the handle's chunk was released or used again since";
    case shm::Code::kHoldersFull:
      return "the chunk has as many holders as its pool allows (max_holders_per_chunk)";
    case shm::Code::kDamaged:
      return "shared memory holds something impossible; what it belongs to was given up; "
             "`zerocp audit` says more";
    default:
      return "";
  }
}

}  // namespace

zerocp_code Fail(shm::Code code, std::string text) {
  t_text = std::move(text);
  return static_cast<zerocp_code>(code);
}

zerocp_code Fail(const shm::Status& status) { return Fail(status.code(), status.message()); }

zerocp_code Fail(shm::Code code) {
  if (code != shm::Code::kTimeout) t_text = FixedText(code);
  return static_cast<zerocp_code>(code);
}

const char* LastError() { return t_text.c_str(); }

}  // namespace zerocp::internal
