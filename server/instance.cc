#include "server/instance.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_join.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <thread>

#include "server/death_watch.h"
#include "shm/segment.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::LockIdentity;
using shm::MemPoolManager;
using shm::Result;
using shm::Segment;
using shm::Status;
using shm::UniqueFd;
using CreateOptions = MemPoolManager::CreateOptions;

// How long a start waits for another that is creating the segments, or for a Cleanup of another
// daemon, which locks what it looks at: both take milliseconds.
constexpr std::chrono::milliseconds kOthersTime{5000};

std::string ManagementPath(const CreateOptions& o) {
  return o.segment_dir + "/" + MemPoolManager::ManagementName(o.instance);
}
std::string ChunkPath(const CreateOptions& o) {
  return o.segment_dir + "/" + MemPoolManager::ChunkName(o.instance);
}

// 0: nobody that the kernel's list shows.
pid_t ListedHolder(const LockIdentity& lock) {
  Result<pid_t> pid = shm::FileLockHolder(lock.device, lock.inode);
  return pid.ok() ? *pid : 0;
}

bool IsHeld(const LockIdentity& lock) {
  if (ListedHolder(lock) != 0) return true;
  UniqueFd fd(open(lock.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (!fd || fstat(fd.get(), &info) != 0 || info.st_dev != lock.device || info.st_ino != lock.inode)
    return false;
  return flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

bool IsOurs(const CreateOptions& options, const LockIdentity& lock) {
  return lock.device == options.lock.device && lock.inode == options.lock.inode;
}

Status OwnedByAnother(const CreateOptions& options, const LockIdentity* lock) {
  std::string who = "another running zerocpd";
  if (lock != nullptr && IsOurs(options, *lock)) {
    who = "a process that has locked it";
  } else if (lock != nullptr) {
    if (pid_t pid = ListedHolder(*lock)) who += ", process " + std::to_string(pid);
    who += " (its lock is " + lock->path + ")";
  }
  return Status(Code::kAlreadyExists, ManagementPath(options) + " belongs to " + who +
                                          ": stop that one, or choose another --instance");
}

Status WithAdvice(const Status& status, const std::string& advice) {
  return Status(status.code(), status.message() + ": " + advice);
}

// The lock on the management segment itself (N1). kAlreadyExists; kNotFound: it has just been
// removed.
Result<UniqueFd> LockSegment(const CreateOptions& options, const LockIdentity* named) {
  Result<UniqueFd> lock = Segment::Lock(ManagementPath(options));
  if (lock.code() == Code::kAlreadyExists) return OwnedByAnother(options, named);
  return lock;
}

Status NotASegment(const Status& status) {
  return WithAdvice(status,
                    "it is no segment of zerocp, or damaged, and is left alone: remove it "
                    "yourself if nobody needs it, or choose another --instance");
}

// A chunk segment does not say whose it is: without its management segment nobody knows.
Status NotOurs(const CreateOptions& options) {
  return Status(Code::kDenied, ChunkPath(options) +
                                   " is there without a management segment that belongs to it; "
                                   "it is left alone: remove it yourself if nobody needs it, or "
                                   "choose another --instance");
}

// Nothing here throws: what is looked at may go meanwhile.
std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    names.push_back(entry->path().filename());
  return names;
}

// Pids, separated by commas, of processes that map the management segment: clients that outlived
// their daemon, or the daemon. Of a process whose maps this one may not read (another user's) the
// segment's own word is taken: a session that such a process has.
std::string UsersOf(const CreateOptions& options) {
  const std::string path = ManagementPath(options);
  std::set<pid_t> users;
  std::set<pid_t> unreadable;
  for (const std::string& name : NamesIn("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(name, &pid)) continue;
    std::ifstream maps("/proc/" + name + "/maps");
    if (!maps.is_open()) unreadable.insert(pid);
    for (std::string line; std::getline(maps, line);) {
      if (line.ends_with(path)) users.insert(pid);
    }
  }
  if (unreadable.empty()) return absl::StrJoin(users, ", ");
  const auto segment = MemPoolManager::Inspect(options);
  for (uint32_t id = shm::kFirstSession; segment.ok() && id < (*segment)->session_capacity();
       ++id) {
    const shm::SessionEntry& entry = (*segment)->session_entry(static_cast<uint16_t>(id));
    if (entry.state.load() != static_cast<uint32_t>(shm::SessionState::kFree) &&
        unreadable.contains(entry.pid) && StartTimeOf(entry.pid) == entry.start_time)
      users.insert(entry.pid);
  }
  return absl::StrJoin(users, ", ");
}

// True if there is a segment of this name, and it is a private file of this user.
Result<bool> HasSegment(const CreateOptions& options, const std::string& name) {
  Result<Segment> segment = Segment::Open(options.segment_dir, name);
  if (segment.code() == Code::kNotFound) return false;
  if (!segment.ok()) return segment.status();
  return true;
}

// Unlinks a segment if it is a private file of this user; true if it was there.
Result<bool> RemoveSegment(const CreateOptions& options, const std::string& name) {
  Result<Segment> segment = Segment::Open(options.segment_dir, name);
  if (segment.code() == Code::kNotFound) return false;
  if (!segment.ok()) return segment.status();
  if (Status status = segment->Unlink(); !status.ok()) return status;
  return true;
}

// What a creation or a removal that was cut short has left: the management segment, and at most an
// empty chunk segment. REQUIRES: its lock is held.
Status RemoveRemains(const CreateOptions& options) {
  struct stat chunk {};
  if (lstat(ChunkPath(options).c_str(), &chunk) == 0) {
    if (!S_ISREG(chunk.st_mode) || chunk.st_size != 0) return NotOurs(options);
    if (auto removed = RemoveSegment(options, MemPoolManager::ChunkName(options.instance));
        !removed.ok())
      return removed.status();
  }
  spdlog::warn("{}: its creation or removal was cut short; it is removed", ManagementPath(options));
  return RemoveSegment(options, MemPoolManager::ManagementName(options.instance)).status();
}

Result<Instance> CreateInstance(const CreateOptions& options) {
  struct stat info {};
  if (lstat(ChunkPath(options).c_str(), &info) == 0) return NotOurs(options);
  UniqueFd lock;
  Result<std::unique_ptr<MemPoolManager>> created = MemPoolManager::Create(options, &lock);
  if (!created.ok()) return created.status();
  return Instance{std::move(*created), std::move(lock), false};
}

Result<Instance> AdoptInstance(const CreateOptions& options, const LockIdentity& named) {
  if (!IsOurs(options, named) && IsHeld(named)) return OwnedByAnother(options, &named);
  Result<UniqueFd> lock = LockSegment(options, &named);
  if (!lock.ok()) return lock.status();
  struct stat info {};
  if (lstat(ChunkPath(options).c_str(), &info) != 0 && errno == ENOENT) {
    // A removal unlinks it first.
    if (Status status = RemoveRemains(options); !status.ok()) return status;
    return CreateInstance(options);
  }
  Result<std::unique_ptr<MemPoolManager>> adopted = MemPoolManager::Adopt(options);
  if (!adopted.ok()) {
    return WithAdvice(adopted.status(),
                      "zerocpd --cleanup with the same options removes the segments and what is in "
                      "them; another --instance leaves them alone");
  }
  return Instance{std::move(*adopted), std::move(*lock), true};
}

}  // namespace

Result<Instance> OpenInstance(const CreateOptions& options) {
  const auto give_up = std::chrono::steady_clock::now() + kOthersTime;
  for (;;) {
    Result<LockIdentity> named = MemPoolManager::ReadLock(options.segment_dir, options.instance);
    if (named.ok()) {
      Result<Instance> adopted = AdoptInstance(options, *named);
      // Whoever has the segment's lock without its owner's is no daemon.
      const bool passing =
          adopted.code() == Code::kAlreadyExists && (IsOurs(options, *named) || !IsHeld(*named));
      if (!passing || std::chrono::steady_clock::now() >= give_up) return adopted;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    if (named.code() == Code::kDamaged) return NotASegment(named.status());
    if (named.code() != Code::kNotFound && named.code() != Code::kUnavailable)
      return named.status();
    Status status = named.status();
    if (named.code() == Code::kUnavailable) {  // somebody is at it, or was
      Result<UniqueFd> lock = LockSegment(options, nullptr);
      status = lock.ok() ? RemoveRemains(options) : lock.status();
    }
    if (status.ok() || status.code() == Code::kNotFound) {
      Result<Instance> created = CreateInstance(options);
      if (created.code() != Code::kAlreadyExists) return created;
      status = created.status();
    }
    if (status.code() != Code::kAlreadyExists || std::chrono::steady_clock::now() >= give_up)
      return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<std::vector<std::string>> CleanUpInstance(const CreateOptions& options, bool preview) {
  std::vector<std::string> names;
  Result<LockIdentity> named = MemPoolManager::ReadLock(options.segment_dir, options.instance);
  if (named.code() == Code::kDenied) return named.status();
  if (named.code() == Code::kDamaged) return NotASegment(named.status());
  struct stat info {};
  if (named.code() == Code::kNotFound && lstat(ChunkPath(options).c_str(), &info) == 0)
    return NotOurs(options);
  if (named.ok() && !IsOurs(options, *named) && IsHeld(*named))
    return OwnedByAnother(options, &*named);
  UniqueFd segment_lock;
  if (named.code() != Code::kNotFound) {
    Result<UniqueFd> lock = LockSegment(options, named.ok() ? &*named : nullptr);
    if (!lock.ok()) return lock.status();
    segment_lock = std::move(*lock);
  }
  if (const std::string users = UsersOf(options); !users.empty()) {
    return Status(Code::kAlreadyExists,
                  "still in use by process " + users +
                      ": stop them first, or start zerocpd, which adopts the segments");
  }
  // The management segment last: it is the one that says whose they are.
  for (const std::string& name : {MemPoolManager::ChunkName(options.instance),
                                  MemPoolManager::ManagementName(options.instance)}) {
    Result<bool> removed = preview ? HasSegment(options, name) : RemoveSegment(options, name);
    if (!removed.ok()) return removed.status();
    if (*removed) names.push_back(name);
  }
  return names;
}

std::vector<std::string> InstancesIn(const std::string& segment_dir) {
  // "zerocp_memory_management", or with "NAME_" in the middle.
  const std::string whole = MemPoolManager::ManagementName("");
  const size_t middle = whole.find('_') + 1;
  const std::string_view prefix = std::string_view(whole).substr(0, middle);
  const std::string suffix = "_" + whole.substr(middle);
  std::vector<std::string> instances;
  for (const std::string& name : NamesIn(segment_dir)) {
    if (name == whole) instances.emplace_back();
    if (!name.starts_with(prefix) || !name.ends_with(suffix) ||
        name.size() <= prefix.size() + suffix.size())
      continue;
    const std::string instance =
        name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    if (shm::IsValidName(instance)) instances.push_back(instance);
  }
  std::sort(instances.begin(), instances.end());
  return instances;
}

}  // namespace zerocp
