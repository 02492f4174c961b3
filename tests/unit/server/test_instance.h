// An instance of its own for one test: segments in a new directory below /dev/shm, managers over
// them.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/channel_manager.h"
#include "server/core.h"
#include "server/pool_manager.h"
#include "shm/mem_pool_manager.h"

namespace zerocp {

inline std::string NewDirectory(const std::string& where) {
  std::string path = where + "/zerocp-test-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) ADD_FAILURE() << "cannot make " << path;
  return path;
}

struct TestInstance {
  struct Sizes {
    uint64_t management_reserved_bytes = uint64_t{1} << 30;
    uint64_t chunk_reserved_bytes = uint64_t{16} << 30;
  };

  explicit TestInstance(Sizes sizes) : core(Create(NewDirectory("/dev/shm"), sizes)) {}
  TestInstance() : TestInstance(Sizes{}) {}
  // Every test ends with an instance that is whole.
  ~TestInstance() {
    for (const auto& violation : channels.Audit().violations) {
      ADD_FAILURE() << violation.invariant << ": " << violation.detail;
    }
    std::filesystem::remove_all(core.manager->options().segment_dir);
  }
  TestInstance(const TestInstance&) = delete;
  TestInstance& operator=(const TestInstance&) = delete;

  static std::unique_ptr<shm::MemPoolManager> Create(const std::string& directory, Sizes sizes) {
    shm::MemPoolManager::CreateOptions options;
    options.segment_dir = directory;
    options.instance = "test";
    options.management_reserved_bytes = sizes.management_reserved_bytes;
    options.chunk_reserved_bytes = sizes.chunk_reserved_bytes;
    auto manager = shm::MemPoolManager::Create(options);
    if (!manager.ok()) {
      ADD_FAILURE() << manager.status().message();
      abort();
    }
    return std::move(*manager);
  }

  Core core;
  std::function<void()> on_reserve;  // set before anything is reserved that it is to be called for
  PoolManager pools{core, [this] {
                      if (on_reserve) on_reserve();
                    }};
  ChannelManager channels{core};
};

inline shm::PoolSpec Spec(const std::string& name, uint64_t chunk_size_bytes,
                          uint32_t chunk_count) {
  shm::PoolSpec spec;
  spec.name = name;
  spec.chunk_size_bytes = chunk_size_bytes;
  spec.chunk_count = chunk_count;
  return spec;
}

}  // namespace zerocp
