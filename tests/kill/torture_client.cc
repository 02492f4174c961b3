// A client of torture_test: random operations, each checked. See torture_page.h and
// torture_marks.h for what of.
#include <signal.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/kill/torture_marks.h"
#include "tests/kill/torture_subscription.h"

namespace zerocp::torture {
namespace {

using std::chrono::microseconds;

constexpr size_t kMostLoans = 4;
constexpr size_t kMostSamples = 6;
constexpr size_t kMostPublishers = 1;  // of a worker
constexpr size_t kMostSubscriptions = 2;
constexpr int kMostTakesInARow = 8;
constexpr uint64_t kOperationsOfAThread = 2000;  // on average

std::atomic<bool> g_leave{false};

// What all workers of the process share.
struct Process {
  Page& page;
  const uint32_t incarnation;
  Client client;
  std::unique_ptr<Marks> marks;
  std::atomic<uint64_t> serial{0};

  Slot& slot() const { return page.slots[incarnation % kProcesses]; }
};

class WorkerRun {
 public:
  WorkerRun(Process& process, size_t index, uint64_t seed)
      : process_(process),
        worker_(process.slot().workers[index]),
        own_board_((process.incarnation % kProcesses * kWorkers + index) * kBoardEntries),
        random_(seed) {}

  // Works in one thread after the other until the process is to leave. `client` of the process is
  // connected.
  void Run() {
    while (!g_leave) {
      std::thread([this] { Life(); }).join();
      Count(kThreads);
    }
    Step(kLeave);
    while (!loans_.empty()) ReleaseLoan();
    while (!samples_.empty()) ReleaseSample();
    publishers_.clear();
    subscriptions_.clear();
  }

 private:
  struct Held {
    Loan loan;
    Canary canary;
  };
  struct Reading {
    Sample sample;
    Canary canary;
  };
  struct Sending {
    Publisher publisher;
    size_t channel;
    uint64_t number;
    uint64_t sent = 0;
  };

  uint64_t Random(uint64_t below) { return random_() % below; }
  void Count(Counter counter, uint64_t more = 1) {
    process_.slot().counters[counter].fetch_add(more, std::memory_order_relaxed);
  }
  void CountOperation() { worker_.operation_count.fetch_add(1, std::memory_order_relaxed); }
  void Step(torture::Step step) { worker_.step.store(step, std::memory_order_relaxed); }
  // Ends the process unless `code` is one that the call may return at any time.
  void Expect(Code code, const std::string& message, std::initializer_list<Code> allowed) {
    if (code == Code::kUnavailable) Count(kDaemonAway);
    if (code == Code::kDetached) {  // an operator ended the session
      g_leave = true;
      return;
    }
    if (code == Code::kOk || code == Code::kUnavailable ||
        std::find(allowed.begin(), allowed.end(), code) != allowed.end()) {
      return;
    }
    Die(std::string(kStepNames[worker_.step.load()]) + ": " + zerocp::Name(code) + ": " + message);
  }

  void Life() {
    const uint64_t operations = 1 + Random(2 * kOperationsOfAThread);
    for (uint64_t i = 0; i < operations && !g_leave; ++i) {
      if (process_.page.command.load() % kPhases != kRun) Answer();
      Operation();
      CountOperation();
    }
    Step(kThread);
  }

  void Operation() {
    const uint64_t choice = Random(1000);
    if (choice < 200) {
      LoanAny();
    } else if (choice < 300) {
      ReleaseLoan();
    } else if (choice < 350) {
      Share();
    } else if (choice < 400) {
      Open();
    } else if (choice < 650) {
      Publish();
    } else if (choice < 900) {
      TakeSome();
    } else if (choice < 995) {
      ReleaseSample();
    } else if (choice < 998) {
      Join();
    } else {
      Leave();
    }
  }

  template <class T>
  T TakeAny(std::vector<T>& from) {
    std::swap(from[Random(from.size())], from.back());
    T taken = std::move(from.back());
    from.pop_back();
    return taken;
  }

