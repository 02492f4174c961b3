// A zerocpd of the test's own, in its own runtime directory.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/system/child_process.h"

namespace zerocp::testing {

class DaemonProcess {
 public:
  // Starts zerocpd with these arguments beside --runtime-dir and --on-stop=unlink, and waits until
  // it takes clients. Aborts with its log if it does not.
  explicit DaemonProcess(std::vector<std::string> arguments = {});
  // Stops it, if it still runs, and removes its segments if it was killed.
  ~DaemonProcess();

  const std::string& runtime_dir() const { return runtime_dir_; }
  std::string socket(const std::string& name) const { return runtime_dir_ + "/" + name; }
  pid_t pid() const { return process_->pid(); }
  // The command `zerocp` with this daemon's runtime directory: {path, arguments..., --runtime-dir,
  // dir}.
  std::vector<std::string> Command(std::vector<std::string> arguments) const;

  // Sends the signal and waits. The exit code, as ChildProcess::Wait.
  int Stop(int signal);
  // Starts it again after Stop, with the same arguments, or with others.
  void Start();
  void Start(std::vector<std::string> arguments) {
    arguments_ = std::move(arguments);
    Start();
  }
  void Signal(int signal) const { process_->Signal(signal); }
  std::string Log() const;
  // Paths of this daemon's segments that exist now.
  std::vector<std::string> Segments() const;

 private:
  TempDir dir_;
  const std::string runtime_dir_;
  std::vector<std::string> arguments_;
  std::vector<std::string> segments_;  // as they were at the last start
  std::optional<ChildProcess> process_;
};

}  // namespace zerocp::testing
