#include "tests/kill/torture_marks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace zerocp::torture {
namespace {

constexpr uint32_t kCountBits = 8;
constexpr uint32_t kCountMask = (1u << kCountBits) - 1;

uint64_t Mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

// The word behind the head at `index`.
uint64_t Filler(uint64_t key, size_t index) { return key + index * 0xbf58476d1ce4e5b9u; }

uint64_t KeyOf(const Canary& canary) {
  uint64_t key = Mix(canary.owner, canary.serial);
  for (uint64_t word : {canary.pool, canary.publisher, canary.sequence, canary.size_bytes})
    key = Mix(key, word);
  return key;
}

std::string ToString(const Canary& canary) {
  return "process " + std::to_string(canary.owner) + "'s chunk " + std::to_string(canary.serial) +
         ", message " + std::to_string(canary.sequence) + " of publisher " +
         std::to_string(canary.publisher) + ", " + std::to_string(canary.size_bytes) + " bytes";
}

}  // namespace

Page* MapPage(int fd) {
  void* mapped = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) {
    std::perror("mapping of the page");
    std::abort();
  }
  return static_cast<Page*>(mapped);
}

void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::fflush(stderr);
  _exit(1);
}

Marks::Marks(Page& page, uint32_t incarnation) : page_(page), incarnation_(incarnation) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line) && base_ == 0;) {
    if (line.find("_memory_chunk") != std::string::npos) base_ = std::stoull(line, nullptr, 16);
  }
  if (base_ == 0) Die("this process has no chunk segment in its memory");
}

Mark& Marks::Of(const void* data) const {
  const size_t index = (reinterpret_cast<uintptr_t>(data) - base_) / kMarkBytes;
  if (index >= kMarks) Die("a chunk lies at mark " + std::to_string(index) + ": too far");
  return page_.marks[index];
}

std::string Marks::Name(const void* data) const {
  return "process " + std::to_string(incarnation_) + ", chunk at offset " +
         std::to_string(reinterpret_cast<uintptr_t>(data) - base_);
}

void Marks::Own(const void* data) const {
  Mark& mark = Of(data);
  const uint32_t other = mark.owner.exchange(incarnation_);
  if (other != 0 && page_.Lives(other)) {
    Die(Name(data) + ": loaned, but process " + std::to_string(other) + " is writing it");
  }
  for (const std::atomic<uint32_t>& reader : mark.readers) {
    const uint32_t word = reader.load();
    if ((word & kCountMask) != 0 && page_.Lives(word >> kCountBits)) {
      Die(Name(data) + ": loaned, but process " + std::to_string(word >> kCountBits) +
          " is reading it");
    }
  }
}

void Marks::Disown(const void* data) const {
  const uint32_t owner = Of(data).owner.exchange(0);
  if (owner != incarnation_) {
    Die(Name(data) + ": its own loan is marked as process " + std::to_string(owner) + "'s");
  }
}

void Marks::Read(const void* data) const {
  Mark& mark = Of(data);
  std::atomic<uint32_t>& mine = mark.readers[incarnation_ % kProcesses];
  uint32_t word = mine.load();
  uint32_t more;
  do {
    more = word >> kCountBits == incarnation_ ? word + 1 : incarnation_ << kCountBits | 1;
  } while (!mine.compare_exchange_weak(word, more));
  const uint32_t owner = mark.owner.load();
  if (owner != 0 && page_.Lives(owner)) {
    Die(Name(data) + ": taken or opened, but process " + std::to_string(owner) + " is writing it");
  }
}

void Marks::Unread(const void* data) const {
  const uint32_t word = Of(data).readers[incarnation_ % kProcesses].fetch_sub(1);
  if (word >> kCountBits != incarnation_ || (word & kCountMask) == 0) {
    Die(Name(data) + ": its own sample is marked " + std::to_string(word));
  }
}

void Write(std::span<std::byte> bytes, const Canary& canary) {
  std::memcpy(bytes.data(), &canary, sizeof(canary));
  const uint64_t key = KeyOf(canary);
  for (size_t at = sizeof(canary); at < bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = Filler(key, at);
    std::memcpy(bytes.data() + at, &word, sizeof(word));
  }
}

Canary Verify(std::span<const std::byte> bytes, const char* what) {
  Canary canary;
  if (bytes.size() < sizeof(canary))
    Die(std::string(what) + ": has " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&canary, bytes.data(), sizeof(canary));
  const uint64_t key = KeyOf(canary);
  bool whole = canary.size_bytes == bytes.size();
  for (size_t at = sizeof(canary); whole && at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, sizeof(word));
    if (word == Filler(key, at)) continue;
    Die(std::string(what) + ": byte " + std::to_string(at) + " of " + std::to_string(bytes.size()) +
        " was written by somebody else; the head says " + ToString(canary));
  }
  if (!whole) {
    Die(std::string(what) + ": has " + std::to_string(bytes.size()) + " bytes, its head says " +
        ToString(canary));
  }
  return canary;
}

}  // namespace zerocp::torture
