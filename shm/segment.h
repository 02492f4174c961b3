// A shared-memory file and its mapping: the raw kernel object, without any idea of what is inside.
//
// The whole reserved address range is mapped once; the file grows under it, so nobody ever remaps.
// Only the daemon creates, commits and unlinks; it commits and asks for sizes from any thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp::shm {

// Told how many bytes have been made real memory since the last call; false: no more of it.
using Progress = std::function<bool(uint64_t bytes)>;

class Segment {
 public:
  Segment() = default;
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  // Creates `directory`/`name`, mode 0600. kAlreadyExists if the name is taken by anything.
  static Result<Segment> Create(const std::string& directory, const std::string& name,
                                uint64_t reserved_bytes);
  // Opens an existing one to adopt it. kNotFound; kDenied unless it is a regular file of this user,
  // mode 0600, with one link: the message says what it is instead. Maps nothing (see
  // Map). `read_only`: it cannot be written through, and root may open another
  // user's.
  static Result<Segment> Open(const std::string& directory, const std::string& name,
                              bool read_only = false);
  // Takes over a descriptor that came over a socket. Maps nothing (see Map).
  static Segment FromDescriptor(UniqueFd fd);

  // Maps the range, which is never locked. kNoMemory: the message names RLIMIT_AS.
  Status Map(uint64_t reserved_bytes, bool read_only = false);
  // True if mlockall(MCL_FUTURE) was in force at Map: the process wants its memory locked.
  bool process_locks_memory() const { return process_locks_memory_; }
  // Maps private memory instead, for reading: zeros but for a copy of what the file has now. What
  // is done to the file later is not seen, and no cut of it can fault. A file's holes cost no
  // memory. The copy is not one instant's if somebody writes meanwhile. kNoMemory; kDamaged: it
  // cannot be read.
  Status MapCopy(uint64_t reserved_bytes);
  // Makes [offset, offset + length) real memory: after it no access there can fault for want of
  // memory. kNoMemory with the numbers, kUnavailable if `progress` wants no more; then nothing was
  // kept. Steps of 64 MiB, signals retried.
  Status Commit(uint64_t offset, uint64_t length, const Progress& progress = {});
  // Gives the memory of a range back to the system; it reads as zeros if it is committed again.
  void Decommit(uint64_t offset, uint64_t length);
  // Removes the name, if it is still this file's. kNotFound: it is gone, or another file's.
  Status Unlink();
  // An exclusive flock on the file at `path`, on a descriptor of its own: one that is passed to
  // clients would keep it alive. kAlreadyExists: somebody else holds it; kNotFound: the file is
  // gone or was replaced.
  static Result<UniqueFd> Lock(const std::string& path);
  // Closes the descriptor; the mapping stays. What clients do after mapping.
  void CloseDescriptor() { fd_.Reset(); }

  std::byte* data() const { return data_; }
  uint64_t reserved_bytes() const { return reserved_bytes_; }
  // Present length of the file; 0 if it cannot be asked for.
  uint64_t file_bytes() const;
  // False if the file ends before `end`: touching the mapping there would be a SIGBUS. Asks the
  // kernel about the mapping, so it needs no descriptor. What older kernels than 5.14 cannot tell
  // is taken for true.
  bool Reaches(uint64_t end) const;
  // True if somebody has made the file shorter than what was committed here. REQUIRES: the
  // descriptor is open.
  bool WasCut() const { return file_bytes() < committed_end_; }
  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  UniqueFd fd_;
  std::string path_;
  std::byte* data_ = nullptr;
  uint64_t reserved_bytes_ = 0;
  bool process_locks_memory_ = false;
  std::atomic<uint64_t> committed_end_{0};
};

// The resource's limit of this process, as "8388608 bytes" or "unlimited".
std::string LimitText(int resource);

// The process that holds a flock on a file, as the kernel lists it; 0: none. One in another pid
// namespace is not listed. Takes no lock itself, so it disturbs nobody. kUnavailable: the kernel's
// list cannot be read.
Result<pid_t> FileLockHolder(uint64_t device, uint64_t inode);

}  // namespace zerocp::shm