  void Keep(Loan loan, size_t pool) {
    process_.marks->Own(loan.data().data());
    Held held{std::move(loan), {}};
    Fill(held, pool, 0, 0);
    loans_.push_back(std::move(held));
    Count(kLoans);
  }
  void Fill(Held& held, size_t pool, uint64_t publisher, uint64_t sequence) {
    held.canary = {process_.incarnation,   ++process_.serial, pool, publisher, sequence,
                   held.loan.data().size()};
    Write(held.loan.data(), held.canary);
  }
  size_t RandomSize() { return 64 + 8 * Random(25); }  // to 256: the smallest chunk

  void LoanAny() {
    Step(kLoan);
    if (loans_.size() >= kMostLoans) return ReleaseLoan();
    const size_t pool = Random(kPools.size());
    const auto patience = microseconds(Random(20) == 0 ? 500 : 0);
    auto loan = process_.client.NewLoan(kPools[pool], RandomSize(), patience);
    if (loan.code() == Code::kExhausted) Count(kExhausted);
    if (pool == kChurn && loan.code() == Code::kNotFound) return;
    Expect(loan.code(), loan.message(), {Code::kExhausted});
    if (loan) Keep(std::move(*loan), pool);
  }
  void ReleaseLoan() {
    Step(kReleaseLoan);
    if (loans_.empty()) return;
    Held held = TakeAny(loans_);
    if (Verify(held.loan.data(), "a loan before its release") != held.canary)
      Die("a loan was written by another process");
    process_.marks->Disown(held.loan.data().data());
  }

  void Share() {
    Step(kShare);
    if (loans_.empty() || samples_.size() >= kMostSamples) return;
    Held held = TakeAny(loans_);
    process_.marks->Disown(held.loan.data().data());
    process_.marks->Read(held.loan.data().data());
    auto sample = std::move(held.loan).Share();
    if (!sample) Die("share: " + sample.message());
    auto handle = sample->handle();
    if (!handle) Die("handle of a shared chunk: " + handle.message());
    samples_.push_back({std::move(*sample), held.canary});
    BoardEntry& entry = process_.page.board[own_board_ + Random(kBoardEntries)];
    entry.serial.store(0);
    entry.chunk.store(handle->chunk);
    entry.serial.store(held.canary.owner << 40 | held.canary.serial);
    instance_ = handle->instance;
    Count(kShares);
  }
  void Open() {
    Step(kOpen);
    if (instance_ == 0 || samples_.size() >= kMostSamples) return;
    BoardEntry& entry = process_.page.board[Random(process_.page.board.size())];
    const uint64_t serial = entry.serial.load();
    const uint64_t chunk = entry.chunk.load();
    if (serial == 0 || entry.serial.load() != serial) return;
    auto sample = process_.client.Open({instance_, chunk});
    Expect(sample.code(), sample.message(), {Code::kStale, Code::kHoldersFull});
    if (sample.code() == Code::kStale) Count(kStale);
    if (!sample) return;
    process_.marks->Read(sample->data().data());
    const Canary canary = Verify(sample->data(), "a chunk that was opened");
    if ((canary.owner << 40 | canary.serial) != serial) {
      Die("a handle of chunk " + std::to_string(serial) + " opened chunk " +
          std::to_string(canary.owner << 40 | canary.serial));
    }
    samples_.push_back({std::move(*sample), canary});
    Count(kOpens);
  }

  void Publish() {
    Step(kPublish);
    if (publishers_.empty()) return Join();
    Sending& sending = publishers_[Random(publishers_.size())];
    if (loans_.size() < kMostLoans && Random(4) != 0) {
      auto loan = sending.publisher.NewLoan(RandomSize());
      if (loan.code() == Code::kExhausted) Count(kExhausted);
      Expect(loan.code(), loan.message(), {Code::kExhausted});
      if (loan) Keep(std::move(*loan), kChannels[sending.channel].pool);
    }
    if (loans_.empty()) return;
    Held held = TakeAny(loans_);
    // A channel holds the pools of its messages up, so what comes and goes stays out of them.
    if (held.canary.pool == kChurn) return loans_.push_back(std::move(held));
    PublisherEntry& entry = process_.page.publishers[sending.number % kPublisherEntries];
    if (entry.number.load() != sending.number) Die("too many publishers for the page");
    const uint64_t sequence = sending.sent + 1;
    Fill(held, held.canary.pool, sending.number, sequence);
    void* data = held.loan.data().data();
    process_.marks->Disown(data);
    entry.begun.store(sequence);  // before the call looks who is subscribed
    auto published =
        sending.publisher.Publish(held.loan, microseconds(Random(8) == 0 ? Random(2000) : 0));
    if (published) {
      entry.completed.store(sequence);
      sending.sent = sequence;
      return Count(kPublishes);
    }
    process_.marks->Own(data);
    loans_.push_back(std::move(held));
    if (published.code() == Code::kTimeout) Count(kFullQueues);
    if (published.code() == Code::kChannelDeleted) {
      Count(kDeletions);
      std::erase_if(publishers_, [&](const Sending& other) { return &other == &sending; });
      return;
    }
    Expect(published.code(), published.message(), {Code::kTimeout});
  }

