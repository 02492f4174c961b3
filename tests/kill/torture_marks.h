// What torture_test's clients check of each chunk: whose it is (torture_page.h), and what is in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "tests/kill/torture_page.h"

namespace zerocp::torture {

// Ends the process with a sentence on stderr.
[[noreturn]] void Die(const std::string& what);

// The marks as one process sets them. Every function ends the process if a chunk is found to be
// another's.
class Marks {
 public:
  // REQUIRES: the process has mapped the chunk segment.
  Marks(Page& page, uint32_t incarnation);

  void Own(const void* data) const;     // after it got the chunk to write
  void Disown(const void* data) const;  // before it gives that up
  void Read(const void* data) const;    // after it got the chunk to read
  void Unread(const void* data) const;  // before it gives that up

 private:
  Mark& Of(const void* data) const;
  std::string Name(const void* data) const;

  Page& page_;
  const uint32_t incarnation_;
  uintptr_t base_ = 0;  // of the chunk segment
};

// The head of a payload; each word behind it follows from it, so that no byte is without a check.
struct Canary {
  uint64_t owner;      // incarnation that wrote it
  uint64_t serial;     // counts what all workers of the owner wrote
  uint64_t pool;       // index in kPools
  uint64_t publisher;  // its number; 0: not a message
  uint64_t sequence;   // of that publisher
  uint64_t size_bytes;

  friend bool operator==(const Canary&, const Canary&) = default;
};

// REQUIRES: `bytes` are canary.size_bytes, a multiple of 8 and not less than a Canary.
void Write(std::span<std::byte> bytes, const Canary& canary);
// The head, if every word is what it makes it; ends the process with `what` otherwise.
Canary Verify(std::span<const std::byte> bytes, const char* what);

}  // namespace zerocp::torture
