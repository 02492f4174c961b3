#include "tests/bench/memory.h"

#include <sys/stat.h>

#include <cctype>
#include <chrono>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "tests/bench/must.h"
#include "tests/bench/other_end.h"
#include "tests/bench/subject.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {
namespace {

constexpr int kCounts[] = {1, 64};               // of channels
constexpr int64_t kFew = 1'000, kMany = 51'000;  // chunks

// Pages that the process has, and its share of them: each page by how many processes have it.
struct Resident {
  int64_t all = 0;
  int64_t share = 0;
};

// A mapping's first line in smaps, of a segment with chunks.
bool IsOfChunks(const std::string& line) {
  return line.find(" /dev/shm/") != std::string::npos && line.find("mgmt") == std::string::npos &&
         line.find("management") == std::string::npos;
}

Resident ResidentOf(pid_t pid, bool with_chunks) {
  const std::string path = "/proc/" + std::to_string(pid) + "/smaps";
  std::ifstream file(path);
  Resident resident;
  bool counts = true;
  for (std::string line; std::getline(file, line);) {
    if (std::islower(line[0]) != 0 || std::isdigit(line[0]) != 0)  // not the name of a figure
      counts = with_chunks || !IsOfChunks(line);
    if (!counts) continue;
    if (line.rfind("Rss:", 0) == 0) resident.all += std::stoll(line.substr(4)) << 10;
    if (line.rfind("Pss:", 0) == 0) resident.share += std::stoll(line.substr(4)) << 10;
  }
  if (resident.all == 0) Die(path.c_str(), "it does not say what is resident");
  return resident;
}

std::vector<MemoryRow> Rows(const std::string& peer, const char* who, const MemorySpec& spec,
                            Resident now, Resident before = {}) {
  const std::string on = std::string(who) + ", " + std::to_string(spec.channels) +
                         (spec.channels == 1 ? " channel" : " channels");
  return {{peer, on + ", resident", now.all - before.all},
          {peer, on + ", proportional share", now.share - before.share}};
}

std::vector<std::string> DaemonArguments(int channels, int64_t chunks) {
  const std::string count = std::to_string(chunks);  // without addresses for more
  std::vector<std::string> all = {"--pool", "memory=1KiBx" + count + ",max=" + count};
  for (int i = 0; i < channels; ++i) {
    all.push_back("--channel");
    all.push_back(MemoryChannel(i) + "=memory,queue=128");
  }
  return all;
}

// Shared memory beside a chunk's payload.
MemoryRow OfAChunk(const Peer& peer) {
  const auto bytes = [&](int64_t chunks) {
    const testing::DaemonProcess daemon(DaemonArguments(1, chunks));
    return peer.shared_memory({.place = daemon.runtime_dir(), .chunks = chunks});
  };
  return {peer.name, "a chunk of 1 KiB, beside its payload",
          (bytes(kMany) - bytes(kFew)) / (kMany - kFew) - 1024};
}

}  // namespace

std::string MemoryChannel(int index) { return "m" + std::to_string(index); }

int64_t MappedSharedMemory() {
  std::ifstream maps("/proc/self/maps");
  std::set<std::string> paths;
  for (std::string line; std::getline(maps, line);) {
    if (const size_t at = line.find("/dev/shm/"); at != std::string::npos)
      paths.insert(line.substr(at));
  }
  int64_t bytes = 0;
  struct stat status {};
  for (const std::string& path : paths)
    if (stat(path.c_str(), &status) == 0) bytes += status.st_size;
  return bytes;
}

std::vector<MemoryRow> MemoryOf(const std::string& peer, const MemorySpec& spec) {
  OtherEnd client(peer, spec.place, Words("attached", spec));
  client.Work();  // until it has done nothing
  client.Rest();
  const Resident before = ResidentOf(client.pid(), true);
  client.Start(1);
  while (!client.Resting()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  auto rows = Rows(peer, "client", spec, ResidentOf(client.pid(), true), before);
  if (spec.daemon == 0) return rows;
  for (MemoryRow& row : Rows(peer, "daemon without chunks", spec, ResidentOf(spec.daemon, false)))
    rows.push_back(std::move(row));
  return rows;
}

std::vector<std::string> Words(const char* kind, const MemorySpec& spec) {
  return {kind, spec.place, std::to_string(spec.channels), std::to_string(spec.chunks)};
}
MemorySpec MemorySpecOf(const std::vector<std::string>& words) {
  return {
      .place = words.at(1), .channels = std::stoi(words.at(2)), .chunks = std::stoll(words.at(3))};
}

std::vector<MemoryRow> MeasureMemory(const std::vector<Peer>& peers) {
  std::vector<MemoryRow> rows;
  for (int channels : kCounts) {
    const testing::DaemonProcess daemon(DaemonArguments(channels, kFew));
    const MemorySpec spec{daemon.runtime_dir(), channels, kFew, daemon.pid()};
    for (const Peer& peer : peers) {
      if (!peer.memory || !peer.missing.empty()) continue;
      for (MemoryRow& row : peer.memory(spec)) rows.push_back(std::move(row));
    }
  }
  for (const Peer& peer : peers)
    if (peer.shared_memory && peer.missing.empty()) rows.push_back(OfAChunk(peer));
  return rows;
}

}  // namespace zerocp::bench
