// Twelve subscribers in processes of their own, one of them stopped: what a channel that drops and
// one that waits promise the eleven, the stopped one, the publisher and the operator. A subscriber
// is this program again: `--take RUNTIME_DIR CHANNEL INDEX COUNTS_FD`.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/daemon_process.h"
#include "tests/system/shared_counts.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Event = v1::WatchEventsResponse;

constexpr std::chrono::seconds kWatchdog{60};
constexpr size_t kSubscribers = 12;
constexpr size_t kStopped = 5;
constexpr uint64_t kNeverSent = ~uint64_t{0};  // what a publish that fails would have sent
constexpr int kDetachedExit = 7;

int Fail(const char* what, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", what, message.c_str());
  return 1;
}

std::string ClientName(size_t index) { return "viewer " + std::to_string(index); }

// Counters of subscriber `index`.
size_t Taken(size_t index) { return 2 * index; }
size_t Missed(size_t index) { return 2 * index + 1; }

// Ends with the stream, if each message was the one after what was taken and missed before it.
int Take(const std::string& runtime_dir, const std::string& channel, size_t index, int fd) {
  const testing::SharedCounts counts(fd);
  auto client = Client::Connect({.name = ClientName(index), .runtime_dir = runtime_dir});
  if (!client) return Fail("connect", client.message());
  auto subscriber = client->JoinAsSubscriber(channel);
  if (!subscriber) return Fail("join", subscriber.message());
  for (uint64_t taken = 1, missed = 0;; ++taken) {
    auto sample = subscriber->Wait();
    if (sample.code() == Code::kEndOfStream) return 0;
    if (sample.code() == Code::kDetached) return kDetachedExit;
    if (!sample) return Fail("take", sample.message());
    missed += sample->missed_before();
    const uint64_t* number = sample->as<uint64_t>();
    if (number == nullptr || *number != taken + missed || sample->sequence() != *number) {
      return Fail("take", "message " + std::to_string(sample->sequence()) + " with number " +
                              std::to_string(number == nullptr ? 0 : *number) + " after " +
                              std::to_string(taken - 1) + " taken and " + std::to_string(missed) +
                              " missed");
    }
    counts[Missed(index)] = missed;
    counts[Taken(index)] = taken;
  }
}

class TwelveTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kQueue = 16;  // both channels'

  void Start(const std::string& channel) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    for (size_t i = 0; i < kSubscribers; ++i) {
      errors_.push_back(dir_.path() + "/" + std::to_string(i));
      subscribers_.push_back(std::make_unique<testing::ChildProcess>(
          testing::ChildOptions{.command = {self, "--take", daemon_.runtime_dir(), channel,
                                            std::to_string(i), std::to_string(counts_.fd())},
                                .error = errors_.back()}));
    }
    auto client = Client::Connect({.name = "camera", .runtime_dir = daemon_.runtime_dir()});
    ASSERT_TRUE(client) << client.message();
    client_ = std::move(*client);
    auto publisher = client_.JoinAsPublisher(channel);
    ASSERT_TRUE(publisher) << publisher.message();
    publisher_ = std::move(*publisher);
    const auto present = publisher_.WaitForSubscribers(kSubscribers, kWatchdog);
    ASSERT_TRUE(present) << *present << " subscribers: " << present.message();
  }
  // The publisher leaves; `exit_codes` of the subscribers are 0 but for the stopped one's.
  void End(int stopped_exit_code) {
    publisher_.Close();
    for (size_t i = 0; i < kSubscribers; ++i) {
      EXPECT_EQ(subscribers_[i]->Wait(), i == kStopped ? stopped_exit_code : 0)
          << i << ": " << testing::ReadFile(errors_[i]);
    }
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }

  template <class Condition>
  void Await(const char* what, Condition done) {
    const auto limit = Clock::now() + kWatchdog;
    while (!done()) {
      if (Clock::now() < limit) {
        std::this_thread::yield();
        continue;
      }
      std::string errors;
      for (const std::string& path : errors_) errors += testing::ReadFile(path);
      FAIL() << "no " << what << "\n" << errors << daemon_.Log();
    }
  }
  // The least that each of the subscribers has taken, `with` the stopped one or without it.
  uint64_t LeastTaken(bool with_stopped) const {
    uint64_t least = kNeverSent;
    for (size_t i = 0; i < kSubscribers; ++i)
      if (with_stopped || i != kStopped) least = std::min(least, counts_[Taken(i)].load());
    return least;
  }
  // Publishes up to message `last`, none of them before those who keep up have room for it, and
  // without waiting: nobody can be in the way but the stopped one.
  void Publish(uint64_t last, int delivered, bool stopped_keeps_up) {
    while (sent_ < last) {
      ASSERT_NO_FATAL_FAILURE(
          Await("room", [&] { return LeastTaken(stopped_keeps_up) + kQueue > sent_; }));
      auto loan = publisher_.NewLoan(sizeof(uint64_t));
      ASSERT_TRUE(loan) << loan.message();
      *loan->as<uint64_t>() = sent_ + 1;
      const auto published = publisher_.Publish(*loan, milliseconds(0));
      ASSERT_TRUE(published) << "message " << sent_ + 1 << ": " << published.message();
      EXPECT_EQ(published->delivered, delivered);
      dropped_ += static_cast<uint64_t>(published->dropped);
      ++sent_;
    }
  }
  void StopOne() {
    const testing::ChildProcess& one = *subscribers_[kStopped];
    one.Signal(SIGSTOP);
    const std::string stat = "/proc/" + std::to_string(one.pid()) + "/stat";
    Await("stop", [&] {
      const std::string text = testing::ReadFile(stat);
      return text.find(") T ") != std::string::npos;
    });
  }

  template <class Service, class Call>
  void Ask(Call call) {
    const auto stub = Service::NewStub(grpc::CreateChannel("unix:" + daemon_.socket("admin.sock"),
                                                           grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kWatchdog);
    const grpc::Status status = call(*stub, &context);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  v1::ChannelStats Stats(const std::string& channel) {
    v1::GetStatsResponse response;
    Ask<v1::ObserverService>([&](auto& stub, grpc::ClientContext* context) {
      return stub.GetStats(context, {}, &response);
    });
    for (const v1::ChannelStats& stats : response.stats().channels())
      if (stats.channel() == "channels/" + channel) return stats;
    ADD_FAILURE() << "no channel " << channel;
    return {};
  }
  static v1::SubscriberStats OfStopped(const v1::ChannelStats& stats) {
    for (const v1::SubscriberStats& subscriber : stats.subscribers())
      if (subscriber.client_name() == ClientName(kStopped)) return subscriber;
    ADD_FAILURE() << "the stopped subscriber is not there: " << stats.DebugString();
    return {};
  }
  // Events of subscribers that do not take: those there were, or up to the first there is.
  std::vector<Event> Stalls(bool wait_for_one) {
    std::vector<Event> stalls;
    Ask<v1::ObserverService>([&](auto& stub, grpc::ClientContext* context) {
      v1::WatchEventsRequest request;
      request.set_stop_at_end(!wait_for_one);
      const auto reader = stub.WatchEvents(context, request);
      Event event;
      while ((!wait_for_one || stalls.empty()) && reader->Read(&event))
        if (event.kind() == Event::KIND_SUBSCRIBER_STALLED) stalls.push_back(event);
      if (!wait_for_one || stalls.empty()) return reader->Finish();
      context->TryCancel();
      reader->Finish();
      return grpc::Status::OK;
    });
    return stalls;
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=1KiBx1024", "--channel",
                                  "drop=frames,queue=16,when-full=drop", "--channel",
                                  "wait=frames,queue=16"}};
  testing::TempDir dir_;
  testing::SharedCounts counts_;
  std::vector<std::string> errors_;  // files of the subscribers
  std::vector<std::unique_ptr<testing::ChildProcess>> subscribers_;
  Client client_;
  Publisher publisher_;
  uint64_t sent_ = 0;     // also the number of the last message
  uint64_t dropped_ = 0;  // as the publisher was told
};

TEST_F(TwelveTest, AChannelThatDropsServesElevenInFullAndTellsTheStoppedOneWhatItMissed) {
  constexpr uint64_t kBefore = 200;
  constexpr uint64_t kAll = 3000;
  ASSERT_NO_FATAL_FAILURE(Start("drop"));
  ASSERT_NO_FATAL_FAILURE(Publish(kBefore, kSubscribers, /*stopped_keeps_up=*/true));
  EXPECT_EQ(dropped_, 0u);
  ASSERT_NO_FATAL_FAILURE(StopOne());  // perhaps in the middle of a take
  ASSERT_NO_FATAL_FAILURE(Publish(kAll, kSubscribers, /*stopped_keeps_up=*/false));
  ASSERT_NO_FATAL_FAILURE(Await("message", [&] { return LeastTaken(false) == kAll; }));
  EXPECT_GE(dropped_, kAll - kBefore - 2 * kQueue);

  const v1::SubscriberStats stopped = OfStopped(Stats("drop"));
  EXPECT_EQ(static_cast<uint64_t>(stopped.missed_count()), dropped_);
  EXPECT_EQ(static_cast<uint64_t>(stopped.taken_count() + stopped.missed_count() +
                                  stopped.queued_count()),
            kAll);

  subscribers_[kStopped]->Signal(SIGCONT);
  ASSERT_NO_FATAL_FAILURE(End(/*stopped_exit_code=*/0));
  for (size_t i = 0; i < kSubscribers; ++i) {
    EXPECT_EQ(counts_[Missed(i)], i == kStopped ? dropped_ : 0) << i;
    EXPECT_EQ(counts_[Taken(i)] + counts_[Missed(i)], kAll) << i;
  }
}

