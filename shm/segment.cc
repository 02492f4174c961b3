#include "shm/segment.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "shm/memory_budget.h"
#include "shm/mutant.h"

namespace zerocp::shm {
namespace {

constexpr uint64_t kCommitStep = uint64_t{64} << 20;

// True if the name `path` is the file's that `fd` has open.
bool IsAt(const std::string& path, int fd) {
  struct stat there {
  }, open{};
  return lstat(path.c_str(), &there) == 0 && fstat(fd, &open) == 0 && there.st_dev == open.st_dev &&
         there.st_ino == open.st_ino;
}

// Blocks all signals of this thread: one would only interrupt fallocate, again and again.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

// Copies what is in a file up to `end`, but for its holes. Stops where it was cut meanwhile.
Status ReadData(int fd, std::byte* to, off_t end, const std::string& path) {
  for (off_t at = 0; at < end;) {
    const off_t data = lseek(fd, at, SEEK_DATA);
    const off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) return Status();
    if (hole < 0) return Status::FromErrno(Code::kDamaged, "cannot read " + path, errno);
    at = data;
    for (const off_t stop = std::min(hole, end); at < stop;) {
      const ssize_t got = pread(fd, to + at, static_cast<size_t>(stop - at), at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Status::FromErrno(Code::kDamaged, "cannot read " + path, errno);
      if (got == 0) return Status();
      at += got;
    }
  }
  return Status();
}

}  // namespace

std::string LimitText(int resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return std::to_string(limit.rlim_cur) + " bytes";
}

Segment::Segment(Segment&& other) noexcept { *this = std::move(other); }

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(process_locks_memory_, other.process_locks_memory_);
  committed_end_.store(other.committed_end_.exchange(committed_end_.load()));
  return *this;
}

Segment::~Segment() {
  if (data_ != nullptr) munmap(data_, reserved_bytes_);
}

