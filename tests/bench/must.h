// What a benchmark does when a call fails.
#pragma once

#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace zerocp::bench {

[[noreturn]] inline void Die(const char* what, const std::string& message) {
  std::fprintf(stderr, "zerocp_bench: %s: %s\n", what, message.c_str());
  std::exit(1);
}

// The value; ends the program with the message if there is none.
template <class T>
T Must(Result<T> result, const char* what) {
  if (!result) Die(what, result.message());
  return std::move(*result);
}

}  // namespace zerocp::bench
