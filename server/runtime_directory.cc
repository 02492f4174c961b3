#include "server/runtime_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "shm/runtime_dir.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;
using shm::UniqueFd;

constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;
static_assert(kMaxSocketPath == 107);

std::string Octal(mode_t mode) {
  char text[16];
  std::snprintf(text, sizeof(text), "%04o", static_cast<unsigned>(mode & 07777));
  return text;
}

std::string FirstLine(int fd) {
  char text[32] = {};
  ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
  return got > 0 ? std::string(text, strcspn(text, "\n")) : std::string();
}

}  // namespace

Result<RuntimeDirectory> RuntimeDirectory::Open(const std::string& path, Kind kind) {
  const mode_t mode = kind == Kind::kSystem ? 0755 : 0700;
  if (mkdir(path.c_str(), 0700) == 0) {
    // Not by mkdir's argument: the umask would have its say.
    if (chmod(path.c_str(), mode) != 0)
      return Status::FromErrno(Code::kDenied, "cannot chmod " + path, errno);
  } else if (errno == ENOENT) {
    return Status(Code::kNotFound,
                  "cannot create the runtime directory " + path +
                      ": its parent does not exist; create it, or choose another --runtime-dir");
  } else if (errno != EEXIST) {
    return Status::FromErrno(Code::kDenied, "cannot create the runtime directory " + path, errno);
  }
  return OpenAndLock(path, kind);
}

Result<RuntimeDirectory> RuntimeDirectory::OpenExisting(const std::string& path, Kind kind) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 && errno == ENOENT) {
    return Status(Code::kNotFound, "there is no runtime directory " + path);
  }
  return OpenAndLock(path, kind);
}