Result<Segment> Segment::Create(const std::string& directory, const std::string& name,
                                uint64_t reserved_bytes) {
  Segment segment;
  segment.path_ = directory + "/" + name;
  segment.fd_ = UniqueFd(
      open(segment.path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!segment.fd_) {
    return Status::FromErrno(errno == EEXIST ? Code::kAlreadyExists : Code::kInternal,
                             "cannot create segment " + segment.path_, errno);
  }
  // The umask may have taken bits away; it never adds any.
  if (fchmod(segment.fd(), 0600) != 0) {
    Status status =
        Status::FromErrno(Code::kInternal, "cannot set mode 0600 of " + segment.path_, errno);
    unlink(segment.path_.c_str());
    return status;
  }
  if (Status status = segment.Map(reserved_bytes); !status.ok()) {
    unlink(segment.path_.c_str());
    return status;
  }
  return segment;
}

Result<Segment> Segment::Open(const std::string& directory, const std::string& name,
                              bool read_only) {
  Segment segment;
  segment.path_ = directory + "/" + name;
  struct stat info {};
  if (lstat(segment.path_.c_str(), &info) != 0) {
    return Status::FromErrno(errno == ENOENT ? Code::kNotFound : Code::kInternal,
                             "cannot look at segment " + segment.path_, errno);
  }
  auto refuse = [&](const std::string& what) {
    return Status(Code::kDenied, segment.path_ + " " + what +
                                     "; it is left alone: remove it, or choose " +
                                     "another --instance or --segment-dir");
  };
  const auto is_anothers = [&] {
    return info.st_uid != geteuid() && !(read_only && geteuid() == 0);
  };
  if (!S_ISREG(info.st_mode)) return refuse("is not a regular file");
  if (is_anothers()) return refuse("belongs to user " + std::to_string(info.st_uid));
  segment.fd_ = UniqueFd(open(segment.path_.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC |
                                                         O_NOFOLLOW | O_NONBLOCK));
  if (!segment.fd_ || fstat(segment.fd(), &info) != 0) {
    return Status::FromErrno(Code::kDenied, "cannot open segment " + segment.path_, errno);
  }
  if (!S_ISREG(info.st_mode)) return refuse("is not a regular file");
  if (is_anothers()) return refuse("belongs to user " + std::to_string(info.st_uid));
  if ((info.st_mode & 07777) != 0600) {
    std::ostringstream mode;
    mode << std::oct << (info.st_mode & 07777);
    return refuse("has mode " + mode.str() + " where a segment has 600");
  }
  if (info.st_nlink != 1) return refuse("has " + std::to_string(info.st_nlink) + " links");
  segment.committed_end_.store(segment.file_bytes());
  return segment;
}

Segment Segment::FromDescriptor(UniqueFd fd) {
  Segment segment;
  segment.fd_ = std::move(fd);
  return segment;
}

// Under mlockall(MCL_FUTURE) the kernel locks each new mapping: all of its addresses would count
// against RLIMIT_MEMLOCK, and the holes of the file would become memory. So one page, which nobody
// may touch, is mapped and unlocked, and then it grows.
Status Segment::Map(uint64_t reserved_bytes, bool read_only) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* first = mmap(nullptr, page, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd(), 0);
  void* mapped = MAP_FAILED;
  int error = errno;
  if (first != MAP_FAILED) {
    process_locks_memory_ = msync(first, page, MS_INVALIDATE) != 0 && errno == EBUSY;
    if (process_locks_memory_ && !Mutant(46)) munlock(first, page);
    mapped = mremap(first, page, reserved_bytes, MREMAP_MAYMOVE);
    error = errno;
    if (mapped == MAP_FAILED) munmap(first, page);
  }
  if (mapped == MAP_FAILED && error == EAGAIN) {
    return Status::FromErrno(
        Code::kNoMemory,
        "this process has locked as much memory as it may: RLIMIT_MEMLOCK is " +
            LimitText(RLIMIT_MEMLOCK) + "; raise it",
        error);
  }
  if (mapped == MAP_FAILED) {
    return Status::FromErrno(Code::kNoMemory,
                             "cannot map " + std::to_string(reserved_bytes) +
                                 " bytes of address space (RLIMIT_AS is " + LimitText(RLIMIT_AS) +
                                 "); raise it, or start the daemon with a smaller --reserve",
                             error);
  }
  data_ = static_cast<std::byte*>(mapped);
  reserved_bytes_ = reserved_bytes;
  // A forked child must not touch the segments in its parent's name, and a core dump must not hold
  // them.
  madvise(mapped, reserved_bytes, MADV_DONTFORK);
  madvise(mapped, reserved_bytes, MADV_DONTDUMP);
  if (mprotect(mapped, reserved_bytes, read_only ? PROT_READ : PROT_READ | PROT_WRITE) != 0)
    return Status::FromErrno(Code::kInternal, "mprotect", errno);
  return Status();
}

