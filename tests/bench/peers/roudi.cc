#include "tests/bench/peers/roudi.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iceoryx_hoofs/log/logmanager.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <string>
#include <thread>

#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"

namespace zerocp::bench {
namespace {

constexpr char kPid[] = "ZEROCP_BENCH_ROUDI";  // in the environment once it runs
constexpr char kPools[] =
    "[general]\nversion = 1\n[[segment]]\n"
    "[[segment.mempool]]\nsize = 1024\ncount = 4096\n"
    "[[segment.mempool]]\nsize = 65536\ncount = 512\n"
    "[[segment.mempool]]\nsize = 1048576\ncount = 256\n"
    "[[segment.mempool]]\nsize = 33554432\ncount = 48\n";

class RouDi {
 public:
  RouDi()
      : log_(dir_.path() + "/log"),
        process_({.command = Command(), .output = log_, .error = dir_.path() + "/err"}) {
    while (testing::ReadFile(log_).find("RouDi is ready") == std::string::npos) {
      if (!process_.Running())
        Die("iox-roudi (does another one run on this machine?)",
            testing::ReadFile(log_) + testing::ReadFile(dir_.path() + "/err"));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    setenv(kPid, std::to_string(process_.pid()).c_str(), 1);
  }
  ~RouDi() {
    process_.Signal(SIGTERM);
    process_.Wait();
  }
  RouDi(const RouDi&) = delete;
  RouDi& operator=(const RouDi&) = delete;

 private:
  std::vector<std::string> Command() const {
    Unpin();
    testing::WriteFile(dir_.path() + "/pools.toml", kPools);
    return {kRouDi,        "--config-file", dir_.path() + "/pools.toml",
            "--log-level", "warning",       "--monitoring-mode",
            "off"};
  }

  const testing::TempDir dir_;
  const std::string log_;
  testing::ChildProcess process_;
};

}  // namespace

void UseRouDi() {
  static const bool used = [] {
    if (std::getenv(kPid) == nullptr) static const RouDi roudi;
    iox::log::LogManager::GetLogManager().SetDefaultLogLevel(
        iox::log::LogLevel::kError, iox::log::LogLevelOutput::kHideLogLevel);
    const std::string name = "zerocp_bench_" + std::to_string(getpid());
    iox::runtime::PoshRuntime::initRuntime(iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name));
    return true;
  }();
  (void)used;
}

pid_t RouDiPid() { return std::stoi(std::getenv(kPid)); }

}  // namespace zerocp::bench
