#include "tests/bench/in_process.h"

#include <zerocp/zerocp.h>

#include <atomic>
#include <memory>

#include "tests/bench/clock.h"
#include "tests/bench/must.h"
#include "tests/bench/pin.h"

namespace zerocp::bench {
namespace {

constexpr int kBatch = 64;
constexpr int kBatches = 100;

template <class Operation>
std::vector<double> Batches(int count, Operation operation) {
  std::vector<double> times;
  for (int batch = 0; batch < kBatches; ++batch) {
    const double start = NowNs();
    for (int i = 0; i < count; ++i) operation();
    times.push_back((NowNs() - start) / count);
  }
  return times;
}

class Channel {
 public:
  Channel(const Site& site, const char* name, int subscribers)
      : client_(Must(Client::Connect({"bench", site.daemon.runtime_dir()}), "connect")) {
    for (int i = 0; i < subscribers; ++i)
      subscribers_.push_back(Must(client_.JoinAsSubscriber(name), "join"));
    publisher_ = Must(client_.JoinAsPublisher(name), "join");
  }

  // Nanoseconds of a publish and of all releases of its message, of each of some batches.
  std::vector<double> Round() {
    std::vector<double> times;
    for (int i = 0; i < kBatches; ++i) times.push_back(Batch());
    return times;
  }

 private:
  double Batch() {
    std::vector<Loan> loans;
    while (loans.size() < kBatch) loans.push_back(Must(publisher_.NewLoan(1024), "loan"));
    const double start = NowNs();
    for (Loan& loan : loans) {
      if (const auto published = publisher_.Publish(loan); !published)
        Die("publish", published.message());
    }
    double time = NowNs() - start;
    std::vector<Sample> samples;
    samples.reserve(subscribers_.size() * kBatch);
    for (int i = 0; i < kBatch; ++i) {
      for (Subscriber& subscriber : subscribers_)
        samples.push_back(Must(subscriber.TryTake(), "take"));
    }
    const double taken = NowNs();
    samples.clear();
    time += NowNs() - taken;
    return time / kBatch;
  }

  Client client_;
  std::vector<Subscriber> subscribers_;
  Publisher publisher_;
};

Subject LockedAdds(const char* name, int count) {
  struct alignas(64) Line {
    std::atomic<uint64_t> value;
  };
  return {name, 1, 64, [line = std::make_shared<Line>(), count] {
            return Batches(1000, [&] {
              for (int i = 0; i < count; ++i) line->value.fetch_add(1);
            });
          }};
}

}  // namespace

std::vector<Subject> PublishRelease(const Site& site) {
  PinTo(0);
  const auto channel = std::make_shared<Channel>(site, "ping", 1);
  return {{"zerocp", 1, 1024, [channel] { return channel->Round(); }},
          LockedAdds("3 locked adds", 3)};
}

std::vector<Subject> FurtherSubscriber(const Site& site) {
  PinTo(0);
  const auto one = std::make_shared<Channel>(site, "ping", 1);
  const auto five = std::make_shared<Channel>(site, "pong", 5);
  return {{"zerocp", 1, 1024,
           [one, five] {
             const double of_five = Quantile(five->Round(), 0.5);
             return std::vector{(of_five - Quantile(one->Round(), 0.5)) / 4};
           }},
          LockedAdds("4 locked adds", 4)};
}

std::vector<Subject> ShareOpenRelease(const Site& site) {
  PinTo(0);
  const auto client = std::make_shared<Client>(
      Must(Client::Connect({"bench", site.daemon.runtime_dir()}), "connect"));
  return {{"zerocp", 1, 1024, [client] {
             return Batches(100, [&] {
               Sample sample = Must(Must(client->NewLoan("bench", 1024), "loan").Share(), "share");
               (void)Must(client->Open(Must(sample.handle(), "handle")), "open");
             });
           }}};
}

std::vector<Subject> RefusedLoan(const Site& site) {
  PinTo(0);
  const auto client = std::make_shared<Client>(
      Must(Client::Connect({"bench", site.daemon.runtime_dir()}), "connect"));
  const auto held = std::make_shared<std::vector<Loan>>();
  while (auto loan = client->NewLoan("empty", 1)) held->push_back(std::move(*loan));
  return {{"zerocp", 1, 0, [client, held] {
             return Batches(20, [&] {
               if (client->NewLoan("empty", 1).code() != Code::kExhausted)
                 Die("a refused loan", "it was not refused");
             });
           }}};
}

}  // namespace zerocp::bench
