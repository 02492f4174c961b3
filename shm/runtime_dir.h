// Where an instance's sockets are: the rules that daemon and clients share.
#pragma once

#include <string>
#include <vector>

namespace zerocp::shm {

inline constexpr char kAdminSocket[] = "admin.sock";
inline constexpr char kClientSocket[] = "client.sock";
inline constexpr char kAttachSocket[] = "attach.sock";
inline constexpr char kLockFile[] = "lock";

// The directory of the system service.
std::string SystemRuntimeDir();  // "/run/zerocp"
// The directory of this user: $XDG_RUNTIME_DIR/zerocp, else /tmp/zerocp-<uid>.
std::string UserRuntimeDir();
// Directories where a client looks, in order: `wanted` if it is not empty, else $ZEROCP_RUNTIME_DIR
// if set, else the system's, $XDG_RUNTIME_DIR/zerocp, /tmp/zerocp-<uid>. The last
// only if it is this user's own and nobody else may write to it.
std::vector<std::string> CandidateRuntimeDirs(const std::string& wanted);

// The instance name of a runtime directory, whose path is resolved (realpath): empty for the
// system's, else derived from the path, so that two directories never share segments.
std::string InstanceNameFor(const std::string& runtime_dir);

}  // namespace zerocp::shm
