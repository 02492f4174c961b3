#include "server/sigbus_guard.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace zerocp {
namespace {

const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// A shared mapping of three pages over a file of one.
std::span<std::byte> ShortFile() {
  const int fd = memfd_create("short", MFD_CLOEXEC);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(kPage)), 0);
  void* mapped = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_NE(mapped, MAP_FAILED);
  close(fd);
  return {static_cast<std::byte*>(mapped), 3 * kPage};
}

volatile uint8_t* At(std::span<std::byte> bytes, size_t offset) {
  return reinterpret_cast<uint8_t*>(bytes.data()) + offset;
}

TEST(SigbusGuardTest, APageBehindTheEndReadsAsZerosAndIsReported) {
  const auto first = ShortFile();
  const auto second = ShortFile();
  {
    SigbusGuard guard(first, second);
    volatile uint8_t* inside = At(first, 0);
    *inside = 1;
    EXPECT_FALSE(SigbusGuard::damaged());
    volatile uint8_t* behind = At(second, 2 * kPage + 5);
    EXPECT_EQ(*behind, 0);
    EXPECT_TRUE(SigbusGuard::damaged());
    *behind = 7;
    EXPECT_EQ(*behind, 7);
  }
  munmap(first.data(), first.size());
  munmap(second.data(), second.size());
}

TEST(SigbusGuardDeathTest, AFaultElsewhereEndsTheProcessAsEver) {
  const auto guarded = ShortFile();
  const auto elsewhere = ShortFile();
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);  // not a sanitizer's handler
        SigbusGuard guard(guarded, guarded);
        volatile uint8_t* behind = At(elsewhere, kPage);
        *behind = 1;
      },
      ::testing::KilledBySignal(SIGBUS), "");
  munmap(guarded.data(), guarded.size());
  munmap(elsewhere.data(), elsewhere.size());
}

}  // namespace
}  // namespace zerocp
