// The C++ interface against a real daemon: loans, channels, handles, errors.
#include <errno.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

constexpr size_t kChunkBytes = 4096;

class ClientApi : public ::testing::Test {
 protected:
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }

  testing::DaemonProcess daemon_{
      {"--pool", "frames=4KiBx32", "--pool", "few=4KiBx2", "--channel", "camera=frames,queue=4"}};
};

void Fill(Loan& loan, std::string_view text) {
  ASSERT_LE(text.size(), loan.data().size());
  std::memcpy(loan.data().data(), text.data(), text.size());
  loan.set_size(text.size());
}

std::string TextOf(const Sample& sample) {
  return std::string(reinterpret_cast<const char*>(sample.data().data()), sample.data().size());
}

// Which publishers had gone before the join travels in the daemon's answer.
TEST_F(ClientApi, APublisherThatHadGoneBeforeTheJoinIsNotThisSubscribersEnd) {
  Client client = Connect("both");
  auto witness =
      client.JoinAsSubscriber("camera");  // what waits for it keeps the lane in the table
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(witness && publisher);
  auto loan = publisher->NewLoan(1);
  ASSERT_TRUE(loan && publisher->Publish(*loan));
  publisher->Close();
  auto late = client.JoinAsSubscriber("camera");
  ASSERT_TRUE(late);
  EXPECT_EQ(late->Wait(milliseconds(5)).code(), Code::kTimeout);
  EXPECT_TRUE(witness->TryTake());
  EXPECT_EQ(witness->Wait(milliseconds(5)).code(), Code::kEndOfStream);
}

TEST_F(ClientApi, ASubscriberThatLeavesAfterTheDaemonWasReplacedStallsNobody) {
  Client old = Connect("old");
  auto leaver = old.JoinAsSubscriber("camera");
  ASSERT_TRUE(leaver);
  daemon_.Stop(SIGKILL);
  daemon_.Start();
  *leaver = Subscriber();
  Client sender = Connect("sender");
  auto publisher = sender.JoinAsPublisher("camera");
  ASSERT_TRUE(publisher);
  for (int i = 0; i < 20; ++i) {  // the queue holds 4
    auto loan = publisher->NewLoan(1, std::chrono::seconds(20));
    ASSERT_TRUE(loan) << loan.message();
    ASSERT_TRUE(publisher->Publish(*loan, std::chrono::seconds(20)));
  }
}

