#include "server/runtime_directory.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "shm/runtime_dir.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

using Kind = RuntimeDirectory::Kind;
using shm::Code;

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

class RuntimeDirectoryTest : public ::testing::Test {
 protected:
  ~RuntimeDirectoryTest() override { std::filesystem::remove_all(base_); }

  const std::string base_ = NewDirectory("/tmp");
  const std::string path_ = base_ + "/run";
};

TEST_F(RuntimeDirectoryTest, ADirectoryIsCreatedWithTheModeOfItsKindWhateverTheUmask) {
  const mode_t before = umask(0);
  EXPECT_TRUE(RuntimeDirectory::Open(path_, Kind::kUser).ok());
  umask(0077);
  EXPECT_TRUE(RuntimeDirectory::Open(base_ + "/system", Kind::kSystem).ok());
  umask(before);
  EXPECT_EQ(ModeOf(path_), 0700u);
  EXPECT_EQ(ModeOf(base_ + "/system"), 0755u);
  EXPECT_EQ(ModeOf(path_ + "/lock"), 0600u);
}

TEST_F(RuntimeDirectoryTest, AnExistingOneIsTakenWithATrailingSlashToo) {
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  const auto directory = RuntimeDirectory::Open(path_ + "//", Kind::kUser);
  ASSERT_TRUE(directory.ok()) << directory.status().message();
  EXPECT_EQ(directory->path(), path_);
}

TEST_F(RuntimeDirectoryTest, ADirectoryOpenToOthersIsRefused) {
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0750), 0);
  const auto user = RuntimeDirectory::Open(path_, Kind::kUser);
  EXPECT_EQ(user.code(), Code::kDenied);
  EXPECT_NE(user.status().message().find("chmod 0700"), std::string::npos);
  EXPECT_TRUE(RuntimeDirectory::Open(path_, Kind::kSystem).ok());
  ASSERT_EQ(chmod(path_.c_str(), 0775), 0);
  EXPECT_EQ(RuntimeDirectory::Open(path_, Kind::kSystem).code(), Code::kDenied);
}

TEST_F(RuntimeDirectoryTest, SomebodyElsesDirectoryIsRefused) {
  std::string foreign = "/usr";  // root's
  if (geteuid() == 0) {
    foreign = path_;
    ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
    ASSERT_EQ(chown(path_.c_str(), 65534, 65534), 0);
  }
  const auto directory = RuntimeDirectory::Open(foreign, Kind::kSystem);
  EXPECT_EQ(directory.code(), Code::kDenied);
  EXPECT_NE(directory.status().message().find("belongs to uid"), std::string::npos);
}

TEST_F(RuntimeDirectoryTest, SymbolicLinksAndFilesAreRefused) {
  ASSERT_EQ(mkdir((base_ + "/real").c_str(), 0700), 0);
  ASSERT_EQ(symlink((base_ + "/real").c_str(), path_.c_str()), 0);
  EXPECT_EQ(RuntimeDirectory::Open(path_, Kind::kUser).code(), Code::kDenied);
  EXPECT_EQ(RuntimeDirectory::Open(path_ + "/", Kind::kUser).code(), Code::kDenied);
  std::ofstream(base_ + "/file") << "x";
  EXPECT_EQ(RuntimeDirectory::Open(base_ + "/file", Kind::kUser).code(), Code::kDenied);
}

TEST_F(RuntimeDirectoryTest, WhatIsMissingIsSaid) {
  EXPECT_EQ(RuntimeDirectory::OpenExisting(path_, Kind::kUser).code(), Code::kNotFound);
  const auto directory = RuntimeDirectory::Open(base_ + "/no/such", Kind::kUser);
  EXPECT_EQ(directory.code(), Code::kNotFound);
  EXPECT_NE(directory.status().message().find("parent"), std::string::npos);
}

