// The text of a thread's last failure: what zerocp_last_error() returns.
#pragma once

#include <string>

#include "client/include/zerocp.h"
#include "shm/status.h"

namespace zerocp::internal {

// Keeps the text for this thread and returns the code.
zerocp_code Fail(shm::Code code, std::string text);
zerocp_code Fail(const shm::Status& status);
// The same with a fixed text for the code; for codes that are part of normal work.
zerocp_code Fail(shm::Code code);

const char* LastError();

}  // namespace zerocp::internal
