// The directory of an instance's sockets, lock and session table, and the lock that makes one
// daemon the only one.
//
// Invariants. D1: the directory belongs to this process's user and nobody else can write to it. D2:
// as long as this object lives its process holds the lock; the kernel lets it go when the process
// ends, however it ends. D3: nothing in the directory is replaced but under the lock.
//
// Threads. One at a time. Crash. Socket files and the lock file stay; the next start replaces them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "shm/mem_pool_manager.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

class RuntimeDirectory {
 public:
  enum class Kind {
    kUser,    // 0700: this user only
    kSystem,  // 0755: others reach the sockets, whose groups decide
  };

  // Creates the directory unless it is there, checks it, and takes the lock. kDenied: it is a
  // symbolic link, somebody else's or open to others, and the message says what to do;
  // kAlreadyExists: another daemon holds the lock, and the message names its process; kInvalid: a
  // socket's path would be longer than the 107 bytes the kernel allows.
  static shm::Result<RuntimeDirectory> Open(const std::string& path, Kind kind);
  // As Open, but kNotFound instead of creating anything.
  static shm::Result<RuntimeDirectory> OpenExisting(const std::string& path, Kind kind);

  // Absolute, without symbolic links.
  const std::string& path() const { return path_; }
  const shm::LockIdentity& lock() const { return lock_; }
  // Full path of a file in the directory.
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  // A listening, non-blocking socket of `type` at `name`: mode 0660 and `group` if one is given,
  // else 0600, from its first moment on. A socket file left by an earlier daemon is replaced;
  // anything else of that name is kDenied.
  shm::Result<shm::UniqueFd> Listen(const std::string& name, int type, std::optional<gid_t> group);
  // A private file (0600) of this directory for reading and writing, created if it is not there.
  shm::Result<shm::UniqueFd> OpenFile(const std::string& name);
  // Removes a file or socket of this directory, if it is there.
  void Remove(const std::string& name);

 private:
  RuntimeDirectory() = default;
  static shm::Result<RuntimeDirectory> OpenAndLock(const std::string& path, Kind kind);
  shm::Status Check(Kind kind);
  shm::Status TakeLock();

  std::string path_;
  shm::UniqueFd directory_fd_;
  shm::UniqueFd lock_fd_;  // never passed to anybody: a duplicate would keep the lock alive
  shm::LockIdentity lock_;
};

}  // namespace zerocp
