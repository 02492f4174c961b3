// A living instance as a daemon leaves it when it is killed, made by the product's own code: pools
// that can grow, that have large records, that are being deleted; channels that wait, drop, keep a
// history, or were deleted under a member; loans, caches, handles, and messages in flight, taken
// and not taken, of the living and the dead.
//
// It is made once per process and put into files again for each input.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"
#include "shm/recovery.h"

namespace zerocp::fuzz {

// Ends the process as a finding, with this sentence.
[[noreturn]] void Fail(const std::string& what);
inline void Expect(bool holds, const std::string& what) {
  if (!holds) Fail(what);
}

// An input, read from its begin; zeros behind its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  template <class T>
  T Next() {
    static_assert(std::is_integral_v<T>);
    T value = 0;
    const std::string_view bytes = Bytes(sizeof(value));
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  // As many as are left, at most `most`.
  std::string_view Bytes(size_t most) {
    const std::string_view bytes = rest_.substr(0, most);
    rest_.remove_prefix(bytes.size());
    return bytes;
  }

 private:
  std::string_view rest_;
};

template <class T>
std::string BytesOf(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// A directory of its own, where temporary files go.
std::string NewDirectory();
// How many descriptors this process has open.
size_t OpenDescriptors();

class LiveInstance {
 public:
  // Bytes of a segment that mean something.
  struct Area {
    std::string name;
    bool of_chunk_segment;
    uint64_t offset;
    uint64_t bytes;
  };

  // The one of this process.
  static LiveInstance& Get();

  // Makes both files what they were. REQUIRES: nobody maps them.
  void Restore() const;
  // Changes bytes of the files as the input says; cuts the files, too, if `may_cut`.
  void Patch(Input& input, bool may_cut) const;
  // The files as an adopting daemon finds them, and as a client gets them.
  shm::MemPoolManager::CreateOptions options() const;
  shm::UniqueFd OpenManagement() const { return OpenAgain(images_[0]); }
  shm::UniqueFd OpenChunk() const { return OpenAgain(images_[1]); }

  const shm::SessionSet& attached() const { return attached_; }
  const std::vector<shm::JoinInfo>& publishers() const { return publishers_; }
  const std::vector<shm::JoinInfo>& subscribers() const { return subscribers_; }
  const std::vector<uint64_t>& handles() const { return handles_; }
  const std::vector<Area>& areas() const { return areas_; }

  // What Patch reads: none; one that stores `bytes`; one that cuts a file.
  static std::string NoPatch() { return std::string(1, '\0'); }
  static std::string OnePatch(size_t area, uint64_t offset, const std::string& bytes);
  std::string Cut(bool chunk_segment, uint32_t bytes) const;
  // One patch for each word that an area begins with, and each of some values; and some cuts.
  std::vector<std::string> WordPatches() const;

 private:
  struct Page {
    uint64_t offset;
    std::string bytes;
  };
  struct Image {
    std::string path;
    uint64_t bytes = 0;
    std::vector<Page> pages;  // those that are not zero
    shm::UniqueFd file;
  };

  LiveInstance();
  void NoteAreas(shm::MemPoolManager& manager, shm::ChannelRegistry& registry);
  static Image Remember(const std::string& path);
  static shm::UniqueFd OpenAgain(const Image& image);

  std::string directory_;
  shm::SessionSet attached_;
  std::vector<shm::JoinInfo> publishers_;
  std::vector<shm::JoinInfo> subscribers_;
  std::vector<uint64_t> handles_;
  std::vector<Area> areas_;
  std::vector<Image> images_;  // management, chunk
};

// Puts the inputs that a run begins with into the directory that ZEROCP_FUZZ_SEEDS names, if any.
void WriteSeeds(const std::vector<std::string>& seeds);

}  // namespace zerocp::fuzz
