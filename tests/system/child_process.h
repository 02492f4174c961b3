// Programs that a test starts: by posix_spawn, never by a bare fork, and ended by their own id.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace zerocp::testing {

// Directory of the built programs ($ZEROCP_BIN_DIR, as ctest sets it).
std::string BinDir();

// A new directory under /tmp, removed with all that is in it.
class TempDir {
 public:
  explicit TempDir(const std::string& parent = "/tmp");
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, const std::string& bytes);

struct ChildOptions {
  std::vector<std::string> command = {};        // the program's path, then its arguments
  std::map<std::string, std::string> env = {};  // beside those of the test
  // Files for the standard streams; empty: /dev/null.
  std::string input = {};
  std::string output = {};
  std::string error = {};
  int output_fd = -1;  // instead of `output`
  int input_fd = -1;   // instead of `input`
};

// Killed by the destructor if it still runs; gets SIGTERM when the thread that started it ends.
class ChildProcess {
 public:
  explicit ChildProcess(const ChildOptions& options);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();
  void Signal(int signal) const;
  // Waits for the end. Exit status, or 128 + number of the signal that ended it.
  int Wait();

 private:
  void Note(int status);

  pid_t pid_ = 0;
  bool ended_ = false;
  int exit_code_ = -1;
};

// Runs a command to its end.
struct Ran {
  int exit_code;
  std::string output;
  std::string error;
};
Ran RunCommand(const std::vector<std::string>& command, const std::string& input = {});

}  // namespace zerocp::testing
