// A daemon that is killed by SIGKILL at every system call of a change of its configuration that can
// change anything, before the call and after it: the next start has the old configuration or the
// new one, never half, and once it was the new one it is never the old one again. The daemon is
// this program: `--change` has the instance with the old configuration, stops, changes it, and
// stops;
// `--start` is the next start, and prints what it has.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "server/config_manager.h"
#include "server/instance.h"
#include "server/runtime_directory.h"
#include "tests/system/child_process.h"

namespace zerocp {
namespace {

constexpr int kTooManyChannels = 8;
constexpr int kRoom = 8;  // in channels; a pool takes as much as two

shm::PoolSpec Pool(const std::string& name, uint32_t chunk_count, bool auto_grow = false) {
  shm::PoolSpec pool;
  pool.name = name;
  pool.chunk_size_bytes = 4096;
  pool.chunk_count = chunk_count;
  pool.max_chunk_count = 64;
  pool.auto_grow = auto_grow;
  return pool;
}

shm::ChannelSpec Channel(const std::string& name, const std::string& pool) {
  shm::ChannelSpec channel;
  channel.name = name;
  channel.pool = pool;
  return channel;
}

Config OldConfig() {
  return {{Pool("grows", 8), Pool("goes", 8), Pool("stays", 8)},
          {Channel("leaves", "goes"), Channel("remains", "stays")}};
}

Config NewConfig() {
  return {{Pool("grows", 16, true), Pool("stays", 8), Pool("comes", 8), Pool("also", 8)},
          {Channel("remains", "stays"), Channel("arrives", "comes")}};
}

Config ImpossibleConfig() {
  Config config = NewConfig();
  for (int i = 0; i < kTooManyChannels; ++i)
    config.channels.push_back(Channel("c" + std::to_string(i), "also"));
  return config;
}

// What the daemon is made of, as far as the configuration goes.
struct Daemon {
  Daemon(RuntimeDirectory runtime, Instance opened, const std::string& directory)
      : runtime_directory(std::move(runtime)),
        instance(std::move(opened)),
        core(std::move(instance.manager)),
        file(directory + "/zerocp.yaml", {}) {}

  // Before there are managers.
  bool AdoptChannels() {
    MutexLock lock(core.mutex);
    return core.registry.Adopt().ok();
  }

