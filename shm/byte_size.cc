#include "shm/byte_size.h"

#include <algorithm>
#include <charconv>
#include <string>

namespace zerocp::shm {

Result<uint64_t> ParseBytes(std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string_view suffix = text.substr(digits);
  const size_t unit = suffix.empty() ? std::string_view::npos : kUnits.find(suffix.front());
  const bool known = suffix.empty() || (unit != std::string_view::npos &&
                                        (suffix.size() == 1 || suffix.substr(1) == "iB"));
  const unsigned shift =
      unit == std::string_view::npos ? 0 : static_cast<unsigned>(10 * (unit + 1));
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, value);
  if (!known || digits == 0 || error != std::errc() || value > UINT64_MAX >> shift) {
    return Status(Code::kInvalid, "\"" + std::string(text) +
                                      "\" is not a size: bytes, or a number with K, M, G or T "
                                      "(KiB, MiB, GiB, TiB)");
  }
  (void)end;
  return value << shift;
}

}  // namespace zerocp::shm
