#include "server/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "shm/unique_fd.h"

namespace zerocp {

using shm::Code;
using shm::Result;
using shm::Status;
using shm::UniqueFd;

Result<std::string> ReadWholeFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    return Status::FromErrno(errno == ENOENT ? Code::kNotFound : Code::kDenied,
                             "cannot open " + path, errno);
  }
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return Status(Code::kDenied, path + " is not a regular file");
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::FromErrno(Code::kDenied, "cannot read " + path, errno);
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kMaxFileBytes) {
      return Status(Code::kLimit,
                    path + " has more than " + std::to_string(kMaxFileBytes) + " bytes");
    }
  }
}

Status SyncDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0)
    return Status::FromErrno(Code::kDenied, "cannot sync " + directory, errno);
  return Status();
}

Result<FileReplacement> FileReplacement::Prepare(const std::string& path, std::string_view bytes) {
  char resolved[PATH_MAX];
  struct stat old {};
  const bool exists = realpath(path.c_str(), resolved) != nullptr && stat(resolved, &old) == 0;
  FileReplacement file(exists ? resolved : path);
  const std::string name = file.new_path();
  unlink(name.c_str());
  const UniqueFd fd(open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    file.path_.clear();
    return Status::FromErrno(Code::kDenied, "cannot create " + name, errno);
  }
  if (exists) {
    if (old.st_uid != geteuid() || old.st_gid != getegid())
      (void)!fchown(fd.get(), old.st_uid, old.st_gid);  // only root may
    if (fchmod(fd.get(), old.st_mode & 0777) != 0)
      return Status::FromErrno(Code::kDenied, "cannot chmod " + name, errno);
  }
  while (!bytes.empty()) {
    const ssize_t written = write(fd.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Status::FromErrno(Code::kNoMemory, "cannot write " + name, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  if (fsync(fd.get()) != 0) return Status::FromErrno(Code::kNoMemory, "cannot sync " + name, errno);
  return file;
}

FileReplacement::FileReplacement(FileReplacement&& other) noexcept
    : path_(std::exchange(other.path_, {})) {}

FileReplacement::~FileReplacement() {
  if (!path_.empty()) unlink(new_path().c_str());
}

Status FileReplacement::Commit() {
  if (rename(new_path().c_str(), path_.c_str()) != 0)
    return Status::FromErrno(Code::kDenied, "cannot replace " + path_, errno);
  return SyncDirectoryOf(std::exchange(path_, {}));
}

}  // namespace zerocp
