// Publishers and subscribers of one type, against a real daemon.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <string>
#include <utility>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

constexpr std::chrono::seconds kWatchdog{60};

struct Pose {
  double x, y, z;
};
struct NamedPose {
  static constexpr const char* kMessageType = "acme.Pose/2";
  double x, y, z;
};
struct OlderPose {
  static constexpr const char* kMessageType = "acme.Pose/1";
  float x, y;
};
struct Image {
  std::array<std::byte, 5000> pixels;
};
struct alignas(4096) Page {
  std::array<std::byte, 4096> bytes;
};

static_assert(Message<Pose> && Message<int> && Message<std::array<int, 4>>);
static_assert(!Message<std::string> && !Message<const char*> && !Message<int&>);
template <class T>
constexpr bool kMoveOnly =
    std::is_nothrow_move_constructible_v<T>&& std::is_default_constructible_v<T> &&
    !std::is_copy_constructible_v<T>;
static_assert(kMoveOnly<TypedLoan<Pose>> && kMoveOnly<TypedSample<Pose>> &&
              kMoveOnly<TypedPublisher<Pose>> && kMoveOnly<TypedSubscriber<Pose>>);

class Typed : public ::testing::Test {
 protected:
  void SetUp() override {
    auto client = Client::Connect({.name = "typed", .runtime_dir = daemon_.runtime_dir()});
    ASSERT_TRUE(client) << client.message();
    client_ = std::move(*client);
  }
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }

  // A file: on the command line a channel has no message type.
  std::string Config() {
    std::string path = dir_.path() + "/config.yaml";
    std::ofstream(path) << R"(
pools:
- {name: pools/small, chunk_size_bytes: 1KiB, chunk_count: 32}
- {name: pools/pages, chunk_size_bytes: 8KiB, chunk_count: 8, chunk_alignment_bytes: 4096}
channels:
- {name: channels/any, pool: pools/small, when_full: WHEN_FULL_WAIT, queue_capacity: 4}
- {name: channels/poses, pool: pools/small, when_full: WHEN_FULL_WAIT, message_type: acme.Pose/2}
- {name: channels/pages, pool: pools/pages, when_full: WHEN_FULL_WAIT}
)";
    return path;
  }

  testing::TempDir dir_;
  testing::DaemonProcess daemon_{{"--config", Config()}};
  Client client_;
};

TEST_F(Typed, AMessageIsWrittenAndReadInPlace) {
  auto subscriber = client_.JoinAsSubscriber<Pose>("any");
  auto publisher = client_.JoinAsPublisher<Pose>("any");
  ASSERT_TRUE(subscriber && publisher) << subscriber.message() << publisher.message();
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  auto loan = publisher->NewLoan();
  ASSERT_TRUE(loan) << loan.message();
  **loan = {1, 2, 3};
  (*loan)->z = 4;
  loan->header()[0] = std::byte{5};
  auto published = publisher->Publish(*loan);
  ASSERT_TRUE(published) << published.message();
  EXPECT_EQ(published->delivered, 1);
  EXPECT_FALSE(*loan);
  auto pose = subscriber->Wait(kWatchdog);
  ASSERT_TRUE(pose) << pose.message();
  EXPECT_EQ((*pose)->x, 1);
  EXPECT_EQ((**pose).z, 4);
  EXPECT_EQ(pose->header()[0], std::byte{5});
  EXPECT_EQ(pose->sequence(), 1u);
  EXPECT_EQ(pose->missed_before(), 0u);
}

TEST_F(Typed, SendCopies) {
  auto subscriber = client_.JoinAsSubscriber<Pose>("any");
  auto publisher = client_.JoinAsPublisher<Pose>("any");
  for (int i = 1; i <= 4; ++i) ASSERT_TRUE(publisher->Send({double(i), 0, 0}));
  EXPECT_EQ(publisher->Send({5, 0, 0}, std::chrono::milliseconds(1)).code(), Code::kTimeout);
  for (int i = 1; i <= 4; ++i) EXPECT_EQ((*subscriber->Wait(kWatchdog))->x, i);
  publisher->Close();
  EXPECT_EQ(subscriber->Wait(kWatchdog).code(), Code::kEndOfStream);
}

