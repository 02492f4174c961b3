#include "tests/bench/link.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

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

}  // namespace

OtherEnd::OtherEnd(const std::string& peer, const char* kind, const LinkSpec& spec)
    : name_(peer),
      log_(spec.place + "/" + peer + ".log"),
      fd_(CreateTurns()),
      turns_(MapTurns(fd_)),
      process_({.command = {std::filesystem::read_symlink("/proc/self/exe"), "--other-end", peer,
                            kind, spec.place, std::to_string(spec.bytes),
                            spec.sleeping ? "sleeping" : "polling",
                            spec.touched ? "touched" : "untouched", std::to_string(fd_)},
                .error = log_}) {}

OtherEnd::~OtherEnd() {
  if (process_.Wait() != 0) Die(("the other end of " + name_).c_str(), testing::ReadFile(log_));
  munmap(&turns_, sizeof(Turns));
  close(fd_);
}

void OtherEnd::Work() {
  turns_.wanted.store(1);
  syscall(SYS_futex, &turns_.wanted, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  while (turns_.state.load() != 1) {
    if (!process_.Running()) Die(("the other end of " + name_).c_str(), testing::ReadFile(log_));
    __builtin_ia32_pause();
  }
}

void OtherEnd::Rest() {
  turns_.wanted.store(0);
  while (turns_.state.load() != 0) __builtin_ia32_pause();
}

OtherEndArguments::OtherEndArguments(const std::vector<std::string>& arguments)
    : spec{.place = arguments.at(1),
           .bytes = std::stoul(arguments.at(2)),
           .sleeping = arguments.at(3) == "sleeping",
           .touched = arguments.at(4) == "touched"},
      streams(arguments.at(0) == "stream"),
      turns(&MapTurns(std::stoi(arguments.at(5)))) {}

void OtherEndArguments::RestUntilWanted() const {
  turns->state.store(0);
  while (turns->wanted.load() == 0)
    syscall(SYS_futex, &turns->wanted, FUTEX_WAIT, 0, nullptr, nullptr, 0);
  turns->state.store(1);
}

}  // namespace zerocp::bench
