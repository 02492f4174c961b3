#include "shm/runtime_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace zerocp::shm {
namespace {

std::string TmpRuntimeDir() { return "/tmp/zerocp-" + std::to_string(geteuid()); }

// $XDG_RUNTIME_DIR/zerocp; empty without the variable.
std::string XdgRuntimeDir() {
  const char* xdg = std::getenv("XDG_RUNTIME_DIR");
  return xdg != nullptr && *xdg == '/' ? std::string(xdg) + "/zerocp" : std::string();
}

// /tmp is everybody's: a directory there that is not this user's own, or that others may write to,
// is a trap. True if there is none.
bool IsOwnOrAbsent(const std::string& dir) {
  struct stat info {};
  if (lstat(dir.c_str(), &info) != 0) return true;
  return S_ISDIR(info.st_mode) && info.st_uid == geteuid() && (info.st_mode & 022) == 0;
}

}  // namespace

std::string SystemRuntimeDir() { return "/run/zerocp"; }

std::string UserRuntimeDir() {
  std::string xdg = XdgRuntimeDir();
  return xdg.empty() ? TmpRuntimeDir() : xdg;
}

std::vector<std::string> CandidateRuntimeDirs(const std::string& wanted) {
  if (!wanted.empty()) return {wanted};
  if (const char* variable = std::getenv("ZEROCP_RUNTIME_DIR");
      variable != nullptr && *variable != '\0') {
    return {variable};
  }
  std::vector<std::string> dirs = {SystemRuntimeDir()};
  if (std::string xdg = XdgRuntimeDir(); !xdg.empty()) dirs.push_back(std::move(xdg));
  if (IsOwnOrAbsent(TmpRuntimeDir())) dirs.push_back(TmpRuntimeDir());
  return dirs;
}

std::string InstanceNameFor(const std::string& runtime_dir) {
  if (runtime_dir == SystemRuntimeDir()) return "";
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (char c : runtime_dir) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  char text[20];
  std::snprintf(text, sizeof(text), "d%016llx", static_cast<unsigned long long>(hash));
  return text;
}

}  // namespace zerocp::shm