TEST_F(RuntimeDirectoryTest, OnlyOneHoldsTheLockAndTheOtherLearnsWho) {
  {
    const auto first = RuntimeDirectory::Open(path_, Kind::kUser);
    ASSERT_TRUE(first.ok());
    const auto second = RuntimeDirectory::Open(path_, Kind::kUser);
    EXPECT_EQ(second.code(), Code::kAlreadyExists);
    EXPECT_NE(second.status().message().find("process " + std::to_string(getpid())),
              std::string::npos);
    // A lock file without its name keeps nobody out, so a new one is taken.
    ASSERT_EQ(unlink((path_ + "/lock").c_str()), 0);
    const auto third = RuntimeDirectory::Open(path_, Kind::kUser);
    ASSERT_TRUE(third.ok());
    EXPECT_NE(third->lock().inode, first->lock().inode);
  }
  EXPECT_TRUE(RuntimeDirectory::Open(path_, Kind::kUser).ok());
}

TEST_F(RuntimeDirectoryTest, APathTooLongForASocketIsRefusedWithBothNumbers) {
  // "<path>/client.sock" has 107 bytes: the longest that fits.
  const std::string fits = base_ + "/" + std::string(107 - 12 - base_.size() - 1, 'x');
  auto directory = RuntimeDirectory::Open(fits, Kind::kUser);
  ASSERT_TRUE(directory.ok()) << directory.status().message();
  EXPECT_TRUE(directory->Listen(shm::kAttachSocket, SOCK_SEQPACKET, std::nullopt).ok());
  const auto refused = RuntimeDirectory::Open(fits + "x", Kind::kUser);
  EXPECT_EQ(refused.code(), Code::kInvalid);
  EXPECT_NE(refused.status().message().find("108 bytes"), std::string::npos);
  EXPECT_NE(refused.status().message().find("107"), std::string::npos);
}

TEST_F(RuntimeDirectoryTest, SocketsArePrivateOrTheirGroupsWhateverTheUmask) {
  auto directory = RuntimeDirectory::Open(path_, Kind::kUser);
  ASSERT_TRUE(directory.ok());
  const mode_t before = umask(0);
  EXPECT_TRUE(directory->Listen("a.sock", SOCK_STREAM, std::nullopt).ok());
  umask(0077);
  EXPECT_TRUE(directory->Listen("b.sock", SOCK_SEQPACKET, getegid()).ok());
  umask(before);
  EXPECT_EQ(ModeOf(path_ + "/a.sock"), 0600u);
  EXPECT_EQ(ModeOf(path_ + "/b.sock"), 0660u);
}

TEST_F(RuntimeDirectoryTest, AStaleSocketIsReplacedAndAnythingElseIsLeftAlone) {
  auto directory = RuntimeDirectory::Open(path_, Kind::kUser);
  ASSERT_TRUE(directory.ok());
  EXPECT_TRUE(directory->Listen("a.sock", SOCK_STREAM, std::nullopt).ok());
  EXPECT_TRUE(directory->Listen("a.sock", SOCK_STREAM, std::nullopt).ok());
  std::ofstream(path_ + "/b.sock") << "mine";
  EXPECT_EQ(directory->Listen("b.sock", SOCK_STREAM, std::nullopt).code(), Code::kDenied);
  EXPECT_TRUE(std::filesystem::exists(path_ + "/b.sock"));
}

TEST_F(RuntimeDirectoryTest, APrivateFileIsNotTakenFromOthers) {
  auto directory = RuntimeDirectory::Open(path_, Kind::kUser);
  ASSERT_TRUE(directory.ok());
  ASSERT_TRUE(directory->OpenFile("sessions").ok());
  EXPECT_EQ(ModeOf(path_ + "/sessions"), 0600u);
  ASSERT_EQ(chmod((path_ + "/sessions").c_str(), 0666), 0);
  EXPECT_EQ(directory->OpenFile("sessions").code(), Code::kDenied);
  ASSERT_EQ(symlink("/etc/passwd", (path_ + "/link").c_str()), 0);
  EXPECT_EQ(directory->OpenFile("link").code(), Code::kDenied);
}

TEST(InstanceNameTest, TheSystemsIsPlainAndTwoDirectoriesNeverShareOne) {
  EXPECT_EQ(shm::InstanceNameFor("/run/zerocp"), "");
  EXPECT_NE(shm::InstanceNameFor("/tmp/a"), shm::InstanceNameFor("/tmp/b"));
  EXPECT_EQ(shm::InstanceNameFor("/tmp/a"), shm::InstanceNameFor("/tmp/a"));
  EXPECT_TRUE(shm::IsValidName(shm::InstanceNameFor("/tmp/a")));
}

}  // namespace
}  // namespace zerocp
