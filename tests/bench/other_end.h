// The other processes of a subject, and when they work. Who is not at work sleeps, and costs the
// others nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/system/child_process.h"

namespace zerocp::bench {

// In memory of both processes. `value` and the times are for what the kind of work makes of them.
struct Turns {
  enum Wanted : uint32_t { kRest, kWork, kEnd };
  alignas(64) std::atomic<uint32_t> wanted;
  std::atomic<uint64_t> count;                   // of what is wanted
  alignas(64) std::atomic<uint32_t> works;       // 1 or 0
  alignas(64) std::atomic<uint64_t> taken;       // messages
  alignas(64) std::atomic<double> began, ended;  // as NowNs()

  // Returns false when it is to end. REQUIRES: called by the other process.
  bool RestUntilWanted();
};

// This process's side of one of them.
class OtherEnd {
 public:
  // Starts Peer::other_end with the words, and a last one for TurnsOf.
  OtherEnd(const std::string& peer, const std::string& place, std::vector<std::string> words);
  // Tells it to end, and waits until it has.
  ~OtherEnd();
  OtherEnd(const OtherEnd&) = delete;
  OtherEnd& operator=(const OtherEnd&) = delete;

  void Work();                 // returns when it does
  void Start(uint64_t count);  // does not wait; it goes to rest when it has done so many
  bool Resting();              // ends this program with its log if it has gone
  void Rest();
  Turns& turns() const { return turns_; }
  pid_t pid() const { return process_.pid(); }

 private:
  void Want(Turns::Wanted wanted);

  const std::string name_;
  const int fd_;
  const std::string log_;
  Turns& turns_;
  testing::ChildProcess process_;
};

// In the other process, of its last word.
Turns& TurnsOf(const std::string& word);

}  // namespace zerocp::bench
