// Seeded bugs, to prove that the checks can fail.
//
// A build with -DZEROCP_MUTANT=n has bug n of tests/mutants.txt and no other; a normal build has
// none.
#pragma once

#ifndef ZEROCP_MUTANT
#define ZEROCP_MUTANT 0
#endif

namespace zerocp {

constexpr bool Mutant(int number) { return ZEROCP_MUTANT == number; }

}  // namespace zerocp