  RuntimeDirectory runtime_directory;
  Instance instance;
  Core core;
  const bool whole = !instance.adopted || AdoptChannels();
  PoolManager pools{core};
  ChannelManager channels{core};
  const ConfigFile file;
  ConfigManager config{core, pools, channels, runtime_directory.File("journal"), &file};
};

std::unique_ptr<Daemon> Start(const std::string& directory) {
  auto runtime = RuntimeDirectory::Open(directory + "/run", RuntimeDirectory::Kind::kUser);
  if (!runtime.ok()) return nullptr;
  shm::MemPoolManager::CreateOptions options;
  options.segment_dir = directory;
  options.instance = "test";
  options.management_reserved_bytes = uint64_t{4} << 20;
  options.chunk_reserved_bytes = uint64_t{1} << 30;
  options.lock = runtime->lock();
  auto instance = OpenInstance(options);
  if (!instance.ok()) return nullptr;
  return std::make_unique<Daemon>(std::move(*runtime), std::move(*instance), directory);
}

int Change(const std::string& directory, bool impossible) {
  const auto daemon = Start(directory);
  if (daemon == nullptr) return 2;
  testing::WriteFile(daemon->file.path(), "start: {log-level: debug}\n");
  if (!daemon->config.Apply(OldConfig(), {.persist = true}).ok()) return 3;
  if (impossible) {  // room for the pools and some of the channels
    int filled = 0;
    while (daemon->channels.Create(Channel("f" + std::to_string(filled), "stays")).ok()) ++filled;
    for (int i = 0; i < kRoom; ++i)
      if (!daemon->channels.Delete("f" + std::to_string(i), false, false).ok()) return 4;
  }
  Config wanted = impossible ? ImpossibleConfig() : NewConfig();
  if (impossible) {
    for (const ChannelInfo& channel : daemon->channels.List())
      if (channel.spec.name[0] == 'f') wanted.channels.push_back(channel.spec);
  }
  ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  raise(SIGSTOP);
  const auto changed = daemon->config.Apply(wanted, {.allow_deletion = true, .persist = true});
  raise(SIGSTOP);
  return changed.ok() == impossible ? 5 : 0;
}

// Prints pools, channels but for those that fill the room, and whether the file says the same.
int PrintNextStart(const std::string& directory) {
  const auto daemon = Start(directory);
  if (daemon == nullptr || !daemon->instance.adopted || !daemon->whole) return 2;
  daemon->config.Recover();
  const ConfigState state = daemon->config.Get();
  for (const shm::PoolSpec& pool : state.config.pools)
    std::printf("%s=%u%s ", pool.name.c_str(), pool.chunk_count, pool.auto_grow ? "+" : "");
  for (const shm::ChannelSpec& channel : state.config.channels)
    if (channel.name[0] != 'f') std::printf("%s ", channel.name.c_str());
  if (std::filesystem::exists(directory + "/run/journal")) std::printf("(journal) ");
  if (!daemon->channels.Audit().violations.empty()) std::printf("(damaged) ");
  bool drifted = !state.file_error.empty();
  for (const ConfigChange& change : state.drift) drifted |= !change.path.starts_with("channels/f");
  std::printf("%s\n", drifted ? "drifted" : "as in the file");
  return 0;
}

const char kOld[] = "goes=8 grows=8 stays=8 leaves remains as in the file\n";
const char kNew[] = "also=8 comes=8 grows=16+ stays=8 arrives remains as in the file\n";

class ConfigKillTest : public ::testing::Test {
 protected:
  // The next start's configuration after a kill at the stop number `stop` of the change; each
  // system call has one before and one after it. Empty if the change ended before.
  static std::string KillAt(int stop, bool impossible) {
    char directory[] = "/dev/shm/zerocp-config-kill-XXXXXX";
    if (mkdtemp(directory) == nullptr) return "no directory";
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    testing::ChildProcess daemon(
        {.command = {self, "--change", directory, impossible ? "impossible" : "possible"}});
    const bool ended = !RunTo(daemon.pid(), stop);
    daemon.Signal(SIGKILL);
    daemon.Wait();
    const testing::Ran next = testing::RunCommand({self, "--start", directory});
    std::filesystem::remove_all(directory);
    EXPECT_EQ(next.exit_code, 0) << next.error;
    return ended ? "" : next.output;
  }

 private:
  // False: the change was over before.
  static bool RunTo(pid_t pid, int stop) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) << "the daemon did not start";
    if (!WIFSTOPPED(status)) return false;
    ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    uint64_t call = 0;  // the one that is entered or left
    for (int i = 0; i < stop;) {
      ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
      if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) return false;
      if (WSTOPSIG(status) != (SIGTRAP | 0x80)) return false;  // the second SIGSTOP
      __ptrace_syscall_info info{};
      ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        const bool reads = info.entry.nr == SYS_openat && (info.entry.args[2] & O_CREAT) == 0;
        call = reads ? SYS_read : info.entry.nr;
      }
      if (call != SYS_read && call != SYS_close && call != SYS_rt_sigprocmask) ++i;
    }
    return true;
  }
};

TEST_F(ConfigKillTest, TheNextStartHasTheOldConfigurationOrTheNewOne) {
  int old_count = 0;
  int new_count = 0;
  for (int stop = 1;; ++stop) {
    const std::string next = KillAt(stop, false);
    if (next.empty()) break;
    if (new_count == 0 && next == kOld) {
      ++old_count;
      continue;
    }
    ++new_count;
    ASSERT_EQ(next, kNew) << "killed at stop " << stop;
  }
  std::printf("%d stops with the old configuration, %d with the new one\n", old_count, new_count);
  EXPECT_GT(old_count, 10);  // until the journal is there
  EXPECT_GT(new_count, 50);
}

// Also while it is undone. What has grown stays so.
TEST_F(ConfigKillTest, AChangeThatFailsLeavesTheOldConfiguration) {
  int count = 0;
  for (int stop = 1;; stop += 5) {
    const std::string next = KillAt(stop, true);
    if (next.empty()) break;
    ++count;
    ASSERT_EQ(next, kOld) << "killed at stop " << stop;
  }
  EXPECT_GT(count, 10);
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  if (mode == "--change") return zerocp::Change(argv[2], std::string(argv[3]) == "impossible");
  if (mode == "--start") {
    spdlog::set_level(spdlog::level::off);
    return zerocp::PrintNextStart(argv[2]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
