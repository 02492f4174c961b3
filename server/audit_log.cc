#include "server/audit_log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "server/event_log.h"

namespace zerocp {

using shm::Code;
using shm::Result;
using shm::Status;
using std::chrono::steady_clock;

namespace {

constexpr std::chrono::seconds kBetweenComplaints{10};
constexpr int kLookMs = 100;  // whether the log is to stop, while the file takes nothing

}  // namespace

Result<shm::UniqueFd> AuditLog::OpenFile(const std::string& path) {
  shm::UniqueFd file(
      path == "-"
          ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
          : open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600));
  if (!file) return Status::FromErrno(Code::kInvalid, "--audit-log " + path, errno);
  return file;
}

Result<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path) {
  Result<shm::UniqueFd> file = OpenFile(path);
  if (!file.ok()) return file.status();
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(path), std::move(*file)));
}

AuditLog::AuditLog(std::string path, shm::UniqueFd file)
    : path_(std::move(path)), file_(std::move(file)), thread_([this] { Run(); }) {}

AuditLog::~AuditLog() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    give_up_ = steady_clock::now() + kPatience;
    changed_.notify_one();
  }
  thread_.join();
}

void AuditLog::Write(std::string line) {
  MutexLock lock(mutex_);
  if (waiting_bytes_ + line.size() > kMaxWaitingBytes) {
    Lose(line, "it takes nothing, and 16 MiB wait");
    return;
  }
  waiting_bytes_ += line.size();
  waiting_.push_back(std::move(line));
  changed_.notify_one();
}

void AuditLog::Reopen() {
  MutexLock lock(mutex_);
  reopen_ = true;
  changed_.notify_one();
}

AuditLog::Counts AuditLog::counts() {
  MutexLock lock(mutex_);
  return counts_;
}

void AuditLog::Run() {
  for (;;) {
    std::string line;
    bool has_line = false;
    bool reopen = false;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !reopen_ && !stopped_) changed_.wait(mutex_);
      if (!waiting_.empty()) {
        has_line = true;
        line = std::move(waiting_.front());
        waiting_.pop_front();
        waiting_bytes_ -= line.size();
      } else if (std::exchange(reopen_, false)) {
        reopen = true;
      } else {
        return;
      }
    }
    if (reopen) OpenAnew();
    if (has_line) Count(line, WriteWhole((torn_ ? "\n" : "") + line + "\n"));
  }
}

void AuditLog::OpenAnew() {
  Result<shm::UniqueFd> file = OpenFile(path_);
  if (!file.ok()) {
    spdlog::error("{}: the file before stays in use", file.status().message());
    return;
  }
  file_ = std::move(*file);
  torn_ = false;
}

bool AuditLog::GaveUp() {
  MutexLock lock(mutex_);
  return stopped_ && steady_clock::now() >= give_up_;
}

// A pipe that says it has room takes PIPE_BUF bytes without blocking, also one that others share.
int AuditLog::WriteWhole(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    pollfd ready{file_.get(), POLLOUT, 0};
    if (poll(&ready, 1, kLookMs) <= 0) {
      if (GaveUp()) return ETIMEDOUT;
      continue;
    }
    const ssize_t size =
        write(file_.get(), text.data() + done, std::min<size_t>(text.size() - done, PIPE_BUF));
    if (size > 0) {
      done += static_cast<size_t>(size);
      torn_ = true;
    } else if (size < 0 && errno != EINTR && errno != EAGAIN) {
      return errno;
    }
  }
  torn_ = false;
  return 0;
}

void AuditLog::Count(const std::string& line, int error) {
  MutexLock lock(mutex_);
  if (error == 0) {
    ++counts_.written;
    return;
  }
  Lose(line, std::strerror(error));
}

void AuditLog::Lose(const std::string& line, const char* why) {
  ++counts_.lost;
  const auto now = steady_clock::now();
  if (now < next_complaint_) return;
  next_complaint_ = now + kBetweenComplaints;
  spdlog::error("audit log {}: {}; lost since the start: {}, and this one: {}", path_, why,
                Counted(counts_.lost - 1, "line"), line);
}

}  // namespace zerocp
