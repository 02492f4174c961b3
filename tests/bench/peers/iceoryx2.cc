// iceoryx2, by a program in Rust that deploy/setup.sh builds from iceoryx2/ and that plays both
// ends.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>

#include "tests/bench/must.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"

namespace zerocp::bench {
namespace {

std::string ProgramPath() {
  const char* tools = std::getenv("ZEROCP_TOOLS");
  return std::string(tools != nullptr ? tools : "/usr/local/lib/zerocp-tools") +
         "/iceoryx2/bin/iceoryx2_bench";
}

// Answers each line with one of nanoseconds per operation.
class Program {
 public:
  Program(const std::vector<std::string>& arguments, const std::string& log) : log_(log) {
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) Die("pipe", std::strerror(errno));
    std::vector<std::string> command = {ProgramPath()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    Unpin();
    process_ = std::make_unique<testing::ChildProcess>(testing::ChildOptions{
        .command = command, .error = log, .output_fd = out[1], .input_fd = in[0]});
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    PinTo(0);
  }
  ~Program() {
    std::fclose(to_);  // it ends with its input
    if (process_->Wait() != 0) Fail();
    std::fclose(from_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::vector<double> Round() {
    char* line = nullptr;
    size_t size = 0;
    if (std::fputs("round\n", to_) < 0 || std::fflush(to_) != 0 || getline(&line, &size, from_) < 0)
      Fail();
    std::istringstream numbers{std::string(line)};
    std::free(line);
    std::vector<double> times;
    for (double time; numbers >> time;) times.push_back(time);
    if (times.empty()) Fail();
    return times;
  }

 private:
  [[noreturn]] void Fail() const { Die("iceoryx2_bench", testing::ReadFile(log_)); }

  const std::string log_;
  std::unique_ptr<testing::ChildProcess> process_;
  FILE* to_;
  FILE* from_;
};

Subject ProgramSubject(int processes, size_t bytes, const std::string& place,
                       std::vector<std::string> arguments) {
  const auto program = std::make_shared<Program>(arguments, place + "/iceoryx2.log");
  return {"iceoryx2", processes, static_cast<int64_t>(bytes),
          [program] { return program->Round(); }};
}

Subject LinkSubject(const char* kind, const LinkSpec& spec) {
  return ProgramSubject(
      2, spec.bytes, spec.place,
      {kind, spec.place, std::to_string(spec.bytes), spec.sleeping ? "sleeping" : "polling",
       spec.touched ? "touched" : "untouched"});
}

}  // namespace

Peer Iceoryx2Peer() {
  Peer peer{"iceoryx2",
            "iceoryx2 0.10.0 (crates.io), ipc::Service, slices of u8, RetryUntilDelivered, queues "
            "of 128"};
  if (access(ProgramPath().c_str(), X_OK) != 0)
    peer.missing = "no " + ProgramPath() +
                   "; deploy/setup.sh builds it where there is a cargo of 1.89 or newer";
  peer.loan_release = [](const LoanSpec& spec) {
    return ProgramSubject(1, spec.bytes, spec.place,
                          {"loan_release", spec.place, std::to_string(spec.bytes),
                           std::to_string(spec.held), std::to_string(spec.threads)});
  };
  peer.ping_pong = [](const LinkSpec& spec) { return LinkSubject("ping_pong", spec); };
  peer.stream = [](const LinkSpec& spec) { return LinkSubject("stream", spec); };
  return peer;
}

}  // namespace zerocp::bench
