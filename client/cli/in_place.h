// Proof that received bytes are what the publisher wrote, where the publisher wrote it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace zerocp::cli {

class Sha256 {
 public:
  Sha256();
  void Add(std::span<const std::byte> data);
  // 64 hexadecimal digits. Once.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// The chunk segment as /proc/self/maps shows it.
class ChunkSegmentMapping {
 public:
  // Reads /proc/self/maps. REQUIRES: attached.
  ChunkSegmentMapping();
  bool Contains(std::span<const std::byte> data) const {
    const auto begin = reinterpret_cast<uintptr_t>(data.data());
    return begin >= begin_ && begin + data.size() <= end_;
  }
  // "/dev/shm/zerocp_memory_chunk at 7f0000000000-7f4000000000"
  std::string Describe() const;

 private:
  uintptr_t begin_ = 0;
  uintptr_t end_ = 0;
  std::string path_;
};

}  // namespace zerocp::cli
