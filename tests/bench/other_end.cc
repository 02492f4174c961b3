#include "tests/bench/other_end.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tests/bench/must.h"

namespace zerocp::bench {
namespace {

int CreateTurns() {
  const int fd = memfd_create("turns", 0);
  if (fd < 0 || ftruncate(fd, sizeof(Turns)) != 0) Die("memory for turns", std::strerror(errno));
  return fd;
}

Turns& MapTurns(int fd) {
  void* mapped = mmap(nullptr, sizeof(Turns), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) Die("mapping of turns", std::strerror(errno));
  return *static_cast<Turns*>(mapped);
}

std::vector<std::string> Command(const std::string& peer, const std::vector<std::string>& words,
                                 int fd) {
  std::vector<std::string> command = {std::filesystem::read_symlink("/proc/self/exe"),
                                      "--other-end", peer};
  command.insert(command.end(), words.begin(), words.end());
  command.push_back(std::to_string(fd));
  return command;
}

}  // namespace

bool Turns::RestUntilWanted() {
  works.store(0);
  while (wanted.load() == kRest)
    syscall(SYS_futex, &wanted, FUTEX_WAIT, kRest, nullptr, nullptr, 0);
  works.store(1);
  return wanted.load() != kEnd;
}

OtherEnd::OtherEnd(const std::string& peer, const std::string& place,
                   std::vector<std::string> words)
    : name_("the other end of " + peer),
      fd_(CreateTurns()),
      log_(place + "/" + peer + "." + std::to_string(fd_) + ".log"),
      turns_(MapTurns(fd_)),
      process_({.command = Command(peer, words, fd_), .error = log_}) {}

OtherEnd::~OtherEnd() {
  Want(Turns::kEnd);
  if (process_.Wait() != 0) Die(name_.c_str(), testing::ReadFile(log_));
  munmap(&turns_, sizeof(Turns));
  close(fd_);
}

void OtherEnd::Want(Turns::Wanted wanted) {
  turns_.wanted.store(wanted);
  syscall(SYS_futex, &turns_.wanted, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void OtherEnd::Work() {
  Want(Turns::kWork);
  while (turns_.works.load() != 1) {
    if (!process_.Running()) Die(name_.c_str(), testing::ReadFile(log_));
    __builtin_ia32_pause();
  }
}

void OtherEnd::Start(uint64_t count) {
  turns_.count.store(count);
  Want(Turns::kWork);
}

bool OtherEnd::Resting() {
  if (!process_.Running()) Die(name_.c_str(), testing::ReadFile(log_));
  return turns_.wanted.load() == Turns::kRest;
}

void OtherEnd::Rest() {
  turns_.wanted.store(Turns::kRest);
  while (turns_.works.load() != 0) __builtin_ia32_pause();
}

Turns& TurnsOf(const std::string& word) { return MapTurns(std::stoi(word)); }

}  // namespace zerocp::bench