Status Segment::MapCopy(uint64_t reserved_bytes) {
  if (Mutant(44)) return Map(reserved_bytes, true);  // a file that is cut later faults
  void* mapped =
      mmap(nullptr, reserved_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const int error = errno;
  if (mapped != MAP_FAILED) {
    data_ = static_cast<std::byte*>(mapped);
    reserved_bytes_ = reserved_bytes;
  }
  // Only so much counts as memory where the system promises no more than it has.
  const uint64_t bytes = std::min(reserved_bytes, file_bytes());
  if (mapped == MAP_FAILED || mprotect(data_, bytes, PROT_READ | PROT_WRITE) != 0) {
    return Status::FromErrno(Code::kNoMemory,
                             "no memory for a copy of " + std::to_string(bytes) + " bytes in " +
                                 std::to_string(reserved_bytes) +
                                 " bytes of address space (RLIMIT_AS is " + LimitText(RLIMIT_AS) +
                                 ")",
                             mapped == MAP_FAILED ? error : errno);
  }
  Status status = ReadData(fd(), data_, static_cast<off_t>(bytes), path_);
  if (mprotect(data_, bytes, PROT_READ) != 0 && status.ok())
    status = Status::FromErrno(Code::kInternal, "mprotect", errno);
  return status;
}

bool Segment::Reaches(uint64_t end) const {
  if (end == 0) return true;
  if (end > reserved_bytes_) return false;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return madvise(data_ + (end - 1) / page * page, page, MADV_POPULATE_READ) == 0 || errno == EINVAL;
}

Status Segment::Commit(uint64_t offset, uint64_t length, const Progress& progress) {
  if (offset > reserved_bytes_ || length > reserved_bytes_ - offset) {
    return Status(Code::kNoMemory,
                  "range beyond the reserved " + std::to_string(reserved_bytes_) + " bytes");
  }
  if (Mutant(2)) {  // memory is only promised by the file's length
    return ftruncate(fd(), static_cast<off_t>(std::max(file_bytes(), offset + length))) == 0
               ? Status()
               : Status::FromErrno(Code::kNoMemory, "ftruncate", errno);
  }
  SignalsBlocked blocked;
  for (uint64_t done = 0; done < length;) {
    const uint64_t step = std::min(kCommitStep, length - done);
    int error;
    do {
      error = posix_fallocate(fd(), static_cast<off_t>(offset + done), static_cast<off_t>(step));
    } while (error == EINTR);
    if (error != 0) {
      Decommit(offset, done + step);
      const MemoryBudget budget =
          AvailableMemory(std::filesystem::path(path_).parent_path().string());
      return Status::FromErrno(Code::kNoMemory,
                               "cannot reserve " + std::to_string(length) + " bytes in " + path_ +
                                   ", " + std::to_string(budget.available_bytes) +
                                   " are available (limited by: " + budget.limited_by +
                                   "); free some there, or raise that limit",
                               error);
    }
    done += step;
    if (progress && !progress(step)) {
      Decommit(offset, done);
      return Status(Code::kUnavailable, "reserving memory was given up");
    }
  }
  uint64_t end = committed_end_.load();
  while (end < offset + length && !committed_end_.compare_exchange_weak(end, offset + length)) {
  }
  return Status();
}

void Segment::Decommit(uint64_t offset, uint64_t length) {
  fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
            static_cast<off_t>(length));
}

Status Segment::Unlink() {
  if (!IsAt(path_, fd())) return Status(Code::kNotFound, path_ + " is not this segment any more");
  if (unlink(path_.c_str()) != 0)
    return Status::FromErrno(Code::kInternal, "cannot unlink " + path_, errno);
  return Status();
}

Result<UniqueFd> Segment::Lock(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return Status::FromErrno(Code::kNotFound, "cannot open " + path, errno);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return Status::FromErrno(Code::kAlreadyExists, "cannot lock " + path, errno);
  }
  if (!IsAt(path, fd.get())) return Status(Code::kNotFound, path + " was replaced");
  return fd;
}

// A line of it: "3: FLOCK ADVISORY WRITE 77 00:1a:5 0 EOF".
Result<pid_t> FileLockHolder(uint64_t device, uint64_t inode) {
  char wanted[64];
  std::snprintf(wanted, sizeof(wanted), "%02x:%02x:%llu", major(device), minor(device),
                static_cast<unsigned long long>(inode));
  std::ifstream locks("/proc/locks");
  if (!locks) return Status::FromErrno(Code::kUnavailable, "cannot read /proc/locks", errno);
  std::string line;
  while (std::getline(locks, line)) {
    std::istringstream fields(line);
    std::string number, kind, advisory, access, file;
    pid_t pid = 0;
    if (fields >> number >> kind >> advisory >> access >> pid >> file && kind == "FLOCK" &&
        file == wanted && !Mutant(45))
      return pid;
  }
  return pid_t{0};
}

uint64_t Segment::file_bytes() const {
  struct stat info {};
  return fstat(fd(), &info) == 0 && info.st_size > 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

}  // namespace zerocp::shm