TEST_F(ClientApi, MessageArrivesWithItsBytesItsHeaderAndItsNumber) {
  Client sender = Connect("sender");
  Client receiver = Connect("receiver");
  auto subscriber = receiver.JoinAsSubscriber("camera");
  auto publisher = sender.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  EXPECT_EQ(publisher->max_bytes(), kChunkBytes);
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  for (uint64_t number = 1; number <= 20; ++number) {
    auto loan = publisher->NewLoan(100);
    ASSERT_TRUE(loan) << loan.message();
    EXPECT_EQ(loan->data().size(), 100u);
    Fill(*loan, "message " + std::to_string(number));
    loan->header()[63] = static_cast<std::byte>(number);
    auto published = publisher->Publish(*loan);
    ASSERT_TRUE(published) << published.message();
    EXPECT_EQ(published->delivered, 1);
    EXPECT_FALSE(*loan);

    auto sample = subscriber->Wait(milliseconds(10'000));
    ASSERT_TRUE(sample) << sample.message();
    EXPECT_EQ(TextOf(*sample), "message " + std::to_string(number));
    EXPECT_EQ(sample->header()[63], static_cast<std::byte>(number));
    EXPECT_EQ(sample->sequence(), number);
  }
}

TEST_F(ClientApi, EverySubscriberReadsTheSameChunk) {
  Client client = Connect("all");
  auto first = client.JoinAsSubscriber("camera");
  auto second = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  auto loan = publisher->NewLoan(8);
  const std::byte* written = loan->data().data();
  auto published = publisher->Publish(*loan);
  ASSERT_TRUE(published) << published.message();
  EXPECT_EQ(published->delivered, 2);
  auto a = first->Wait(milliseconds(10'000));
  auto b = second->Wait(milliseconds(10'000));
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->data().data(), written);
  EXPECT_EQ(b->data().data(), written);
}

TEST_F(ClientApi, PublishWithoutSubscribersReachesNobodyAndKeepsNothing) {
  Client client = Connect("alone");
  auto publisher = client.JoinAsPublisher("camera");
  for (int i = 0; i < 100; ++i) {
    auto loan = publisher->NewLoan(1);
    ASSERT_TRUE(loan) << loan.message();
    auto published = publisher->Publish(*loan);
    ASSERT_TRUE(published) << published.message();
    EXPECT_EQ(published->delivered, 0);
  }
}

TEST_F(ClientApi, FullQueueTimesOutAndTheRetryRepeatsNothing) {
  Client client = Connect("full");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  for (int i = 0; i < 4; ++i) {
    auto loan = publisher->NewLoan(1);
    ASSERT_TRUE(publisher->Publish(*loan, milliseconds(0)));
  }
  auto loan = publisher->NewLoan(5);
  Fill(*loan, "fifth");
  for (auto wait : {milliseconds(0), milliseconds(20)}) {
    EXPECT_EQ(publisher->Publish(*loan, wait).code(), Code::kTimeout);
    EXPECT_TRUE(*loan);
  }
  EXPECT_EQ(subscriber->TryTake()->sequence(), 1u);
  ASSERT_TRUE(publisher->Publish(*loan, milliseconds(10'000)));
  for (uint64_t number = 2; number <= 4; ++number)
    EXPECT_EQ(subscriber->TryTake()->sequence(), number);
  EXPECT_EQ(TextOf(*subscriber->TryTake()), "fifth");
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
}

TEST_F(ClientApi, WaiterIsWokenByAMessageAndByTheEndOfTheStream) {
  Client client = Connect("waits");
  auto subscriber = client.JoinAsSubscriber("camera");
  std::thread sender([&] {
    auto publisher = client.JoinAsPublisher("camera");
    EXPECT_TRUE(publisher->WaitForSubscribers(1, milliseconds(10'000)));
    std::this_thread::sleep_for(milliseconds(50));  // so that the waiter sleeps
    auto loan = publisher->NewLoan(1);
    EXPECT_TRUE(publisher->Publish(*loan));
    std::this_thread::sleep_for(milliseconds(50));
  });
  EXPECT_TRUE(subscriber->Wait(milliseconds(30'000)));
  EXPECT_EQ(subscriber->Wait(milliseconds(30'000)).code(), Code::kEndOfStream);
  sender.join();
  EXPECT_EQ(subscriber->Wait(milliseconds(10)).code(), Code::kTimeout);
}

TEST_F(ClientApi, PublisherThatSentNothingStillEndsTheStream) {
  Client client = Connect("empty");
  auto subscriber = client.JoinAsSubscriber("camera");
  for (int i = 0; i < 20; ++i) {
    auto publisher = client.JoinAsPublisher("camera");
    publisher->Close();
    EXPECT_EQ(subscriber->Wait(milliseconds(10'000)).code(), Code::kEndOfStream) << i;
  }
}

TEST_F(ClientApi, WaitForSubscribersCountsThem) {
  Client client = Connect("counts");
  auto publisher = client.JoinAsPublisher("camera");
  auto none = publisher->WaitForSubscribers(1, milliseconds(0));
  EXPECT_EQ(none.code(), Code::kTimeout);
  EXPECT_EQ(*none, 0);
  auto first = client.JoinAsSubscriber("camera");
  auto second = client.JoinAsSubscriber("camera");
  auto two = publisher->WaitForSubscribers(2, milliseconds(10'000));
  EXPECT_TRUE(two) << two.message();
  EXPECT_EQ(*two, 2);
}

TEST_F(ClientApi, SharedLoanIsOpenedByItsHandleUntilTheLastRelease) {
  Client maker = Connect("maker");
  Client opener = Connect("opener");
  auto loan = maker.NewLoan("frames", 6);
  ASSERT_TRUE(loan) << loan.message();
  Fill(*loan, "shared");
  auto sample = std::move(*loan).Share();
  ASSERT_TRUE(sample) << sample.message();
  EXPECT_FALSE(*loan);
  auto handle = sample->handle();
  ASSERT_TRUE(handle) << handle.message();
  const auto travelled = Handle::Parse(handle->ToString());
  ASSERT_TRUE(travelled);

  auto opened = opener.Open(*travelled);
  ASSERT_TRUE(opened) << opened.message();
  EXPECT_EQ(TextOf(*opened), "shared");
  EXPECT_EQ(opened->sequence(), 0u);
  sample = Result<Sample>(opener.Open(*travelled));
  EXPECT_EQ(TextOf(*sample), "shared");
  *opened = Sample();
  *sample = Sample();
  auto late = opener.Open(*travelled);
  EXPECT_EQ(late.code(), Code::kStale);
  EXPECT_FALSE(late.message().empty());
  EXPECT_EQ(opener.Open({travelled->instance + 1, travelled->chunk}).code(), Code::kStale);
}

TEST_F(ClientApi, MessageTakenAloneGetsAHandleToo) {
  Client client = Connect("takes");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  auto loan = publisher->NewLoan(3);
  Fill(*loan, "abc");
  ASSERT_TRUE(publisher->Publish(*loan));
  auto sample = subscriber->TryTake();
  ASSERT_TRUE(sample) << sample.message();
  auto handle = sample->handle();
  ASSERT_TRUE(handle) << handle.message();
  EXPECT_EQ(*sample->handle(), *handle);
  auto opened = client.Open(*handle);
  ASSERT_TRUE(opened) << opened.message();
  EXPECT_EQ(opened->data().data(), sample->data().data());
  EXPECT_EQ(opened->sequence(), 1u);
}

TEST_F(ClientApi, TypedAccessChecksTheSize) {
  struct Point {
    int x, y;
  };
  Client client = Connect("typed");
  auto loan = client.NewLoan("frames", sizeof(Point));
  ASSERT_NE(loan->as<Point>(), nullptr);
  EXPECT_EQ(loan->as<uint8_t>(), nullptr);
  *loan->as<Point>() = {3, 4};
  auto sample = std::move(*loan).Share();
  ASSERT_NE(sample->as<Point>(), nullptr);
  EXPECT_EQ(sample->as<Point>()->y, 4);
  EXPECT_EQ(sample->as<uint16_t>(), nullptr);
}

TEST_F(ClientApi, TooLargeHasBothSizes) {
  Client client = Connect("large");
  auto publisher = client.JoinAsPublisher("camera");
  auto loan = publisher->NewLoan(kChunkBytes + 1);
  EXPECT_EQ(loan.code(), Code::kTooLarge);
  EXPECT_FALSE(*loan);
  for (const char* part : {"4097", "4096", "frames"}) {
    EXPECT_NE(loan.message().find(part), std::string::npos) << loan.message();
  }
  EXPECT_TRUE(publisher->NewLoan(kChunkBytes));
  EXPECT_TRUE(publisher->NewLoan(0));
}

TEST_F(ClientApi, ExhaustedPoolNamesItsHolders) {
  Client greedy = Connect("greedy");
  Client late = Connect("late");
  auto first = greedy.NewLoan("few", 1);
  auto second = greedy.NewLoan("few", 1);
  ASSERT_TRUE(first && second);
  auto third = late.NewLoan("few", 1, milliseconds(10));
  EXPECT_EQ(third.code(), Code::kExhausted);
  for (const char* part :
       {"'few'", "2 chunks of 4096 bytes", "greedy", "pid", ": 2", "CreatePool"}) {
    EXPECT_NE(third.message().find(part), std::string::npos) << third.message();
  }
  *first = Loan();
  greedy = Client();  // what its thread keeps in a cache is taken back by who needs it
  EXPECT_TRUE(late.NewLoan("few", 1, milliseconds(10'000)));
}

TEST_F(ClientApi, UnknownNamesSayWhatToDo) {
  Client client = Connect("lost");
  auto publisher = client.JoinAsPublisher("nowhere");
  EXPECT_EQ(publisher.code(), Code::kNotFound);
  EXPECT_NE(publisher.message().find("zerocp channels"), std::string::npos) << publisher.message();
  EXPECT_EQ(client.JoinAsSubscriber("nowhere").code(), Code::kNotFound);
  EXPECT_EQ(client.JoinAsSubscriber("").code(), Code::kInvalid);
  EXPECT_EQ(client.JoinAsSubscriber(std::string(64, 'a')).code(), Code::kInvalid);
  EXPECT_EQ(client.JoinAsPublisher("camera", std::string(129, 't')).code(), Code::kInvalid);
  auto loan = client.NewLoan("nopool", 1);
  EXPECT_EQ(loan.code(), Code::kNotFound);
  EXPECT_NE(loan.message().find("zerocp pools"), std::string::npos) << loan.message();
  EXPECT_EQ(
      Client::Connect({.name = std::string(64, 'n'), .runtime_dir = daemon_.runtime_dir()}).code(),
      Code::kInvalid);
}

TEST_F(ClientApi, ANameIsPrintableAndTheProgramsIsMadeSo) {
  const auto refused =
      Client::Connect({.name = "caf\xc3\xa9", .runtime_dir = daemon_.runtime_dir()});
  EXPECT_EQ(refused.code(), Code::kInvalid);
  EXPECT_NE(refused.message().find("a client's name"), std::string::npos) << refused.message();
  EXPECT_NE(refused.message().find("\"caf??\""), std::string::npos) << refused.message();
  char program[] = "caf\xc3\xa9 viewer";
  char* const before = std::exchange(program_invocation_short_name, program);
  const auto client = Client::Connect({.runtime_dir = daemon_.runtime_dir()});
  program_invocation_short_name = before;
  ASSERT_TRUE(client) << client.message();
  const testing::Ran sessions = testing::RunCommand(daemon_.Command({"sessions"}));
  EXPECT_NE(sessions.output.find("  caf?? viewer  "), std::string::npos) << sessions.output;
}

TEST_F(ClientApi, ReadOnlyClientTakesOpensAndReleasesButNeitherLoansNorPublishes) {
  Client writer = Connect("writer");
  auto viewer =
      Client::Connect({.name = "viewer", .runtime_dir = daemon_.runtime_dir(), .read_only = true});
  ASSERT_TRUE(viewer) << viewer.message();
  auto subscriber = viewer->JoinAsSubscriber("camera");
  auto other = writer.JoinAsSubscriber("camera");
  auto publisher = writer.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && other && publisher);
  for (unsigned sequence = 1; sequence <= 200; ++sequence) {
    const bool shared = sequence <= 100;  // moved from then on
    if (sequence == 101) other->Close();
    auto loan = publisher->NewLoan(kChunkBytes);
    ASSERT_TRUE(loan) << loan.message();
    const std::string text = "seen " + std::to_string(sequence);
    Fill(*loan, text);
    ASSERT_TRUE(publisher->Publish(*loan));
    auto sample = subscriber->TryTake();
    ASSERT_TRUE(sample) << sample.message();
    EXPECT_EQ(TextOf(*sample), text);
    EXPECT_EQ(sample->sequence(), sequence);
    auto handle = sample->handle();
    ASSERT_TRUE(handle) << handle.message();
    auto opened = viewer->Open(*handle);
    ASSERT_TRUE(opened) << opened.message();
    EXPECT_EQ(TextOf(*opened), text);
    if (shared) {
      ASSERT_TRUE(other->TryTake());
    }
  }
  auto loan = viewer->NewLoan("frames", 1);
  EXPECT_EQ(loan.code(), Code::kDenied);
  EXPECT_NE(loan.message().find("read-only"), std::string::npos) << loan.message();
  EXPECT_EQ(viewer->JoinAsPublisher("camera").code(), Code::kDenied);
  const std::string list = testing::RunCommand(daemon_.Command({"sessions"})).output;
  EXPECT_NE(list.find("read-only"), std::string::npos) << list;
}

TEST_F(ClientApi, ForeignAndSpentLoansAreRefused) {
  Client client = Connect("mine");
  Client other = Connect("other");
  auto publisher = client.JoinAsPublisher("camera");
  auto foreign = other.NewLoan("frames", 1);
  auto refused = publisher->Publish(*foreign);
  EXPECT_EQ(refused.code(), Code::kInvalid);
  EXPECT_NE(refused.message().find("another client"), std::string::npos) << refused.message();
  EXPECT_TRUE(*foreign);
  auto loan = publisher->NewLoan(1);
  ASSERT_TRUE(publisher->Publish(*loan));
  EXPECT_EQ(publisher->Publish(*loan).code(), Code::kInvalid);
}

TEST_F(ClientApi, SizeBeyondTheLoanIsRefusedAndTheLoanStays) {
  zerocp_client_options options{sizeof(options), "c", daemon_.runtime_dir().c_str(), 0};
  zerocp_client* client = nullptr;
  ASSERT_EQ(zerocp_connect(&options, &client), ZEROCP_OK) << zerocp_last_error();
  zerocp_publisher* publisher = nullptr;
  ASSERT_EQ(zerocp_join_publisher(client, "camera", nullptr, &publisher), ZEROCP_OK);
  zerocp_loan loan;
  ASSERT_EQ(zerocp_publisher_loan(publisher, 10, 0, &loan), ZEROCP_OK);
  loan.size = 11;
  EXPECT_EQ(zerocp_publisher_publish(publisher, &loan, 0, nullptr), ZEROCP_INVALID);
  EXPECT_STREQ(zerocp_last_error(), "the loan's size was set to 11 bytes, it has 10");
  zerocp_sample sample;
  EXPECT_EQ(zerocp_loan_share(&loan, &sample), ZEROCP_INVALID);
  zerocp_loan_release(&loan);
  zerocp_loan_release(&loan);  // nothing
  zerocp_publisher_close(publisher);
  zerocp_client_close(client);
}

TEST_F(ClientApi, ClientServesManyThreads) {
  Client client = Connect("threads");
  auto subscriber = client.JoinAsSubscriber("camera");
  constexpr int kThreads = 4, kEach = 500;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&client] {
      auto publisher = client.JoinAsPublisher("camera");
      for (int message = 0; message < kEach; ++message) {
        auto loan = publisher->NewLoan(8, std::nullopt);
        ASSERT_TRUE(loan) << loan.message();
        ASSERT_TRUE(publisher->Publish(*loan));
      }
    });
  }
  int taken = 0;
  while (taken < kThreads * kEach) {
    auto sample = subscriber->Wait(milliseconds(30'000));
    if (sample.code() == Code::kEndOfStream) continue;  // those that were there are done
    ASSERT_TRUE(sample) << sample.message();
    ++taken;
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace zerocp
