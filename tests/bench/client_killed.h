// Any work while a client that holds chunks is killed every 100 ms, and its death recovered, beside
// quiet.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// In other processes of this program: the one that kills, and those that are killed.
int RunKiller(const std::string& runtime_dir, const std::string& pool, int counts_fd);
int RunKilled(const std::string& runtime_dir, const std::string& pool, int counts_fd);

// The subject under kills, and as it is. REQUIRES: a pool `bench` with 1,000 chunks to spare.
std::vector<Subject> UnderKills(const Site& site, const Subject& quiet);

}  // namespace zerocp::bench
