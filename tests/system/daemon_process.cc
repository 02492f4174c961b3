#include "tests/system/daemon_process.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

namespace zerocp::testing {
namespace {

constexpr std::chrono::seconds kStartLimit{60};

bool Answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const bool connected =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return connected;
}

}  // namespace

DaemonProcess::DaemonProcess(std::vector<std::string> arguments)
    : runtime_dir_(dir_.path() + "/run"), arguments_(std::move(arguments)) {
  std::filesystem::create_directory(runtime_dir_);
  std::filesystem::permissions(runtime_dir_, std::filesystem::perms::owner_all);
  Start();
}

DaemonProcess::~DaemonProcess() {
  if (process_->Running()) Stop(SIGTERM);
  for (const std::string& path : Segments()) std::filesystem::remove(path);
}

void DaemonProcess::Start() {
  std::vector<std::string> command = {BinDir() + "/zerocpd", "--runtime-dir", runtime_dir_};
  if (std::find(arguments_.begin(), arguments_.end(), "--on-stop") == arguments_.end()) {
    command.insert(command.end(), {"--on-stop", "unlink"});
  }
  command.insert(command.end(), arguments_.begin(), arguments_.end());
  process_.emplace(ChildOptions{.command = std::move(command), .error = dir_.path() + "/log"});
  const auto limit = std::chrono::steady_clock::now() + kStartLimit;
  while (!Answers(socket("attach.sock"))) {
    if (!process_->Running() || std::chrono::steady_clock::now() > limit) {
      std::fprintf(stderr, "zerocpd does not start. Its log:\n%s", Log().c_str());
      std::abort();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // The instance is derived from the runtime directory, so the daemon's mappings name its files.
  const std::string maps = ReadFile("/proc/" + std::to_string(pid()) + "/maps");
  segments_.clear();
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    if (maps.find(entry.path().string() + "\n") != std::string::npos) {
      segments_.push_back(entry.path());
    }
  }
}

std::vector<std::string> DaemonProcess::Command(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), BinDir() + "/zerocp");
  arguments.insert(arguments.end(), {"--runtime-dir", runtime_dir_});
  return arguments;
}

int DaemonProcess::Stop(int signal) {
  process_->Signal(signal);
  return process_->Wait();
}

std::string DaemonProcess::Log() const { return ReadFile(dir_.path() + "/log"); }

std::vector<std::string> DaemonProcess::Segments() const {
  std::vector<std::string> found;
  for (const std::string& path : segments_) {
    if (std::filesystem::exists(path)) found.push_back(path);
  }
  return found;
}

}  // namespace zerocp::testing