  void TakeSome() {
    Step(kTake);
    if (subscriptions_.empty()) return Join();
    Subscription& subscription = *subscriptions_[Random(subscriptions_.size())];
    const uint64_t waits = Random(20);
    if (waits == 0) subscription.Poll(1);
    Code code = Take(subscription, microseconds(waits == 1 ? Random(2000) : 0));
    for (int i = 1; i < kMostTakesInARow && code == Code::kOk; ++i) {
      CountOperation();
      code = Take(subscription, microseconds(0));
    }
  }
  // The code of the take.
  Code Take(Subscription& subscription, microseconds patience) {
    auto sample = subscription.subscriber.Wait(patience);
    if (sample.code() == Code::kDetached || sample.code() == Code::kChannelDeleted) {
      if (process_.client.state() == Code::kDetached) g_leave = true;
      Count(sample.code() == Code::kDetached ? kDetaches : kDeletions);
      std::erase_if(subscriptions_,
                    [&](const auto& other) { return other.get() == &subscription; });
      return Code::kDetached;
    }
    Expect(sample.code(), sample.message(),
           {Code::kTimeout, Code::kEndOfStream, Code::kPublisherDied});
    if (!sample) return sample.code();
    process_.marks->Read(sample->data().data());
    const Canary canary = Verify(sample->data(), "a message");
    subscription.Check(canary, *sample);
    Count(kTakes);
    Count(kMissed, sample->missed_before());
    samples_.push_back({std::move(*sample), canary});
    if (samples_.size() > kMostSamples || Random(3) != 0) ReleaseSample();
    return Code::kOk;
  }
  void ReleaseSample() {
    Step(kReleaseSample);
    if (samples_.empty()) return;
    Reading reading = TakeAny(samples_);
    if (Verify(reading.sample.data(), "a sample before its release") != reading.canary)
      Die("a sample was written while it was held");
    process_.marks->Unread(reading.sample.data().data());
  }

  void Join() {
    Step(kJoin);
    const size_t channel = Random(kChannels.size());
    if (Random(2) == 0) {
      if (publishers_.size() >= kMostPublishers) return Leave();
      const uint64_t number = NewPublisher(channel);
      auto publisher = process_.client.JoinAsPublisher(kChannels[channel].name);
      Expect(publisher.code(), publisher.message(), {Code::kLimit, Code::kNotFound});
      if (!publisher) return;
      publishers_.push_back({std::move(*publisher), channel, number});
      spare_number_ = 0;
    } else {
      if (subscriptions_.size() >= kMostSubscriptions) return Leave();
      SubscriberOptions options;
      options.lossy = Random(4) == 0;
      // A queue of one may lose its message to a publisher that dies before it sends the next.
      const bool lossy = options.lossy || kChannels[channel].drops;
      options.queue_capacity = static_cast<int>(Random(9));
      if (lossy && options.queue_capacity == 1) options.queue_capacity = 2;
      auto subscriber = process_.client.JoinAsSubscriber(kChannels[channel].name, options);
      Expect(subscriber.code(), subscriber.message(), {Code::kLimit, Code::kNotFound});
      if (!subscriber) return;
      subscriptions_.push_back(
          std::make_unique<Subscription>(process_.page, channel, lossy, std::move(*subscriber)));
    }
    Count(kJoins);
  }
  // The number of a publisher that is about to join; that of one that could not, if there is one.
  uint64_t NewPublisher(size_t channel) {
    if (spare_number_ == 0) spare_number_ = process_.page.publisher_count.fetch_add(1) + 1;
    PublisherEntry& entry = process_.page.publishers[spare_number_ % kPublisherEntries];
    entry.number.store(0);
    entry.channel.store(channel);
    entry.begun.store(0);
    entry.completed.store(0);
    entry.number.store(spare_number_);
    return spare_number_;
  }
  void Leave() {
    Step(kLeave);
    if (Random(2) == 0 && !publishers_.empty()) {
      TakeAny(publishers_);
    } else if (!subscriptions_.empty()) {
      TakeAny(subscriptions_);
    }
  }

