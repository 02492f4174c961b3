// The name of a shared chunk, good in every process of an instance.
#pragma once

#include <zerocp.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace zerocp {

// 16 bytes, to be sent by any means; not a secret. It keeps nothing alive: whoever made it keeps
// the sample until the receiver has opened it. A handle to a chunk that was released is known to be
// stale.
struct Handle {
  std::uint64_t instance = 0;
  std::uint64_t chunk = 0;

  // "zc1-" and 32 hexadecimal digits: for JSON, HTTP headers, gRPC metadata.
  std::string ToString() const {
    std::string text(kPrefix);
    for (std::uint64_t word : {instance, chunk}) {
      for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(word >> shift) & 15];
    }
    return text;
  }

  // The handle that ToString() wrote; nullopt for any other text.
  static std::optional<Handle> Parse(std::string_view text) {
    if (text.size() != kPrefix.size() + 32 || !text.starts_with(kPrefix)) return std::nullopt;
    text.remove_prefix(kPrefix.size());
    std::uint64_t words[2] = {0, 0};
    for (std::size_t i = 0; i < 32; ++i) {
      const std::size_t digit = kDigits.find(text[i]);
      if (digit == std::string_view::npos) return std::nullopt;
      words[i / 16] = (words[i / 16] << 4) | digit;
    }
    return Handle{words[0], words[1]};
  }

  friend bool operator==(const Handle&, const Handle&) = default;

 private:
  static constexpr std::string_view kPrefix = "zc1-";
  static constexpr std::string_view kDigits = "0123456789abcdef";
};

static_assert(sizeof(Handle) == 16);

}  // namespace zerocp
