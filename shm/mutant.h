// Seeded bugs, to prove that the checks can fail.
//
// A build with -DZEROCP_MUTANTS has the bugs of tests/mutants.txt, and each process of it the one
// whose number is in its environment (ZEROCP_MUTANT), if any. A normal build has none.
#pragma once

#ifdef ZEROCP_MUTANTS
#include <cstdlib>
#endif

namespace zerocp {

#ifdef ZEROCP_MUTANTS
inline const int kMutant = [] {
  const char* number = std::getenv("ZEROCP_MUTANT");
  return number == nullptr ? 0 : std::atoi(number);
}();
inline bool Mutant(int number) { return kMutant == number; }
#else
constexpr bool Mutant(int) { return false; }
#endif

}  // namespace zerocp