  // Does what the test tells until it says to go on.
  void Answer() {
    Step(kAnswer);
    uint32_t answered = 0;
    for (;;) {
      const uint32_t command = process_.page.command.load();
      if (command % kPhases == kRun || g_leave) return;
      if (command != answered) {
        if (command % kPhases == kDrain) Drain();
        if (command % kPhases == kReport) Tell();
        worker_.answer.store(answered = command);
      }
      (void)process_.client.state();  // finds a daemon that came back
      std::this_thread::sleep_for(microseconds(200));
    }
  }
  // Takes all that waits, while nobody publishes.
  void Drain() {
    // What they keep of a channel that was deleted they let go of when they learn of that.
    std::erase_if(publishers_, [](Sending& sending) {
      return sending.publisher.WaitForSubscribers(0, microseconds(0)).code() ==
             Code::kChannelDeleted;
    });
    for (size_t i = 0; i < subscriptions_.size();) {
      Subscription& subscription = *subscriptions_[i];
      // A message of a history may wait for one of its holders.
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      std::string missing;
      Code code;
      do {
        do {
          code = Take(subscription, microseconds(0));
          if (code == Code::kOk && samples_.size() > kMostSamples / 2) ReleaseSample();
        } while (code != Code::kTimeout && code != Code::kDetached);
        if (code == Code::kDetached) break;
        missing = subscription.Missing();
      } while (!missing.empty() && std::chrono::steady_clock::now() < limit);
      if (code == Code::kDetached) continue;
      if (!missing.empty()) Die(missing);
      ++i;
    }
    Step(kAnswer);
  }
  void Tell() {
    Report& report = worker_.report;
    for (auto& count : report.writing) count.store(0);
    for (auto& count : report.reading) count.store(0);
    report.history.store(0);
    for (const Held& held : loans_) report.writing[held.canary.pool].fetch_add(1);
    for (const Reading& reading : samples_) report.reading[reading.canary.pool].fetch_add(1);
    for (const Sending& sending : publishers_)
      report.history.fetch_add(std::min(sending.sent, kChannels[sending.channel].history));
  }

  Process& process_;
  Worker& worker_;
  const size_t own_board_;  // its first entry of the board
  std::mt19937_64 random_;
  uint64_t instance_ = 0;
  uint64_t spare_number_ = 0;
  std::vector<Held> loans_;
  std::vector<Reading> samples_;
  std::vector<Sending> publishers_;
  std::vector<std::unique_ptr<Subscription>> subscriptions_;
};

}  // namespace

int ClientMain(char** argv) {
  signal(SIGTERM, [](int) { g_leave = true; });
  const std::string runtime_dir = argv[2];
  Page& page = *MapPage(std::stoi(argv[3]));
  const uint32_t incarnation = static_cast<uint32_t>(std::stoul(argv[4]));
  const uint64_t seed = std::stoull(argv[5]);
  Process process{page, incarnation, Client(), nullptr};
  while (!g_leave && !process.client) {
    auto client = Client::Connect(
        {.name = "torture " + std::to_string(incarnation), .runtime_dir = runtime_dir});
    if (!client && client.code() != Code::kUnavailable) Die("connect: " + client.message());
    if (client) process.client = std::move(*client);
    process.slot().workers[0].operation_count.fetch_add(1);
  }
  if (g_leave) return 0;
  process.marks = std::make_unique<Marks>(page, incarnation);
  std::vector<std::unique_ptr<WorkerRun>> workers;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kWorkers; ++i) {
    workers.push_back(std::make_unique<WorkerRun>(process, i, seed + i));
    threads.emplace_back([run = workers.back().get()] { run->Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace zerocp::torture