Result<RuntimeDirectory> RuntimeDirectory::OpenAndLock(const std::string& path, Kind kind) {
  RuntimeDirectory directory;
  // Without a slash at the end, behind which O_NOFOLLOW would not see a symbolic link.
  directory.path_ = path.substr(0, path.find_last_not_of('/') + 1);
  if (directory.path_.empty()) return Status(Code::kInvalid, "/ cannot be the runtime directory");
  directory.directory_fd_ =
      UniqueFd(open(directory.path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.directory_fd_) {
    if (errno == ENOTDIR || errno == ELOOP) {
      return Status(Code::kDenied, path +
                                       " is not a directory (a symbolic link is not taken either): "
                                       "remove it, or choose another --runtime-dir");
    }
    return Status::FromErrno(Code::kDenied, "cannot open the runtime directory " + path, errno);
  }
  if (Status status = directory.Check(kind); !status.ok()) return status;
  if (Status status = directory.TakeLock(); !status.ok()) return status;
  return directory;
}

Status RuntimeDirectory::Check(Kind kind) {
  struct stat info {};
  if (fstat(directory_fd_.get(), &info) != 0) {
    return Status::FromErrno(Code::kDenied, "cannot look at " + path_, errno);
  }
  if (info.st_uid != geteuid()) {
    return Status(Code::kDenied,
                  "the runtime directory " + path_ + " belongs to uid " +
                      std::to_string(info.st_uid) + ", not to uid " + std::to_string(geteuid()) +
                      " of this process: run as its owner, or choose another --runtime-dir");
  }
  const mode_t excess = kind == Kind::kSystem ? 0022 : 0077;
  if ((info.st_mode & excess) != 0) {
    const char* wanted = kind == Kind::kSystem ? "0755" : "0700";
    return Status(Code::kDenied, "the runtime directory " + path_ + " has mode " +
                                     Octal(info.st_mode) + ", which lets others in: chmod " +
                                     wanted + " " + path_ + ", after a look at what is inside");
  }
  char resolved[PATH_MAX];
  if (realpath(path_.c_str(), resolved) == nullptr) {
    return Status::FromErrno(Code::kDenied, "cannot resolve " + path_, errno);
  }
  path_ = resolved;
  const size_t longest = path_.size() + 1 + strlen(shm::kClientSocket);
  if (longest > kMaxSocketPath) {
    return Status(Code::kInvalid,
                  "the runtime directory's path is too long: " + path_ + "/" + shm::kClientSocket +
                      " has " + std::to_string(longest) + " bytes, a socket's path at most " +
                      std::to_string(kMaxSocketPath) + "; choose a shorter --runtime-dir");
  }
  return Status();
}

Status RuntimeDirectory::TakeLock() {
  const std::string file = File(shm::kLockFile);
  for (;;) {
    lock_fd_ = UniqueFd(openat(directory_fd_.get(), shm::kLockFile,
                               O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_fd_)
      return Status::FromErrno(Code::kDenied, "cannot open the lock file " + file, errno);
    if (flock(lock_fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK)
        return Status::FromErrno(Code::kDenied, "cannot lock " + file, errno);
      const std::string holder = FirstLine(lock_fd_.get());
      return Status(Code::kAlreadyExists, "zerocpd is already running in " + path_ +
                                              (holder.empty() ? "" : ", process " + holder) +
                                              ": stop it first, or choose another --runtime-dir");
    }
    struct stat held {
    }, named{};
    if (fstat(lock_fd_.get(), &held) != 0) return Status::FromErrno(Code::kDenied, file, errno);
    if (!S_ISREG(held.st_mode))
      return Status(Code::kDenied, file + " is not a regular file: remove it");
    // Somebody may have removed the file between open and flock; the lock on a file without a name
    // keeps nobody out.
    if (fstatat(directory_fd_.get(), shm::kLockFile, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        named.st_dev == held.st_dev && named.st_ino == held.st_ino) {
      lock_ = shm::LockIdentity{held.st_dev, held.st_ino, file};
      break;
    }
  }
  const std::string pid = std::to_string(getpid()) + "\n";  // for people only
  if (ftruncate(lock_fd_.get(), 0) != 0 ||
      pwrite(lock_fd_.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return Status::FromErrno(Code::kNoMemory, "cannot write " + file, errno);
  }
  return Status();
}

Result<UniqueFd> RuntimeDirectory::Listen(const std::string& name, int type,
                                          std::optional<gid_t> group) {
  const std::string file = File(name);
  struct stat info {};
  if (fstatat(directory_fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return Status(Code::kDenied, file + " exists and is not a socket: remove it");
    }
    Remove(name);  // D3: nobody can be listening there
  }
  UniqueFd socket_fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) return Status::FromErrno(Code::kInternal, "cannot make a socket", errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (file.size() > kMaxSocketPath)
    return Status(Code::kInvalid, file + " is too long for a socket");
  std::memcpy(address.sun_path, file.c_str(), file.size() + 1);
  // The file gets the mode of the socket's own inode: private from its first moment, whatever the
  // umask.
  if (fchmod(socket_fd.get(), 0600) != 0 ||
      bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return Status::FromErrno(Code::kDenied, "cannot bind " + file, errno);
  }
  if (group) {
    if (fchownat(directory_fd_.get(), name.c_str(), static_cast<uid_t>(-1), *group,
                 AT_SYMLINK_NOFOLLOW) != 0) {
      return Status::FromErrno(Code::kDenied,
                               "cannot give " + file + " to group " + std::to_string(*group) +
                                   " (is the daemon's user a member of it?)",
                               errno);
    }
    if (fchmodat(directory_fd_.get(), name.c_str(), 0660, 0) != 0) {
      return Status::FromErrno(Code::kDenied, "cannot chmod " + file, errno);
    }
  }
  if (listen(socket_fd.get(), SOMAXCONN) != 0) {
    return Status::FromErrno(Code::kInternal, "cannot listen at " + file, errno);
  }
  return socket_fd;
}

void RuntimeDirectory::Remove(const std::string& name) {
  unlinkat(directory_fd_.get(), name.c_str(), 0);
}

Result<UniqueFd> RuntimeDirectory::OpenFile(const std::string& name) {
  UniqueFd fd(
      openat(directory_fd_.get(), name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat info {};
  if (!fd || fstat(fd.get(), &info) != 0) {
    return Status::FromErrno(Code::kDenied, "cannot open " + File(name), errno);
  }
  if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 0077) != 0) {
    return Status(Code::kDenied, File(name) + " is not a private file of this user: remove it");
  }
  return fd;
}

}  // namespace zerocp
