#include "server/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace zerocp {
namespace {

TEST(Error, EachReasonHasANameAndComesBack) {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(Reason::kInternal); ++i) {
    const auto reason = static_cast<Reason>(i);
    const absl::Status status = MakeError(reason, "text");
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.message(), "text");
    ASSERT_TRUE(ReasonOf(status).has_value());
    EXPECT_EQ(*ReasonOf(status), ReasonName(reason));
    EXPECT_TRUE(names.insert(*ReasonOf(status)).second) << ReasonName(reason);
  }
}

TEST(Error, ForeignStatusHasNoReason) {
  EXPECT_FALSE(ReasonOf(absl::OkStatus()).has_value());
  EXPECT_FALSE(ReasonOf(absl::UnknownError("from elsewhere")).has_value());
}

TEST(Error, LongMessageIsCutBetweenCharacters) {
  std::string text(kMaxMessageBytes - 1, 'x');
  text += "\xc3\xa9\xc3\xa9";  // two characters of two bytes
  EXPECT_EQ(MakeError(Reason::kInternal, text).message(), std::string(kMaxMessageBytes - 1, 'x'));
}

TEST(Error, ViolationsAreListedWithTheirPathsUpToTheLimit) {
  std::vector<shm::Violation> violations;
  for (size_t i = 0; i < kMaxFieldViolations + 3; ++i)
    violations.push_back({"f" + std::to_string(i), "x"});
  const std::string text(InvalidArgument(violations, "pool.").message());
  EXPECT_NE(text.find("pool.f0 x; pool.f1 x"), std::string::npos) << text;
  EXPECT_NE(text.find("pool.f15 x; and 3 more"), std::string::npos) << text;
}

TEST(Error, MemoryErrorNamesItsLimitAndBothNumbers) {
  const absl::Status file_system = OutOfMemory("pools/a", 700, {500, "file system of /dev/shm"});
  EXPECT_EQ(ReasonOf(file_system), "SHM_FILESYSTEM_FULL");
  EXPECT_EQ(file_system.code(), absl::StatusCode::kResourceExhausted);
  const std::string text(file_system.message());
  EXPECT_NE(text.find("pools/a needs 700 bytes"), std::string::npos) << text;
  EXPECT_NE(text.find("500 are available (limited by: file system of /dev/shm)"),
            std::string::npos);
  EXPECT_EQ(ReasonOf(OutOfMemory("pools/a", 7, {5, "MemAvailable"})), "MEMORY_LIMIT");
  EXPECT_EQ(ReasonOf(OutOfMemory("pools/a", 7, {5, "memory cgroup /sys/fs/cgroup/a"})),
            "MEMORY_LIMIT");
}

TEST(Error, EveryShmCodeIsMapped) {
  using shm::Code;
  const struct {
    Code code;
    const char* pool;
    const char* channel;
  } rows[] = {
      {Code::kTimeout, "INTERNAL", "INTERNAL"},
      {Code::kEndOfStream, "INTERNAL", "INTERNAL"},
      {Code::kPublisherDied, "INTERNAL", "INTERNAL"},
      {Code::kDetached, "INTERNAL", "INTERNAL"},
      {Code::kChannelDeleted, "INTERNAL", "INTERNAL"},
      {Code::kExhausted, "INTERNAL", "INTERNAL"},
      {Code::kTooLarge, "INTERNAL", "INTERNAL"},
      {Code::kHeldLimit, "INTERNAL", "INTERNAL"},
      {Code::kHoldersFull, "INTERNAL", "INTERNAL"},
      {Code::kNotFound, "POOL_NOT_FOUND", "CHANNEL_NOT_FOUND"},
      {Code::kTypeMismatch, "INTERNAL", "INTERNAL"},
      {Code::kStale, "INTERNAL", "INTERNAL"},
      {Code::kDenied, "INTERNAL", "INTERNAL"},
      {Code::kInvalid, "FIELD_INVALID", "FIELD_INVALID"},
      {Code::kUnavailable, "INTERNAL", "INTERNAL"},
      {Code::kVersionMismatch, "LAYOUT_VERSION_MISMATCH", "LAYOUT_VERSION_MISMATCH"},
      {Code::kDamaged, "SEGMENT_CORRUPT", "SEGMENT_CORRUPT"},
      {Code::kLimit, "POOL_LIMIT", "CHANNEL_LIMIT"},
      {Code::kAlreadyExists, "POOL_ALREADY_EXISTS", "CHANNEL_ALREADY_EXISTS"},
      {Code::kNoMemory, "SEGMENT_FULL", "SEGMENT_FULL"},
      {Code::kInternal, "INTERNAL", "INTERNAL"},
  };
  for (const auto& row : rows) {
    const shm::Status status(row.code, "what happened");
    const absl::Status pool = FromShm(status, Resource::kPool, "pools/a");
    EXPECT_EQ(ReasonOf(pool), row.pool);
    EXPECT_NE(std::string(pool.message()).find("what happened"), std::string::npos);
    EXPECT_EQ(ReasonOf(FromShm(status, Resource::kChannel, "channels/a")), row.channel);
  }
  EXPECT_TRUE(FromShm(shm::Status(), Resource::kPool, "pools/a").ok());
}

}  // namespace
}  // namespace zerocp
