#include "client/cli/ssh_tunnel.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <regex>
#include <thread>
#include <vector>

#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "client/internal/find_daemon.h"

extern char** environ;

namespace zerocp::cli {
namespace {

// Neither user nor host begins as an option does. An IPv6 address has brackets.
constexpr char kUri[] =
    R"(ssh://([^-/][^/]*@)?(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^-:/@\[\]][^:/@\[\]]*))(?::([0-9]+))?/?)";

}  // namespace

std::unique_ptr<SshTunnel> SshTunnel::Open(const std::string& host, const std::string& socket,
                                           int* exit_code) {
  std::smatch parts;
  if (!std::regex_match(host, parts, std::regex(kUri))) {
    *exit_code = Failed(kUsage, "--host " + host + " is not ssh://[USER@]HOST[:PORT]");
    return nullptr;
  }
  const std::string destination = parts[1].str() + parts[2].str() + parts[3].str();
  CatchStopSignals();
  std::unique_ptr<SshTunnel> tunnel(new SshTunnel());
  if (tunnel->Start(destination, parts[4], socket) && tunnel->AwaitSocket()) return tunnel;
  *exit_code = StopSignal() != 0
                   ? kSignal + StopSignal()
                   : Failed(kNotReachable, "ssh to " + destination + " does not forward " + socket);
  return nullptr;
}

bool SshTunnel::Start(const std::string& destination, const std::string& port,
                      const std::string& remote) {
  std::string directory = std::filesystem::temp_directory_path() / "zerocp-ssh.XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) {
    Failed(kFailed, directory + ": " + std::strerror(errno));
    return false;
  }
  directory_ = directory;
  socket_ = directory + "/socket";
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  const shm::UniqueFd read_end(ends[0]);
  input_ = shm::UniqueFd(ends[1]);
  // A connection of its own: a master of the user's would neither end nor begin with it.
  std::vector<std::string> words{"ssh", "-T", "-S", "none", "-o", "LogLevel=ERROR"};
  words.insert(words.end(), {"-o", "ExitOnForwardFailure=yes", "-L", socket_ + ":" + remote});
  if (!port.empty()) words.insert(words.end(), {"-p", port});
  // cat ends with its input.
  words.insert(words.end(), {"--", destination, "cat"});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, read_end.get(), STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  const int error = posix_spawnp(&pid_, "ssh", &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) return true;
  pid_ = 0;
  Failed(kFailed, std::string("ssh: ") + std::strerror(error));
  return false;
}

bool SshTunnel::AwaitSocket() {
  while (!internal::ConnectToDaemon(socket_, SOCK_STREAM).ok()) {
    if (StopSignal() != 0) return false;
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = 0;
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

SshTunnel::~SshTunnel() {
  input_ = shm::UniqueFd();
  if (pid_ != 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

}  // namespace zerocp::cli
