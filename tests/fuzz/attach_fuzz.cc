// The attach protocol: what the daemon's listener reads of a client, and what a client reads of its
// daemon. An input: which of them (one byte), and what it gets.
#include "tests/fuzz/attach_fuzz.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  using namespace zerocp::fuzz;
  std::vector<std::string> seeds;
  for (const std::string& seed : ListenerSeeds()) seeds.push_back(BytesOf(uint8_t{0}) + seed);
  for (const std::string& seed : ConnectionSeeds()) seeds.push_back(BytesOf(uint8_t{1}) + seed);
  WriteSeeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocp::fuzz;
  Input input(data, size);
  if (input.Next<uint8_t>() % 2 == 0) {
    ToListener(input);
  } else {
    ToConnection(input);
  }
  return 0;
}
