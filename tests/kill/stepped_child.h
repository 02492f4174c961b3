// A child that is single-stepped, and the files that it works on, so that what a kill after each of
// its instructions leaves can be looked at. A kill takes the whole process, so what it leaves is
// exactly a prefix of its instructions' effects.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "shm/unique_fd.h"

namespace zerocp::testing {

// The bytes of a directory's files, by their names.
using Files = std::map<std::string, std::string>;

// The files of a new directory `dir`, private.
inline void WriteFiles(const std::string& dir, const Files& files) {
  std::filesystem::create_directory(dir);
  for (const auto& [name, bytes] : files) {
    const std::string path = std::filesystem::path(dir) / name;
    const shm::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    ASSERT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
}

// The files of a directory as they are now, but for those in its own directories.
class DirectoryWatch {
 public:
  explicit DirectoryWatch(std::string dir) : dir_(std::move(dir)) {}

  // True if they differ from what the last call saw; the first call's is nothing.
  bool HaveChanged() {
    MapAll();
    bool changed = seen_.size() != mapped_.size();
    for (const auto& [name, file] : mapped_) {
      const auto seen = seen_.find(name);
      if (changed) break;
      changed = seen == seen_.end() || seen->second != file->bytes();
    }
    if (!changed) return false;
    seen_.clear();
    for (const auto& [name, file] : mapped_) seen_.emplace(name, file->bytes());
    return true;
  }
  const Files& files() const { return seen_; }

 private:
  class File {
   public:
    explicit File(const std::string& path)
        : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)),
          data_(static_cast<const char*>(
              mmap(nullptr, kMostBytes, PROT_READ, MAP_SHARED, fd_.get(), 0))) {
      EXPECT_NE(static_cast<const void*>(data_), MAP_FAILED) << path;
    }
    ~File() { munmap(const_cast<char*>(data_), kMostBytes); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    std::string_view bytes() const { return {data_, static_cast<size_t>(Status().st_size)}; }
    // Not removed since.
    bool IsThere() const { return Status().st_nlink != 0; }

   private:
    static constexpr size_t kMostBytes = size_t{256} << 20;
    struct stat Status() const {
      struct stat info {};
      fstat(fd_.get(), &info);
      return info;
    }
    const shm::UniqueFd fd_;
    const char* const data_;
  };

  void MapAll() {
    std::erase_if(mapped_, [](const auto& file) { return !file.second->IsThere(); });
    for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
      const std::string name = entry.path().filename();
      if (!mapped_.contains(name) && entry.is_regular_file())
        mapped_[name] = std::make_unique<File>(entry.path());
    }
  }

  const std::string dir_;
  std::map<std::string, std::unique_ptr<File>> mapped_;
  Files seen_;
};

// True if the next instruction of a stopped child may store to a segment: false for the commonest
// that surely do not, because they store nothing, or to the stack.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A.
inline bool MayStore([[maybe_unused]] pid_t child) {
#if defined(__x86_64__)
  const long rip = ptrace(PTRACE_PEEKUSER, child, offsetof(user_regs_struct, rip), nullptr);
  auto code = static_cast<uint64_t>(ptrace(PTRACE_PEEKTEXT, child, rip, nullptr));
  const auto next = [&code] {
    const auto byte = static_cast<uint8_t>(code);
    code >>= 8;
    return byte;
  };
  uint8_t opcode = next();
  if (opcode == 0x66) opcode = next();
  if ((opcode & 0xf0) == 0x40) opcode = next();  // REX
  if (opcode == 0x0f) {
    opcode = next();
    return !((opcode >= 0x40 && opcode <= 0x4f) ||  // cmov
             (opcode >= 0x80 && opcode <= 0x8f) ||  // jcc
             (opcode & 0xf6) == 0xb6 ||             // movzx, movsx
             opcode == 0x1f || opcode == 0xaf);     // nop, imul
  }
  const bool of_registers = (code & 0xc0) == 0xc0;
  const unsigned extension = code >> 3 & 7;
  if (opcode >= 0x50 && opcode <= 0x5f) return false;                         // push, pop
  if (opcode >= 0x70 && opcode <= 0x7f) return false;                         // jcc
  if (opcode >= 0xb0 && opcode <= 0xbf) return false;                         // mov of a constant
  if (opcode < 0x40 && (opcode & 7) >= 2 && (opcode & 7) <= 5) return false;  // add ... to register
  switch (opcode) {
    case 0x38:
    case 0x39:  // cmp
    case 0x63:
    case 0x69:
    case 0x6b:  // movsxd, imul
    case 0x84:
    case 0x85:
    case 0x8a:
    case 0x8b:  // test, mov from memory
    case 0x8d:
    case 0x90:
    case 0xa8:
    case 0xa9:  // lea, nop, test
    case 0xc3:
    case 0xe8:
    case 0xe9:
    case 0xeb:  // ret, call, jmp
      return false;
    case 0x80:
    case 0x81:
    case 0x83:
      return !of_registers && extension != 7;  // 7: cmp
    case 0xf6:
    case 0xf7:
      return !of_registers && extension > 1;  // 0 and 1: test
    case 0x00:
    case 0x01:
    case 0x08:
    case 0x09:
    case 0x20:
    case 0x21:
    case 0x28:
    case 0x29:
    case 0x30:
    case 0x31:
    case 0x88:
    case 0x89:
    case 0xc0:
    case 0xc1:
    case 0xd1:
    case 0xd3:
      return !of_registers;
    default:
      return true;
  }
#else
  return true;
#endif
}

// Runs `run` in a child, to its first SIGSTOP; before that it says PTRACE_TRACEME. REQUIRES: no
// other thread in this program.
template <class Run>
pid_t StartStopped(const Run& run) {
  const pid_t child = fork();
  if (child == 0) {
    run();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSTOPPED(status)) << "the child did not begin, status " << status;
  return child;
}

// The child's side: what comes next is traced.
inline void BeginTraced() {
  ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  raise(SIGSTOP);
}

inline void RunToItsStop(pid_t child) {
  int status = 0;
  ptrace(PTRACE_CONT, child, nullptr, nullptr);
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSTOPPED(status)) << "the child ended by itself, status " << status;
}

// One instruction; false at the next SIGSTOP.
inline bool Step(pid_t child) {
  int status = 0;
  if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return false;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSTOPPED(status)) << "the child ended by itself, status " << status;
  return WIFSTOPPED(status) && WSTOPSIG(status) != SIGSTOP;
}

inline void KillChild(pid_t child) {
  int status = 0;
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
}

// Steps a stopped child to its next SIGSTOP; each time that the files of `dir` have changed,
// `on_state`, until the test fails. Kills it. `looks_always`: after every instruction, and not only
// after those that may store. Returns the number of instructions.
template <class OnState>
int StepThroughStates(pid_t child, const std::string& dir, const OnState& on_state,
                      bool looks_always = false) {
  DirectoryWatch watch(dir);
  int steps = 0;
  for (bool may_differ = true;; ++steps) {
    if (may_differ && watch.HaveChanged()) {
      on_state(watch.files());
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "after instruction " << steps;
        break;
      }
    }
    may_differ = looks_always || MayStore(child);
    if (!Step(child)) break;
  }
  KillChild(child);
  return steps;
}

}  // namespace zerocp::testing
