// Where clients look for a daemon, and whom they do not believe.
#include "shm/runtime_dir.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace zerocp::shm {
namespace {

TEST(RuntimeDirTest, AnExplicitDirectoryIsTheOnlyOne) {
  EXPECT_EQ(CandidateRuntimeDirs("/a"), std::vector<std::string>{"/a"});
  ASSERT_EQ(setenv("ZEROCP_RUNTIME_DIR", "/b", 1), 0);
  EXPECT_EQ(CandidateRuntimeDirs("/a"), std::vector<std::string>{"/a"});
  EXPECT_EQ(CandidateRuntimeDirs(""), std::vector<std::string>{"/b"});
  ASSERT_EQ(unsetenv("ZEROCP_RUNTIME_DIR"), 0);
}

TEST(RuntimeDirTest, TheSystemsDirectoryComesFirstThenTheUsers) {
  ASSERT_EQ(unsetenv("ZEROCP_RUNTIME_DIR"), 0);
  ASSERT_EQ(setenv("XDG_RUNTIME_DIR", "/run/user/7", 1), 0);
  const std::vector<std::string> dirs = CandidateRuntimeDirs("");
  ASSERT_GE(dirs.size(), 2u);
  EXPECT_EQ(dirs[0], "/run/zerocp");
  EXPECT_EQ(dirs[1], "/run/user/7/zerocp");
  EXPECT_EQ(UserRuntimeDir(), "/run/user/7/zerocp");
}

// In a child process, so that the user id under which it looks can be one that nobody uses.
TEST(RuntimeDirTest, ADirectoryInTmpThatSomebodyElseMadeIsNotLookedInto) {
  if (geteuid() != 0) return;  // it takes root to play two users; CI is root
  ASSERT_EQ(unsetenv("XDG_RUNTIME_DIR"), 0);
  const uid_t uid = 60000 + static_cast<uid_t>(getpid()) % 5000;
  const std::string dir = "/tmp/zerocp-" + std::to_string(uid);
  const auto looks = [&] {
    EXPECT_EQ(seteuid(uid), 0);
    const std::vector<std::string> dirs = CandidateRuntimeDirs("");
    EXPECT_EQ(seteuid(0), 0);
    return std::find(dirs.begin(), dirs.end(), dir) != dirs.end();
  };
  EXPECT_TRUE(looks());  // absent: named in the error
  ASSERT_EQ(mkdir(dir.c_str(), 0700), 0);
  EXPECT_FALSE(looks());  // root's
  ASSERT_EQ(chown(dir.c_str(), uid, uid), 0);
  EXPECT_TRUE(looks());
  ASSERT_EQ(chmod(dir.c_str(), 0777), 0);
  EXPECT_FALSE(looks());
  std::filesystem::remove(dir);
}

}  // namespace
}  // namespace zerocp::shm
