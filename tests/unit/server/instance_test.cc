#include "server/instance.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "server/death_watch.h"
#include "server/runtime_directory.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::MemPoolManager;

class InstanceTest : public ::testing::Test {
 protected:
  InstanceTest() {
    auto directory = RuntimeDirectory::Open(runtime_ + "/a", RuntimeDirectory::Kind::kUser);
    EXPECT_TRUE(directory.ok());
    directory_ = std::make_unique<RuntimeDirectory>(std::move(*directory));
    options_.segment_dir = segments_;
    options_.instance = "test";
    options_.management_reserved_bytes = uint64_t{64} << 20;
    options_.chunk_reserved_bytes = uint64_t{64} << 20;
    options_.session_capacity = 16;
    options_.lock = directory_->lock();
  }
  ~InstanceTest() override {
    std::filesystem::remove_all(runtime_);
    std::filesystem::remove_all(segments_);
  }

  std::string Management() const { return segments_ + "/zerocp_test_memory_management"; }
  std::string Chunk() const { return segments_ + "/zerocp_test_memory_chunk"; }
  void Overwrite(uint64_t offset, const void* bytes, size_t size) const {
    const int fd = open(Management().c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(pwrite(fd, bytes, size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    close(fd);
  }

  const std::string runtime_ = NewDirectory("/tmp");
  const std::string segments_ = NewDirectory("/dev/shm");
  std::unique_ptr<RuntimeDirectory> directory_;
  MemPoolManager::CreateOptions options_;
};

TEST_F(InstanceTest, SegmentsAreCreatedThenAdopted) {
  std::array<uint8_t, 16> uuid;
  {
    const auto created = OpenInstance(options_);
    ASSERT_TRUE(created.ok()) << created.status().message();
    EXPECT_FALSE(created->adopted);
    uuid = created->manager->instance_uuid();
  }
  const auto adopted = OpenInstance(options_);
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  EXPECT_TRUE(adopted->adopted);
  EXPECT_EQ(adopted->manager->instance_uuid(), uuid);
}

TEST_F(InstanceTest, ALivingDaemonsSegmentsAreNeitherAdoptedNorCleanedUp) {
  const auto first = OpenInstance(options_);
  ASSERT_TRUE(first.ok());
  auto other = RuntimeDirectory::Open(runtime_ + "/b", RuntimeDirectory::Kind::kUser);
  MemPoolManager::CreateOptions options = options_;
  options.lock = other->lock();
  const auto second = OpenInstance(options);
  EXPECT_EQ(second.code(), Code::kAlreadyExists);
  EXPECT_NE(second.status().message().find("process " + std::to_string(getpid())),
            std::string::npos)
      << second.status().message();
  EXPECT_EQ(CleanUpInstance(options).code(), Code::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(Management()));
}

TEST_F(InstanceTest, TheOwnersLockOnTheSegmentCountsWhereItsLockFileCannotBeSeen) {
  const auto first = OpenInstance(options_);
  ASSERT_TRUE(first.ok());
  // As from another container: the super block names a lock that does not exist here.
  const uint64_t nowhere[2] = {0, 0};
  Overwrite(offsetof(shm::SuperBlock, lock_device), nowhere, sizeof(nowhere));
  EXPECT_EQ(OpenInstance(options_).code(), Code::kAlreadyExists);
  EXPECT_EQ(CleanUpInstance(options_).code(), Code::kAlreadyExists);
}

// A daemon's Cleanup locks each segment that it looks at, for a moment.
TEST_F(InstanceTest, WhoLooksAtTheSegmentsMeanwhileDoesNotPreventAStart) {
  ASSERT_TRUE(OpenInstance(options_).ok());
  const auto adopt_under_a_look = [this] {
    const int looking = open(Management().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(flock(looking, LOCK_EX), 0);
    std::thread looker([looking] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      close(looking);
    });
    const auto adopted = OpenInstance(options_);
    looker.join();
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    EXPECT_TRUE(adopted->adopted);
  };
  adopt_under_a_look();
  directory_.reset();
  auto other = RuntimeDirectory::Open(runtime_ + "/b", RuntimeDirectory::Kind::kUser);
  options_.lock = other->lock();
  adopt_under_a_look();
}

TEST_F(InstanceTest, SegmentsOfAnotherLockThatNobodyHoldsAreAdopted) {
  ASSERT_TRUE(OpenInstance(options_).ok());
  directory_.reset();
  auto other = RuntimeDirectory::Open(runtime_ + "/b", RuntimeDirectory::Kind::kUser);
  options_.lock = other->lock();
  const auto adopted = OpenInstance(options_);
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  const auto named = MemPoolManager::ReadLock(segments_, "test");
  EXPECT_EQ(named->inode, other->lock().inode);
}

TEST_F(InstanceTest, WhateverSquatsOnANameIsReportedAndLeftAlone) {
  struct Squatter {
    const char* what;
    std::function<void(const std::string&)> make;
  };
  const Squatter kTable[] = {
      {"a file of mode 0644",
       [](const std::string& path) {
         std::ofstream(path) << "mine";
         chmod(path.c_str(), 0644);
       }},
      {"a private file of something else",
       [](const std::string& path) {
         std::ofstream(path) << std::string(8192, 'x');
         chmod(path.c_str(), 0600);
       }},
      {"a private file that begins with zeros",
       [](const std::string& path) {
         std::ofstream(path) << std::string(4096, '\0') << "PRECIOUS";
         chmod(path.c_str(), 0600);
       }},
      {"a short private file",
       [](const std::string& path) {
         std::ofstream(path) << "hello";
         chmod(path.c_str(), 0600);
       }},
      {"a directory", [](const std::string& path) { mkdir(path.c_str(), 0700); }},
      {"a symbolic link",
       [](const std::string& path) { (void)!symlink("/etc/passwd", path.c_str()); }},
      {"a fifo", [](const std::string& path) { mkfifo(path.c_str(), 0600); }},
  };
  for (const std::string& path : {Management(), Chunk()}) {
    for (const Squatter& squatter : kTable) {
      squatter.make(path);
      const auto opened = OpenInstance(options_);
      EXPECT_FALSE(opened.ok()) << squatter.what;
      EXPECT_NE(opened.code(), Code::kAlreadyExists) << squatter.what;
      EXPECT_NE(opened.status().message().find(path), std::string::npos)
          << opened.status().message();
      EXPECT_FALSE(CleanUpInstance(options_).ok()) << squatter.what;
      EXPECT_TRUE(std::filesystem::is_symlink(path) || std::filesystem::exists(path));
      EXPECT_EQ(std::distance(std::filesystem::directory_iterator(segments_), {}), 1);
      std::filesystem::remove_all(path);
    }
  }
}

TEST_F(InstanceTest, SomebodyElsesSegmentIsLeftAlone) {
  if (geteuid() != 0) return;  // only root can give a file away
  ASSERT_TRUE(OpenInstance(options_).ok());
  ASSERT_EQ(chown(Management().c_str(), 65534, 65534), 0);
  EXPECT_EQ(OpenInstance(options_).code(), Code::kDenied);
  EXPECT_EQ(CleanUpInstance(options_).code(), Code::kDenied);
  EXPECT_TRUE(std::filesystem::exists(Management()) && std::filesystem::exists(Chunk()));
}

TEST_F(InstanceTest, AnotherLayoutIsRefusedByNameOfBothVersions) {
  ASSERT_TRUE(OpenInstance(options_).ok());
  const uint32_t version = 99;
  Overwrite(offsetof(shm::SuperBlock, layout_version), &version, sizeof(version));
  const auto refused = OpenInstance(options_);
  EXPECT_EQ(refused.code(), Code::kVersionMismatch);
  for (const std::string& wanted :
       {std::string("99"), std::to_string(shm::kLayoutVersion), std::string("--cleanup")}) {
    EXPECT_NE(refused.status().message().find(wanted), std::string::npos)
        << refused.status().message();
  }
  EXPECT_TRUE(CleanUpInstance(options_).ok());
  EXPECT_TRUE(std::filesystem::is_empty(segments_));
}

TEST_F(InstanceTest, ACreationThatWasCutShortIsBegunAnew) {
  const std::string kLeft[] = {
      "",  // killed before the first byte
      std::string(reinterpret_cast<const char*>(&shm::kUnfinishedMagic), sizeof(uint64_t)),
      std::string(reinterpret_cast<const char*>(&shm::kUnfinishedMagic), sizeof(uint64_t)) +
          std::string(8192, '\0')};
  for (const std::string& management : kLeft) {
    for (const bool with_chunk : {false, true}) {
      std::ofstream(Management()) << management;
      ASSERT_EQ(chmod(Management().c_str(), 0600), 0);
      if (with_chunk) {
        std::ofstream(Chunk()).flush();
        ASSERT_EQ(chmod(Chunk().c_str(), 0600), 0);
      }
      const auto created = OpenInstance(options_);
      ASSERT_TRUE(created.ok()) << created.status().message();
      EXPECT_FALSE(created->adopted);
      EXPECT_TRUE(created->manager->Destroy().ok());
    }
  }
}

// Two daemons of different runtime directories, the same instance: the second finds the first in
// the middle of its creation.
TEST_F(InstanceTest, ACreationUnderWayIsNotTakenForOneThatWasCutShort) {
  std::ofstream(Management()).flush();
  ASSERT_EQ(chmod(Management().c_str(), 0600), 0);
  const auto lock = shm::Segment::Lock(Management());  // as the first has it
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(OpenInstance(options_).code(), Code::kAlreadyExists);
  EXPECT_EQ(CleanUpInstance(options_).code(), Code::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(Management()));
}

TEST_F(InstanceTest, WhoLosesTheNameToAnotherDaemonLeavesThatOnesSegmentsAlone) {
  auto slow = OpenInstance(options_);
  ASSERT_TRUE(slow.ok());
  std::filesystem::remove(Management());
  std::filesystem::remove(Chunk());
  const auto other = OpenInstance(options_);
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_FALSE(slow->manager->Destroy().ok());
  EXPECT_TRUE(std::filesystem::exists(Management()) && std::filesystem::exists(Chunk()));
}

TEST_F(InstanceTest, ARemovalThatWasCutShortIsFinished) {
  ASSERT_TRUE(OpenInstance(options_).ok());
  std::filesystem::remove(Chunk());
  const auto created = OpenInstance(options_);
  ASSERT_TRUE(created.ok()) << created.status().message();
  EXPECT_FALSE(created->adopted);
}

// In a child of another user, which cannot read what this process maps.
int CleanUpWhatRootUses() {
  if (setgid(65534) != 0 || setuid(65534) != 0) return 2;
  const std::string segments = NewDirectory("/dev/shm");
  const std::string runtime = NewDirectory("/tmp");
  auto directory = RuntimeDirectory::Open(runtime + "/a", RuntimeDirectory::Kind::kUser);
  MemPoolManager::CreateOptions options;
  options.segment_dir = segments;
  options.instance = "test";
  options.management_reserved_bytes = options.chunk_reserved_bytes = uint64_t{64} << 20;
  options.session_capacity = 16;
  options.lock = directory->lock();
  const pid_t root = getppid();
  const auto clean_up = [&](uint64_t start_time) {
    auto instance = OpenInstance(options);
    shm::SessionEntry& entry = instance->manager->session_entry(shm::kFirstSession);
    entry.pid = root;
    entry.start_time = start_time;
    entry.state = static_cast<uint32_t>(shm::SessionState::kAttached);
    instance = shm::Status(Code::kNotFound, "");
    return CleanUpInstance(options);
  };
  const auto refused = clean_up(*StartTimeOf(root));
  const auto done = clean_up(*StartTimeOf(root) + 1);  // another process had that pid
  std::filesystem::remove_all(segments);
  std::filesystem::remove_all(runtime);
  const bool names_it =
      refused.status().message().find("process " + std::to_string(root)) != std::string::npos;
  return refused.code() == Code::kAlreadyExists && names_it && done.ok() && done->size() == 2 ? 0
                                                                                              : 1;
}

TEST_F(InstanceTest, CleanupLeavesWhatAProcessUsesWhoseMapsItMayNotRead) {
  if (geteuid() != 0) return;  // only root can play another user
  const pid_t child = fork();
  if (child == 0) _exit(CleanUpWhatRootUses());
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A read of a process's maps fails when the process ends meanwhile.
TEST_F(InstanceTest, ProcessesThatEndMeanwhileDoNotEndACleanup) {
  // Shells, for a fork of this process would inherit the locks for a moment.
  std::array<pid_t, 2> churn{};
  char shell[] = "sh", option[] = "-c";
  char script[] = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); env true; done";
  char* arguments[] = {shell, option, script, nullptr};
  for (pid_t& pid : churn)
    ASSERT_EQ(posix_spawnp(&pid, shell, nullptr, nullptr, arguments, environ), 0);
  ASSERT_TRUE(OpenInstance(options_).ok());
  for (const pid_t pid : churn) {
    while (waitpid(pid, nullptr, WNOHANG) == 0) {
      const auto preview = CleanUpInstance(options_, /*preview=*/true);
      ASSERT_TRUE(preview.ok()) << preview.status().message();
    }
  }
}

TEST_F(InstanceTest, CleanupSaysWhatItDid) {
  const auto nothing = CleanUpInstance(options_);
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->empty());
  ASSERT_TRUE(OpenInstance(options_).ok());
  const std::vector<std::string> both = {"zerocp_test_memory_chunk",
                                         "zerocp_test_memory_management"};
  const auto preview = CleanUpInstance(options_, /*preview=*/true);
  ASSERT_TRUE(preview.ok()) << preview.status().message();
  EXPECT_EQ(*preview, both);
  EXPECT_TRUE(std::filesystem::exists(Management()) && std::filesystem::exists(Chunk()));
  const auto names = CleanUpInstance(options_);
  ASSERT_TRUE(names.ok()) << names.status().message();
  EXPECT_EQ(*names, both);
  EXPECT_TRUE(std::filesystem::is_empty(segments_));
}

}  // namespace
}  // namespace zerocp