TEST_F(Typed, TheTypesNameIsComparedToTheChannels) {
  EXPECT_TRUE(client_.JoinAsPublisher<NamedPose>("poses"));
  EXPECT_TRUE(client_.JoinAsSubscriber<NamedPose>("poses"));
  EXPECT_EQ(client_.JoinAsPublisher<OlderPose>("poses").code(), Code::kTypeMismatch);
  EXPECT_EQ(client_.JoinAsSubscriber<OlderPose>("poses").code(), Code::kTypeMismatch);
  EXPECT_TRUE(client_.JoinAsSubscriber<OlderPose>("poses", {.message_type = "acme.Pose/2"}));
  EXPECT_EQ(client_.JoinAsPublisher<Pose>("poses", "acme.Pose/3").code(), Code::kTypeMismatch);
}

TEST_F(Typed, ATypeThatDoesNotFitTheChunksIsRefusedAtTheJoin) {
  auto publisher = client_.JoinAsPublisher<Image>("any");
  EXPECT_EQ(publisher.code(), Code::kTooLarge);
  EXPECT_NE(publisher.message().find("a message has 5000 bytes (message_bytes), the chunks of pool "
                                     "'small' have 1024"),
            std::string::npos)
      << publisher.message();
  EXPECT_EQ(client_.JoinAsSubscriber<Image>("any").code(), Code::kTooLarge);
  EXPECT_TRUE(client_.JoinAsSubscriber<Image>("pages"));
}

TEST_F(Typed, ATypeThatIsAlignedToMoreThanTheChunksIsRefusedAtTheJoin) {
  struct alignas(128) Line {
    std::array<std::byte, 128> bytes;
  };
  auto publisher = client_.JoinAsPublisher<Line>("any");
  EXPECT_EQ(publisher.code(), Code::kInvalid);
  EXPECT_NE(publisher.message().find("pool 'small' aligns its chunks to 64"), std::string::npos)
      << publisher.message();
  EXPECT_EQ(client_.JoinAsSubscriber<Line>("any").code(), Code::kInvalid);
  auto subscriber = client_.JoinAsSubscriber<Page>("pages");
  auto pages = client_.JoinAsPublisher<Page>("pages");
  ASSERT_TRUE(subscriber && pages) << subscriber.message() << pages.message();
  ASSERT_TRUE(pages->Publish(*pages->NewLoan()));
  EXPECT_TRUE(subscriber->Wait(kWatchdog));
}

// Who was refused has left the channel: nobody waits for it.
TEST_F(Typed, WhoIsRefusedIsNoMember) {
  ASSERT_EQ(client_.JoinAsSubscriber<Image>("any").code(), Code::kTooLarge);
  auto publisher = client_.JoinAsPublisher<Pose>("any");
  EXPECT_EQ(*publisher->WaitForSubscribers(0, std::chrono::nanoseconds{0}), 0);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(publisher->Send({}, std::chrono::nanoseconds{0}));
}

TEST_F(Typed, AMessageOfAnotherSizeIsNoT) {
  auto subscriber = client_.JoinAsSubscriber<Pose>("any");
  auto others = client_.JoinAsPublisher<OlderPose>("any");
  auto publisher = client_.JoinAsPublisher<Pose>("any");
  ASSERT_TRUE(others->Send({1, 2}));
  auto pose = subscriber->Wait(kWatchdog);
  EXPECT_EQ(pose.code(), Code::kTypeMismatch);
  EXPECT_NE(pose.message().find("message 1 has 8 bytes, this subscriber's type has 24"),
            std::string::npos)
      << pose.message();
  ASSERT_TRUE(publisher->Send({1, 2, 3}));
  EXPECT_EQ((*subscriber->Wait(kWatchdog))->z, 3);
}

TEST_F(Typed, OptionsOfAnOlderHeaderSayNothingOfTheMessage) {
  zerocp_client* client = nullptr;
  const zerocp_client_options connect{sizeof(connect), "old", daemon_.runtime_dir().c_str(), 0};
  ASSERT_EQ(zerocp_connect(&connect, &client), ZEROCP_OK) << zerocp_last_error();
  const zerocp_join_options old{
      offsetof(zerocp_join_options, message_bytes), nullptr, 0, 0, 1 << 20, 3};
  const zerocp_join_options now{sizeof(now), nullptr, 0, 0, 0, 48};
  zerocp_publisher* publisher = nullptr;
  EXPECT_EQ(zerocp_join_publisher(client, "any", &old, &publisher), ZEROCP_OK);
  zerocp_publisher_close(publisher);
  EXPECT_EQ(zerocp_join_publisher(client, "any", &now, &publisher), ZEROCP_INVALID);
  EXPECT_NE(std::string(zerocp_last_error()).find("power of two"), std::string::npos);
  zerocp_client_close(client);
}

}  // namespace
}  // namespace zerocp
