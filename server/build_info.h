// What this build is.
#pragma once

namespace zerocp {

extern const char kVersion[];    // "1.2.3"
extern const char kGitCommit[];  // short revision; "unknown" if it was not built from a checkout

}  // namespace zerocp
