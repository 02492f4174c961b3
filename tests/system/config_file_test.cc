// zerocpd with a configuration file, and `zerocp config`: what of it is used when, and what a file
// that is wrong does.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/system/child_process.h"
#include "tests/system/daemon_process.h"

namespace zerocp::testing {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::string kPools =
    "pools:\n"
    "  - {name: pools/video, chunk_size_bytes: 4KiB, chunk_count: 16}\n";
const std::string kChannels =
    "channels:\n"
    "  - {name: channels/frames, pool: pools/video, when_full: WHEN_FULL_WAIT}\n";

class ConfigFileTest : public ::testing::Test {
 protected:
  Ran Zerocpd(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), BinDir() + "/zerocpd");
    return RunCommand(arguments);
  }
  // Checks a file with this text; its standard error.
  Ran Check(const std::string& text) {
    WriteFile(path_, text);
    return Zerocpd({"--check-config", path_});
  }
  static Ran Config(const DaemonProcess& daemon, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "config");
    return RunCommand(daemon.Command(arguments));
  }
  // Waits for a line of the log.
  static void WaitForLog(const DaemonProcess& daemon, const std::string& text) {
    while (!Contains(daemon.Log(), text)) usleep(1000);
  }

  TempDir dir_;
  const std::string path_ = dir_.path() + "/zerocp.yaml";
};

TEST_F(ConfigFileTest, TheDefaultOneIsFineAndNamesEveryOption) {
  const Ran printed = Zerocpd({"--print-default-config"});
  ASSERT_EQ(printed.exit_code, 0);
  const Ran checked = Check(printed.output);
  EXPECT_EQ(checked.exit_code, 0) << checked.error;
  // With what is commented out in the section start, it says what is wrong with the first of that.
  for (const char* option : {"runtime-dir", "reserve", "max-sessions", "log-level", "system"})
    EXPECT_TRUE(Contains(printed.output, std::string("  # ") + option + ": ")) << option;
  for (const char* option : {"cleanup", "check-config", "help"})
    EXPECT_FALSE(Contains(printed.output, std::string("  # ") + option + ": ")) << option;
}

TEST_F(ConfigFileTest, ACheckFindsWhatAStartWouldRefuse) {
  const struct {
    std::string text;
    const char* error;
  } rows[] = {
      {"start:\n  frob: 1\n", "zerocp.yaml:2: start.frob is no option of a file"},
      {"start:\n  cleanup: true\n", ":2: start.cleanup is no option of a file"},
      {"start:\n  reserve: 1XiB\n", ":2: start.reserve: --reserve: \"1XiB\" is not a size"},
      {"start:\n\n  max-sessions: 0\n", ":3: start.max-sessions: --max-sessions: "},
      {"start:\n  on-stop: [keep, unlink]\n", ":2: start.on-stop: "},
      {"start:\n  on-stop: keep\n  on-stop: keep\n", ":3: start.on-stop is there twice"},
      {"start:\n  pool: {a: b}\n", ":2: start.pool must be a value, or a list of values"},
      {"start: 3\n", ":1: start must be options with values"},
      {"start:\n  runtime-dir: /tmp/x\n  admin-group: nobody-has-it\n",
       ":3: start.admin-group: --socket-group and --admin-group go with --system"},
      {"start:\n  system: true\n  admin-group: nobody-has-it\n", "there is no group nobody-has-it"},
      {"pools:\n  - {name: video, chunk_size_bytes: 4KiB, chunk_count: 16}\n",
       "zerocp.yaml:2: pools[0].name must be pools/{name}"},
      {kPools + "  - name: pools/a\n    chunk_count: 1\n    chunk_size_bytes: 8\n",
       "zerocp.yaml:5: pools[1].chunk_size_bytes must be from 64 to"},
      {kChannels,
       "zerocp.yaml:2: channels[0].pool is pools/video, which the configuration has not"},
      {kPools + kPools, "zerocp.yaml:3: pools is there twice"},
      {"start: {reserve: 64MiB}\n"
       "pools: [{name: pools/a, chunk_size_bytes: 1MiB, chunk_count: 64}]\n",
       "pools/a: "},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const Ran checked = Check(row.text);
    EXPECT_EQ(checked.exit_code, 1);
    EXPECT_TRUE(Contains(checked.error, row.error)) << checked.error;
    EXPECT_EQ(checked.output, "");
  }
  EXPECT_EQ(Zerocpd({"--check-config", dir_.path() + "/none"}).exit_code, 1);
  EXPECT_EQ(Zerocpd({"--config", dir_.path() + "/none"}).exit_code, 2);
  EXPECT_EQ(Check("start: {reserve: 2GiB}\n" + kPools + kChannels).exit_code, 0);
}

