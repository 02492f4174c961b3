#include "server/session_table.h"

#include <spdlog/fmt/fmt.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "server/session_tokens.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

constexpr uint64_t kMagic = 0x7373657370637a00;  // "\0zcpsess", little endian
constexpr uint32_t kVersion = 3;

off_t FileBytes(uint32_t capacity) { return off_t{capacity} * off_t{sizeof(SessionRecord)}; }

struct Header {
  uint64_t magic;
  uint32_t version;
  uint32_t record_bytes;
  uint8_t instance_uuid[16];
  uint8_t reserved[128];
};
static_assert(sizeof(Header) == sizeof(SessionRecord));

constexpr std::string_view kCollection = "sessions/";
constexpr size_t kNameDigits = 12;  // hexadecimal

bool IsSessionName(std::string_view name) {
  return name.size() == kCollection.size() + kNameDigits && name.starts_with(kCollection) &&
         name.find_first_not_of("0123456789abcdef", kCollection.size()) == std::string_view::npos;
}

}  // namespace

bool IsValidLabel(std::string_view label) {
  return label.size() < shm::kNameBytes &&
         std::all_of(label.begin(), label.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

std::string NewSessionName() {
  uint64_t bits = 0;
  FillRandom(&bits, 6);
  return fmt::format("{}{:0{}x}", kCollection, bits, kNameDigits);
}

void MakeSound(SessionTable::Records& records) {
  if (Mutant(94)) return;
  std::set<std::string> names;
  for (auto& [id, record] : records) {
    record.pid = std::max(record.pid, 0);
    if (!IsValidLabel(ReadText(record.client_name))) WriteText(record.client_name, "");
    while (!IsSessionName(ReadText(record.name)) || !names.insert(ReadText(record.name)).second)
      WriteText(record.name, NewSessionName());
  }
}

bool SessionTable::Read(const std::array<uint8_t, 16>& uuid, uint32_t capacity,
                        Records* records) const {
  Header header{};
  if (pread(file_.get(), &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)) ||
      header.magic != kMagic || header.version != kVersion ||
      header.record_bytes != sizeof(SessionRecord) ||
      std::memcmp(header.instance_uuid, uuid.data(), uuid.size()) != 0) {
    return false;
  }
  struct stat info {};
  if (fstat(file_.get(), &info) != 0 || info.st_size < FileBytes(capacity)) return false;
  for (uint32_t id = shm::kFirstSession; id < capacity; ++id) {
    SessionRecord record{};
    const off_t offset = static_cast<off_t>(id * sizeof(record));
    if (pread(file_.get(), &record, sizeof(record), offset) != static_cast<ssize_t>(sizeof(record)))
      return false;
    if (record.state != static_cast<uint32_t>(shm::SessionState::kFree)) {
      (*records)[static_cast<uint16_t>(id)] = record;
    }
  }
  return true;
}

bool SessionTable::Clear() { return ftruncate(file_.get(), 0) == 0; }

bool SessionTable::Sign(const std::array<uint8_t, 16>& uuid, uint32_t capacity) {
  if (ftruncate(file_.get(), FileBytes(capacity)) != 0) return false;
  Header header{kMagic, kVersion, sizeof(SessionRecord), {}, {}};
  std::copy(uuid.begin(), uuid.end(), header.instance_uuid);
  return pwrite(file_.get(), &header, sizeof(header), 0) == static_cast<ssize_t>(sizeof(header));
}

bool SessionTable::Write(uint16_t id, const SessionRecord& record) {
  const off_t offset = static_cast<off_t>(id * sizeof(record));
  return pwrite(file_.get(), &record, sizeof(record), offset) ==
         static_cast<ssize_t>(sizeof(record));
}

}  // namespace zerocp
