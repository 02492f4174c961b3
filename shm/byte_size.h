// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string_view>

#include "shm/status.h"

namespace zerocp::shm {

// "4096", "64KiB", "1M": bytes in powers of 1024. kInvalid says what would be right.
Result<uint64_t> ParseBytes(std::string_view text);

}  // namespace zerocp::shm
