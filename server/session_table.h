// The session table on disk: <runtime dir>/sessions, 0600, what the next daemon knows of this one's
// sessions.
//
// A header, then one fixed record per session id at id * sizeof(record), little endian; each is
// written by one pwrite. The header of a new table comes last: whoever finds it finds all records.
// Threads: its owner's lock.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "shm/attach_protocol.h"
#include "shm/layout.h"
#include "shm/unique_fd.h"

namespace zerocp {

using Cookie = std::array<uint8_t, shm::kCookieBytes>;

// All-zero: free.
struct SessionRecord {
  uint32_t state;  // shm::SessionState
  int32_t pid;
  uint32_t uid;
  uint32_t read_only;
  uint64_t start_time;
  int64_t create_time_ns;  // CLOCK_REALTIME
  int64_t attach_time_ns;
  char name[24];  // resource name
  char client_name[shm::kNameBytes];
  Cookie cookie;  // all zero: lost with an earlier table; the session cannot reconnect
  uint8_t reserved[16];
};
static_assert(sizeof(SessionRecord) == 160);

// Text in a record, and out of it.
template <size_t N>
void WriteText(char (&to)[N], std::string_view from) {
  std::memset(to, 0, N);
  from.copy(to, N - 1);
}
template <size_t N>
std::string ReadText(const char (&from)[N]) {
  return std::string(from, strnlen(from, N));
}

// True for a label that a client may give itself: at most 63 printable ASCII characters.
bool IsValidLabel(std::string_view label);
std::string NewSessionName();

class SessionTable {
 public:
  using Records = std::map<uint16_t, SessionRecord>;

  // `file`: opened for reading and writing.
  explicit SessionTable(shm::UniqueFd file) : file_(std::move(file)) {}
  // Reads the records of ids below `capacity`. False: the file is not of the instance `uuid`, or
  // was cut since it was signed: what is missing would be taken for sessions that are gone.
  bool Read(const std::array<uint8_t, 16>& uuid, uint32_t capacity, Records* records) const;
  // Begins an empty table, of no instance yet. False: errno says why.
  bool Clear();
  // The table is whole, has `capacity` ids, and is that of the instance `uuid`. False: errno says
  // why.
  bool Sign(const std::array<uint8_t, 16>& uuid, uint32_t capacity);
  // False: errno says why.
  bool Write(uint16_t id, const SessionRecord& record);

 private:
  shm::UniqueFd file_;
};

// Makes what was read back fit for the log and for operators, wherever it comes from: each session
// has a name of its own, and a label that is valid.
void MakeSound(SessionTable::Records& records);

}  // namespace zerocp
