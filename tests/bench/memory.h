// What memory zerocp takes, beside those peers that have publishers and subscribers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace zerocp::bench {

struct Peer;

struct MemoryRow {
  std::string subject;
  std::string what;
  int64_t bytes = 0;
};

// So many channels on a pool of `chunks` chunks of 1 KiB.
struct MemorySpec {
  std::string place = {};
  int channels = 1;
  int64_t chunks = 0;
  pid_t daemon = 0;  // 0: there is none
};

std::string MemoryChannel(int index);  // its name

// The files in shared memory that this process maps, in bytes.
int64_t MappedSharedMemory();

// What another process of this program has more once it is on all channels, and has sent itself a
// message on each (attached.h), and what the daemon has without chunks.
std::vector<MemoryRow> MemoryOf(const std::string& peer, const MemorySpec& spec);
std::vector<std::string> Words(const char* kind, const MemorySpec& spec);
MemorySpec MemorySpecOf(const std::vector<std::string>& words);

// Of all peers that can tell, with a zerocpd for each count.
std::vector<MemoryRow> MeasureMemory(const std::vector<Peer>& peers);

}  // namespace zerocp::bench
