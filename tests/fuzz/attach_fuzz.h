// The two ends of the attach protocol, each with a peer that an input makes.
#pragma once

#include <string>
#include <vector>

#include "tests/fuzz/live_instance.h"

namespace zerocp::fuzz {

void ToListener(Input& input);
std::vector<std::string> ListenerSeeds();

void ToConnection(Input& input);
std::vector<std::string> ConnectionSeeds();

}  // namespace zerocp::fuzz
