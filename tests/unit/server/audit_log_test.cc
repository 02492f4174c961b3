#include "server/audit_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "shm/unique_fd.h"
#include "tests/system/child_process.h"

namespace zerocp {
namespace {

using testing::ReadFile;

// Waits until it holds; ctest's time limit is the watchdog.
void WaitUntil(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

std::unique_ptr<AuditLog> Open(const std::string& path) {
  auto log = AuditLog::Open(path);
  EXPECT_TRUE(log.ok()) << log.status().message();
  return log.ok() ? std::move(*log) : nullptr;
}

class AuditLogTest : public ::testing::Test {
 protected:
  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/audit.log";
};

TEST_F(AuditLogTest, LinesAreThereInOrderWhenItIsGone) {
  std::string expected;
  {
    const auto log = Open(path_);
    for (int i = 0; i < 1000; ++i) {
      log->Write("line " + std::to_string(i));
      expected += "line " + std::to_string(i) + "\n";
    }
  }
  EXPECT_EQ(ReadFile(path_), expected);
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  Open(path_)->Write("appended");
  EXPECT_EQ(ReadFile(path_), expected + "appended\n");
}

TEST_F(AuditLogTest, WhatCannotBeOpenedIsAnErrorThatNamesIt) {
  const auto log = AuditLog::Open(dir_.path() + "/none/audit.log");
  ASSERT_FALSE(log.ok());
  EXPECT_EQ(log.status().message(),
            "--audit-log " + dir_.path() + "/none/audit.log: No such file or directory");
}

TEST_F(AuditLogTest, ReopenGoesOnInANewFileAfterWhatWaited) {
  const auto log = Open(path_);
  log->Write("before");
  WaitUntil([&] { return log->counts().written == 1; });
  std::filesystem::rename(path_, path_ + ".1");
  log->Reopen();
  WaitUntil([&] { return std::filesystem::exists(path_); });
  log->Write("after");
  WaitUntil([&] { return log->counts().written == 2; });
  EXPECT_EQ(ReadFile(path_ + ".1"), "before\n");
  EXPECT_EQ(ReadFile(path_), "after\n");
}

TEST_F(AuditLogTest, AFullDiskLosesLinesAndCountsThem) {
  const auto log = Open("/dev/full");
  for (int i = 0; i < 10; ++i) log->Write("lost");
  WaitUntil([&] { return log->counts().lost == 10; });
  EXPECT_EQ(log->counts().written, 0u);
}

TEST_F(AuditLogTest, APipeThatNobodyReadsHoldsUpNobody) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  const shm::UniqueFd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  auto log = Open(path_);
  const std::string line(size_t{1} << 20, 'x');
  for (int i = 0; i < 64; ++i) log->Write(line);  // 64 MiB: more than may wait
  EXPECT_GE(log->counts().lost, 64 - AuditLog::kMaxWaitingBytes / line.size() - 1);
  log.reset();  // ends although nobody reads
}

TEST_F(AuditLogTest, AfterALineThatWasTornTheNextBeginsAnew) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  shm::UniqueFd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  const auto log = Open(path_);
  ASSERT_GT(fcntl(reader.get(), F_SETPIPE_SZ, 4096), 0);
  log->Write(std::string(100'000, 'x'));
  std::string bytes(4096, '\0');
  WaitUntil([&] { return read(reader.get(), bytes.data(), bytes.size()) > 0; });
  reader.Reset();  // the rest of the line fails
  WaitUntil([&] { return log->counts().lost == 1; });
  reader = shm::UniqueFd(open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  log->Write("next");
  std::string text;  // with what the pipe still had of the first line
  WaitUntil([&] {
    const ssize_t size = read(reader.get(), bytes.data(), bytes.size());
    if (size > 0) text.append(bytes, 0, static_cast<size_t>(size));
    return text.ends_with("next\n");
  });
  EXPECT_EQ(text.substr(text.find_first_not_of('x')), "\nnext\n");
  WaitUntil([&] { return log->counts().written == 1; });
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);  // as the daemon does
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
