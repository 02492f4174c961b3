#include "shm/mem_pool_config.h"

#include <algorithm>
#include <bit>

namespace zerocp::shm {
namespace {

bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Range(uint64_t low, uint64_t high) {
  return "must be from " + std::to_string(low) + " to " + std::to_string(high);
}

// Holder slots of the smallest record that has at least `wanted`: 24, 56, 120, 248, 504 or 1016.
uint32_t RoundHolders(uint32_t wanted) {
  const uint64_t bytes = std::bit_ceil(sizeof(ChunkManager) + wanted * sizeof(uint16_t));
  return static_cast<uint32_t>((std::max<uint64_t>(bytes, kLine) - sizeof(ChunkManager)) /
                               sizeof(uint16_t));
}

}  // namespace

bool IsValidName(std::string_view name) {
  if (name.empty() || name.size() >= kNameBytes || !IsLower(name.front()) || name.back() == '-')
    return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return IsLower(c) || IsDigit(c) || c == '-'; });
}

std::vector<Violation> Validate(const PoolSpec& spec) {
  std::vector<Violation> found;
  if (!IsValidName(spec.name)) {
    found.push_back({"name", "must match [a-z]([a-z0-9-]{0,61}[a-z0-9])?"});
  }
  if (spec.chunk_size_bytes < kMinChunkSizeBytes || spec.chunk_size_bytes > kMaxChunkSizeBytes) {
    found.push_back({"chunk_size_bytes", Range(kMinChunkSizeBytes, kMaxChunkSizeBytes)});
  }
  const uint32_t alignment = spec.chunk_alignment_bytes;
  if (alignment != 0 && (alignment < kMinAlignmentBytes || alignment > kMaxAlignmentBytes ||
                         !std::has_single_bit(alignment))) {
    found.push_back({"chunk_alignment_bytes", "must be 0 or a power of two from " +
                                                  std::to_string(kMinAlignmentBytes) + " to " +
                                                  std::to_string(kMaxAlignmentBytes)});
  }
  if (spec.chunk_count < 1 || spec.chunk_count > kMaxChunksPerPool) {
    found.push_back({"chunk_count", Range(1, kMaxChunksPerPool)});
  }
  if (spec.max_chunk_count != 0 &&
      (spec.max_chunk_count < spec.chunk_count || spec.max_chunk_count > kMaxChunksPerPool)) {
    found.push_back({"max_chunk_count",
                     "must be 0, or from chunk_count to " + std::to_string(kMaxChunksPerPool)});
  }
  if (spec.max_holders != 0 && (spec.max_holders < kMinHolders || spec.max_holders > kMaxHolders)) {
    found.push_back({"max_holders_per_chunk", "must be 0, or from " + std::to_string(kMinHolders) +
                                                  " to " + std::to_string(kMaxHolders)});
  }
  return found;
}

PoolSpec WithDefaults(PoolSpec spec) {
  if (spec.chunk_alignment_bytes == 0) spec.chunk_alignment_bytes = kMinAlignmentBytes;
  if (spec.max_chunk_count == 0) {
    spec.max_chunk_count = static_cast<uint32_t>(
        std::min<uint64_t>(uint64_t{spec.chunk_count} * 4, kMaxChunksPerPool));
  }
  spec.max_holders = RoundHolders(spec.max_holders == 0 ? kDefaultHolders : spec.max_holders);
  return spec;
}

Status MemPoolConfig::Add(PoolSpec spec) {
  if (auto found = Validate(spec); !found.empty()) {
    return Status(Code::kInvalid, "pool \"" + spec.name + "\": " + found.front().field + " " +
                                      found.front().description);
  }
  if (Find(spec.name) != nullptr) {
    return Status(Code::kInvalid, "pool \"" + spec.name + "\" is there twice");
  }
  if (size_ == kMaxPools) {
    return Status(Code::kLimit,
                  "a configuration holds at most " + std::to_string(kMaxPools) + " pools");
  }
  pools_[size_++] = std::move(spec);
  return Status();
}

const PoolSpec* MemPoolConfig::Find(std::string_view name) const {
  const PoolSpec* found =
      std::find_if(begin(), end(), [&](const PoolSpec& pool) { return pool.name == name; });
  return found == end() ? nullptr : found;
}

}  // namespace zerocp::shm