TEST_F(TwelveTest, AChannelThatWaitsServesNobodyUntilTheStoppedOneIsNamedAndTakenOff) {
  constexpr uint64_t kBefore = 100;
  constexpr uint64_t kAll = 2000;
  constexpr int kTries = 3;
  constexpr milliseconds kDeadline{20};
  ASSERT_NO_FATAL_FAILURE(Start("wait"));
  ASSERT_NO_FATAL_FAILURE(Publish(kBefore, kSubscribers, true));
  ASSERT_NO_FATAL_FAILURE(Await("message", [&] { return LeastTaken(true) == kBefore; }));
  ASSERT_NO_FATAL_FAILURE(StopOne());
  ASSERT_NO_FATAL_FAILURE(Publish(kBefore + kQueue, kSubscribers, false));

  // Its queue is full. That nobody gets these is what each subscriber's numbers say from here on.
  for (int i = 0; i < kTries; ++i) {
    auto loan = publisher_.NewLoan(sizeof(uint64_t));
    ASSERT_TRUE(loan) << loan.message();
    *loan->as<uint64_t>() = kNeverSent;
    const auto begin = Clock::now();
    EXPECT_EQ(publisher_.Publish(*loan, kDeadline).code(), Code::kTimeout);
    EXPECT_GE(Clock::now() - begin, kDeadline);
  }
  const std::vector<Event> stalls = Stalls(/*wait_for_one=*/true);
  ASSERT_EQ(stalls.size(), 1u);
  const v1::ChannelStats stats = Stats("wait");
  const v1::SubscriberStats stopped = OfStopped(stats);
  EXPECT_EQ(static_cast<uint64_t>(stats.published_count()), sent_);
  EXPECT_EQ(stats.subscribers(0).subscriber(), stopped.subscriber());  // the longest queue
  EXPECT_EQ(static_cast<uint64_t>(stopped.queued_count()), kQueue);
  EXPECT_EQ(static_cast<uint64_t>(stopped.taken_count()), kBefore);
  EXPECT_GE(stopped.stalled_for().seconds(), 1);
  EXPECT_EQ(stalls[0].resource(), stopped.subscriber());
  EXPECT_NE(stalls[0].detail().find(ClientName(kStopped)), std::string::npos) << stalls[0].detail();
  EXPECT_NE(stalls[0].detail().find(stopped.session()), std::string::npos) << stalls[0].detail();

  v1::DetachSubscriberResponse response;
  ASSERT_NO_FATAL_FAILURE(Ask<v1::AdminService>([&](auto& stub, grpc::ClientContext* context) {
    v1::DetachSubscriberRequest request;
    request.set_name(stopped.subscriber());
    return stub.DetachSubscriber(context, request, &response);
  }));
  EXPECT_EQ(static_cast<uint64_t>(response.queued_count()), kQueue);
  ASSERT_NO_FATAL_FAILURE(Publish(kAll, kSubscribers - 1, false));
  ASSERT_NO_FATAL_FAILURE(Await("message", [&] { return LeastTaken(false) == kAll; }));
  EXPECT_EQ(Stats("wait").waited_count(), stats.waited_count());
  EXPECT_EQ(Stalls(/*wait_for_one=*/false).size(), 1u);

  subscribers_[kStopped]->Signal(SIGCONT);
  ASSERT_NO_FATAL_FAILURE(End(kDetachedExit));
  for (size_t i = 0; i < kSubscribers; ++i) {
    EXPECT_EQ(counts_[Taken(i)], i == kStopped ? kBefore : kAll) << i;
    EXPECT_EQ(counts_[Missed(i)], 0u) << i;
  }
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--take") {
    return zerocp::Take(argv[2], argv[3], static_cast<size_t>(std::atoi(argv[4])),
                        std::atoi(argv[5]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
