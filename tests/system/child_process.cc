#include "tests/system/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace zerocp::testing {
namespace {

[[noreturn]] void Die(const std::string& what, int error) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), std::generic_category().message(error).c_str());
  std::abort();
}

std::vector<std::string> Environment(const std::map<std::string, std::string>& changes) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!changes.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : changes) all.emplace_back(name).append("=").append(value);
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

std::string BinDir() {
  const char* dir = std::getenv("ZEROCP_BIN_DIR");
  if (dir == nullptr) Die("ZEROCP_BIN_DIR is not set: run this test with ctest", ENOENT);
  return dir;
}

TempDir::TempDir(const std::string& parent) : path_(parent + "/zerocp-test-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) Die(path_.c_str(), errno);
}

TempDir::~TempDir() { std::filesystem::remove_all(path_); }

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) Die(path, EIO);
}

ChildProcess::ChildProcess(const ChildOptions& options) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const auto redirect = [&](int target, int fd, const std::string& file, int flags) {
    if (fd >= 0) {
      posix_spawn_file_actions_adddup2(&actions, fd, target);
    } else {
      posix_spawn_file_actions_addopen(&actions, target, file.empty() ? "/dev/null" : file.c_str(),
                                       flags, 0600);
    }
  };
  redirect(STDIN_FILENO, options.input_fd, options.input, O_RDONLY);
  redirect(STDOUT_FILENO, options.output_fd, options.output, O_WRONLY | O_CREAT | O_TRUNC);
  redirect(STDERR_FILENO, -1, options.error, O_WRONLY | O_CREAT | O_TRUNC);
  // Ended with the test, even if that is killed; setpriv becomes the program by exec.
  std::vector<std::string> command = {"/usr/bin/setpriv", "--pdeathsig", "TERM", "--"};
  command.insert(command.end(), options.command.begin(), options.command.end());
  std::vector<std::string> environment = Environment(options.env);
  const int error = posix_spawn(&pid_, command[0].c_str(), &actions, nullptr,
                                Pointers(command).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Die(command[0], error);
}

ChildProcess::~ChildProcess() {
  if (!Running()) return;
  Signal(SIGKILL);
  Wait();
}

bool ChildProcess::Running() {
  int status;
  if (!ended_ && waitpid(pid_, &status, WNOHANG) == pid_) Note(status);
  return !ended_;
}

void ChildProcess::Signal(int signal) const {
  if (!ended_) kill(pid_, signal);
}

int ChildProcess::Wait() {
  int status;
  while (!ended_) {
    if (waitpid(pid_, &status, 0) == pid_) Note(status);
  }
  return exit_code_;
}

void ChildProcess::Note(int status) {
  ended_ = true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Ran RunCommand(const std::vector<std::string>& command, const std::string& input) {
  TempDir dir;
  WriteFile(dir.path() + "/in", input);
  ChildProcess child({.command = command,
                      .input = dir.path() + "/in",
                      .output = dir.path() + "/out",
                      .error = dir.path() + "/err"});
  const int exit_code = child.Wait();
  return {exit_code, ReadFile(dir.path() + "/out"), ReadFile(dir.path() + "/err")};
}

}  // namespace zerocp::testing
