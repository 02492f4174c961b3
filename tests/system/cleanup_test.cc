// What dead daemons left behind, as `zerocp cleanup` shows and removes it; never anything of a
// living one.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/daemon_process.h"

namespace zerocp::testing {
namespace {

using std::filesystem::exists;

// The real /dev/shm has segments of others.
class SegmentDir {
 public:
  const std::string& path() const { return dir_.path(); }
  size_t FileCount() const {
    const std::filesystem::directory_iterator files(path());
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }
  std::string Management(const std::string& instance) const {
    return path() + "/zerocp_" + instance + "_memory_management";
  }

 private:
  const TempDir dir_{"/dev/shm"};
};

std::vector<std::string> Arguments(const SegmentDir& dir, const std::string& instance) {
  return {"--segment-dir", dir.path(),  "--instance", instance,    "--pool",
          "p=4KiBx16",     "--channel", "c=p",        "--reserve", "64MiB"};
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(CleanupTest, ShowsThenRemovesSegmentsOfDeadDaemonsAndNoOthers) {
  const SegmentDir dir;
  DaemonProcess asked(Arguments(dir, "asked")), other(Arguments(dir, "other"));
  DaemonProcess dead(Arguments(dir, "dead")), used(Arguments(dir, "used"));
  ChildProcess client({.command = used.Command({"recv", "c"})});
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!Contains(RunCommand(used.Command({"sessions"})).output, "attached")) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const Ran nothing = RunCommand(asked.Command({"cleanup"}));
  EXPECT_EQ(nothing.exit_code, 0) << nothing.error;
  EXPECT_EQ(nothing.output, "nothing is left behind\n");

  dead.Stop(SIGKILL);
  used.Stop(SIGKILL);  // its client lives
  const Ran preview = RunCommand(asked.Command({"cleanup"}));
  EXPECT_TRUE(Contains(preview.output, "zerocp_dead_memory_management")) << preview.output;
  EXPECT_TRUE(Contains(preview.output, "zerocp_dead_memory_chunk")) << preview.output;
  EXPECT_TRUE(Contains(preview.output, "2 would be removed")) << preview.output << preview.error;
  EXPECT_EQ(dir.FileCount(), 8u);

  const Ran removed = RunCommand(asked.Command({"cleanup", "--execute"}));
  EXPECT_TRUE(Contains(removed.output, "2 removed")) << removed.output;
  EXPECT_EQ(dir.FileCount(), 6u);
  for (const char* instance : {"asked", "other", "used"})
    EXPECT_TRUE(exists(dir.Management(instance))) << instance;
  EXPECT_EQ(RunCommand(other.Command({"audit"})).exit_code, 0);
  used.Start();  // adopts what it had
  EXPECT_TRUE(Contains(used.Log(), "adopted")) << used.Log();
  EXPECT_EQ(RunCommand(asked.Command({"cleanup", "--execute"})).output, "nothing is left behind\n");
}

TEST(CleanupTest, ItSaysWhatItLooksForAndHowMuchThereIs) {
  const SegmentDir dir;
  DaemonProcess daemon(Arguments(dir, "a"));
  constexpr int kDead = 51;  // two files each
  for (int i = 0; i < kDead; ++i) {
    // Cut short in its creation: the management segment only, and that with nothing inside.
    for (const std::string& file :
         {dir.Management("b" + std::to_string(i)),
          dir.path() + "/zerocp_b" + std::to_string(i) + "_memory_chunk"}) {
      WriteFile(file, "");
      std::filesystem::permissions(file, std::filesystem::perms(0600));
    }
  }
  const Ran all = RunCommand(daemon.Command({"cleanup", "-o", "json"}));
  EXPECT_TRUE(Contains(all.output, "\"removed_count\": 102"))
      << all.output.substr(0, 200) << all.error;
  size_t items = 0;
  for (size_t at = 0; (at = all.output.find("KIND_STALE_SEGMENT", at)) != std::string::npos; ++at)
    ++items;
  EXPECT_EQ(items, 100u);
}

}  // namespace
}  // namespace zerocp::testing
