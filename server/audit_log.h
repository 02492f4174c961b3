// The audit log: one line per call that changes something, or tried to.
//
// Whoever calls never waits for the file: lines wait in memory for a thread that writes them. What
// the file does not take (a full disk, a pipe that nobody reads) is lost, counted and logged. After
// a line that was written in part the next one begins with a line break.
//
// Crash. Lines that wait are lost with the process.
//
// Threads. One of its own. Functions from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "server/mutex.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

class AuditLog {
 public:
  static constexpr size_t kMaxWaitingBytes = size_t{16} << 20;
  // How long the destructor waits for a file that takes nothing.
  static constexpr std::chrono::milliseconds kPatience{1000};

  struct Counts {
    uint64_t written = 0;  // lines
    uint64_t lost = 0;
  };

  // `path`: a file, created with mode 0600 and appended to, or "-": standard output. kInvalid: it
  // cannot be opened.
  static shm::Result<std::unique_ptr<AuditLog>> Open(std::string path);
  // Writes what waits.
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // `line`: without a line break.
  void Write(std::string line);
  // Opens the path anew, after what waits now, for whoever rotates logs by renaming. If that fails
  // the file before stays.
  void Reopen();
  Counts counts();

 private:
  AuditLog(std::string path, shm::UniqueFd file);
  static shm::Result<shm::UniqueFd> OpenFile(const std::string& path);
  void Run();
  void OpenAnew();
  // 0 or the errno value.
  int WriteWhole(const std::string& text);
  bool GaveUp();
  void Count(const std::string& line, int error);
  void Lose(const std::string& line, const char* why) ZEROCP_REQUIRES(mutex_);

  const std::string path_;
  // The thread's own.
  shm::UniqueFd file_;
  bool torn_ = false;  // the last line was written in part

  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<std::string> waiting_ ZEROCP_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ZEROCP_GUARDED_BY(mutex_) = 0;
  bool reopen_ ZEROCP_GUARDED_BY(mutex_) = false;
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point give_up_ ZEROCP_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point next_complaint_ ZEROCP_GUARDED_BY(mutex_);
  Counts counts_ ZEROCP_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace zerocp
