// Which instructions a loan and its release execute: a child of this program is single-stepped
// through the public API, and each of its instructions is read.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <zerocp/zerocp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

#include "tests/system/daemon_process.h"

namespace zerocp {
namespace {

constexpr size_t kBytes = 1024;

// What begins and ends the part that is looked at.
inline void Mark() { asm volatile("int3" : : : "memory"); }

// Two rounds: the first goes through what is done once in a thread.
int RunTraced(bool stream, const std::string& channel, const std::string& runtime_dir) {
  auto client = Client::Connect({"traced", runtime_dir});
  if (!client) return 3;
  auto subscriber = client->JoinAsSubscriber(channel);
  auto publisher = client->JoinAsPublisher(channel);
  if (!subscriber || !publisher) return 4;
  if (!publisher->WaitForSubscribers(1)) return 5;
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) return 6;
  for (int round = 0; round < 2; ++round) {
    bool fine = true;
    if (round == 1) Mark();
    {
      auto loan = publisher->NewLoan(kBytes);
      if (stream) fine = static_cast<bool>(publisher->Publish(*loan));
    }
    if (stream) {
      auto sample = subscriber->TryTake();
      fine = fine && sample;
    }
    if (round == 1) Mark();
    if (!fine) return 7;
  }
  return 0;
}

struct Executed {
  int instructions = 0;
  int locked = 0;        // with a lock prefix, or an exchange with memory, which implies it
  int fences = 0;        // mfence
  int system_calls = 0;  // syscall, sysenter, int
};

// Adds the instruction whose first bytes are `code`.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2.
void Add(const std::array<uint8_t, 16>& code, Executed& executed) {
  ++executed.instructions;
  size_t at = 0;
  bool locked = false;
  const auto is_prefix = [](uint8_t byte) {
    return std::strchr("\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65", byte) != nullptr &&
           byte != 0;
  };
  for (; at < 13 && is_prefix(code[at]); ++at) locked |= code[at] == 0xf0;
  if ((code[at] & 0xf0) == 0x40) ++at;  // REX
  const bool of_memory = code[at + 1] >> 6 != 3;
  if ((code[at] == 0x86 || code[at] == 0x87) && of_memory) locked = true;
  executed.locked += locked ? 1 : 0;
  if (code[at] == 0xcd) ++executed.system_calls;
  if (code[at] != 0x0f) return;
  if (code[at + 1] == 0x05 || code[at + 1] == 0x34) ++executed.system_calls;
  if (code[at + 1] == 0xae && code[at + 2] >> 3 == 0x1e) ++executed.fences;
}

class PrivatePathTest : public ::testing::Test {
 protected:
  // Waits for `pid` to stop by SIGTRAP.
  static void WaitForTrap(pid_t pid) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid) << std::strerror(errno);
    ASSERT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) << "status " << status;
  }
  static std::array<uint8_t, 16> CodeOf(pid_t pid) {
    // The program counter, by its offset in the area that PTRACE_PEEKUSER reads.
    constexpr long kRip = 16 * 8;
    const long address = ptrace(PTRACE_PEEKUSER, pid, kRip, nullptr);
    std::array<uint8_t, 16> code{};
    for (long i = 0; i < 2; ++i) {
      const long word = ptrace(PTRACE_PEEKTEXT, pid, address + i * 8, nullptr);
      std::memcpy(code.data() + i * 8, &word, sizeof(word));
    }
    return code;
  }

  // Between the two marks of `work`.
  Executed Trace(const std::string& work, const std::string& channel) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const testing::ChildProcess child(
        {.command = {self, "--traced", work, channel, daemon_.runtime_dir()}});
    Executed executed;
    WaitForTrap(child.pid());
    while (!HasFailure()) {
      const auto code = CodeOf(child.pid());
      if (code[0] == 0xcc) break;
      Add(code, executed);
      if (ptrace(PTRACE_SINGLESTEP, child.pid(), nullptr, nullptr) != 0)
        ADD_FAILURE() << std::strerror(errno);
      WaitForTrap(child.pid());
    }
    std::printf("%s of '%s': %d instructions, %d locked, %d fences, %d system calls\n",
                work.c_str(), channel.c_str(), executed.instructions, executed.locked,
                executed.fences, executed.system_calls);
    return executed;
  }

  // Also where anyone may take cached chunks back.
  void ExpectPrivate(const std::string& work, int least_instructions) {
    for (const char* channel : {"feed", "large"}) {
      const Executed executed = Trace(work, channel);
      EXPECT_GT(executed.instructions, least_instructions);
      EXPECT_EQ(executed.locked, 0);
      EXPECT_EQ(executed.fences, 0);
      EXPECT_EQ(executed.system_calls, 0);
    }
  }

  testing::DaemonProcess daemon_{{"--pool", "p=1KiBx8192", "--channel", "feed=p,queue=64", "--pool",
                                  "q=64KiBx64", "--channel", "large=q"}};
};

TEST_F(PrivatePathTest, ALoanAndItsReleaseExecuteNoLockedInstructionAndNoSystemCall) {
  ExpectPrivate("loan", 40);
}

TEST_F(PrivatePathTest, AMessageToOneWaitingSubscriberExecutesNoneEither) {
  ExpectPrivate("stream", 100);
}

TEST(InstructionTest, EachKindIsRecognized) {
  const auto of = [](std::array<uint8_t, 16> code) {
    Executed executed;
    Add(code, executed);
    return executed;
  };
  EXPECT_EQ(of({0xf0, 0x48, 0x0f, 0xb1, 0x0a}).locked, 1);  // lock cmpxchg %rcx,(%rdx)
  EXPECT_EQ(of({0x66, 0xf0, 0x0f, 0xc1, 0x02}).locked, 1);  // lock xadd %ax,(%rdx)
  EXPECT_EQ(of({0x48, 0x87, 0x02}).locked, 1);              // xchg %rax,(%rdx)
  EXPECT_EQ(of({0x48, 0x87, 0xc2}).locked, 0);              // xchg %rax,%rdx
  EXPECT_EQ(of({0x89, 0xf0}).locked, 0);                    // mov %esi,%eax
  EXPECT_EQ(of({0x0f, 0xae, 0xf0}).fences, 1);              // mfence
  EXPECT_EQ(of({0x0f, 0x05}).system_calls, 1);              // syscall
  EXPECT_EQ(of({0xcd, 0x80}).system_calls, 1);              // int $0x80
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--traced")
    return zerocp::RunTraced(argv[2] == std::string("stream"), argv[3], argv[4]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