TEST_F(ConfigFileTest, TheCommandLineWinsOverTheFile) {
  WriteFile(
      path_,
      "start:\n  max-sessions: 17\n  max-chunks-per-session: 5\n  runtime-dir: /nonexistent/x\n"
      "  channel: [aside=video]\n" +
          kPools + kChannels);
  DaemonProcess daemon({"--config", path_, "--max-sessions", "18", "--pool", "video=1KiBx4"});
  const Ran info = RunCommand(daemon.Command({"info"}));
  EXPECT_TRUE(Contains(info.output, "18")) << info.output;
  EXPECT_TRUE(Contains(info.output, "most chunks of a session  5")) << info.output;
  const Ran get = Config(daemon, {"get"});
  EXPECT_TRUE(Contains(get.output, "chunk_size_bytes: 1024\n")) << get.output;
  EXPECT_TRUE(Contains(get.output, "channels/aside")) << get.output;
  EXPECT_TRUE(Contains(get.output, "channels/frames")) << get.output;
  EXPECT_EQ(get.error, "");  // no drift: it wins there, too
}

TEST_F(ConfigFileTest, SighupTakesOverTheFileAndABrokenOneChangesNothing) {
  WriteFile(path_, kPools + kChannels);
  DaemonProcess daemon({"--config", path_});
  const std::string before = Config(daemon, {"get"}).output;
  WriteFile(path_, kPools + "  - broken\n" + kChannels);
  daemon.Signal(SIGHUP);
  WaitForLog(daemon, "configuration: stays as it is: zerocp.yaml:3: pools[1] must be keys");
  const Ran broken = Config(daemon, {"get"});
  EXPECT_EQ(broken.output, before);
  EXPECT_TRUE(Contains(broken.error, "cannot be used: zerocp.yaml:3: pools[1]")) << broken.error;

  WriteFile(path_,
            kPools + "  - {name: pools/b, chunk_size_bytes: 64, chunk_count: 2}\n" + kChannels);
  daemon.Signal(SIGHUP);
  WaitForLog(daemon, "configuration: changed: + pools/b");
  const Ran after = Config(daemon, {"get"});
  EXPECT_TRUE(Contains(after.output, "pools/b"));
  EXPECT_EQ(after.error, "");
  EXPECT_EQ(daemon.Stop(SIGTERM), 0);
}

TEST_F(ConfigFileTest, WhatIsAdoptedWinsOverTheFile) {
  WriteFile(path_, kPools + kChannels);
  DaemonProcess daemon({"--config", path_, "--on-stop", "keep"});
  daemon.Stop(SIGTERM);
  WriteFile(path_, "pools: [{name: pools/other, chunk_size_bytes: 64, chunk_count: 2}]\n");
  daemon.Start({"--config", path_, "--on-stop", "unlink"});
  const Ran get = Config(daemon, {"get"});
  EXPECT_TRUE(Contains(get.output, "pools/video")) << get.output;
  EXPECT_FALSE(Contains(get.output, "pools/other")) << get.output;
  EXPECT_TRUE(Contains(get.error, "+ pools/other")) << get.error;
  EXPECT_TRUE(Contains(get.error, "- channels/frames")) << get.error;
  EXPECT_TRUE(Contains(daemon.Log(), "what was adopted is not as the configuration file has it"));
  const Ran refused = Config(daemon, {"reload"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_TRUE(Contains(refused.error, "channels/frames, pools/video are there")) << refused.error;
  EXPECT_EQ(Config(daemon, {"reload", "--allow-deletion"}).exit_code, 0);
  EXPECT_EQ(Config(daemon, {"get"}).error, "");
}

TEST_F(ConfigFileTest, WhatGetPrintsIsWhatApplyTakes) {
  WriteFile(path_, "start: {log-level: debug}\n" + kPools + kChannels);
  DaemonProcess daemon({"--config", path_});
  for (const char* format : {"table", "json"}) {
    const std::string copy = dir_.path() + "/copy";
    const Ran get = Config(daemon, {"get", "-o", format});
    WriteFile(copy, get.output);
    const Ran same = Config(daemon, {"apply", copy});
    EXPECT_EQ(same.exit_code, 0) << same.error;
    EXPECT_EQ(same.output, "nothing to change\n");
  }
  WriteFile(path_ + "2", kPools + "  - {name: pools/b, chunk_size_bytes: 64, chunk_count: 2}\n");
  const Ran would = Config(daemon, {"apply", path_ + "2", "--validate-only", "--allow-deletion"});
  EXPECT_EQ(would.output,
            "- channels/frames  pools/video, WHEN_FULL_WAIT, queue of 16\n"
            "+ pools/b  2 chunks of 64 bytes, room for 8\n"
            "nothing was changed: --validate-only\n");
  EXPECT_EQ(Config(daemon, {"apply", path_ + "2"}).exit_code, 1);
  EXPECT_EQ(Config(daemon, {"apply", path_ + "2", "--allow-deletion", "--persist"}).exit_code, 0);
  const std::string file = ReadFile(path_);
  EXPECT_TRUE(Contains(file, "log-level: debug")) << file;
  EXPECT_TRUE(Contains(file, "pools/b")) << file;
  EXPECT_EQ(Zerocpd({"--check-config", path_}).exit_code, 0);

  WriteFile(path_ + "2", "pools:\n  - nam: x\n");
  const Ran wrong = Config(daemon, {"apply", path_ + "2"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_TRUE(Contains(wrong.error, "zerocp.yaml2:2: pools[0].nam is unknown")) << wrong.error;
  EXPECT_EQ(Config(daemon, {"apply", dir_.path() + "/none"}).exit_code, 1);
}

}  // namespace
}  // namespace zerocp::testing
