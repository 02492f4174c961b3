#include "server/build_info.h"

namespace zerocp {

const char kVersion[] = ZEROCP_VERSION;
const char kGitCommit[] = ZEROCP_GIT_COMMIT;

}  // namespace zerocp
