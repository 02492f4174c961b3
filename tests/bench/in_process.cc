#include "tests/bench/in_process.h"

#include <zerocp/zerocp.h>

#include <atomic>
#include <memory>

#include "tests/bench/clock.h"
#include "tests/bench/must.h"
#include "tests/bench/pin.h"

namespace zerocp::bench {
namespace {

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
  auto subjects = Everybody(site, &Peer::publish_release, {.place = site.daemon.runtime_dir()});
  subjects.push_back(LockedAdds("3 locked adds", 3));
  return subjects;
}

std::vector<Subject> FurtherSubscriber(const Site& site) {
  PinTo(0);
  const FanSpec spec{.place = site.daemon.runtime_dir()};
  auto subjects = Everybody(site, &Peer::publish_release, spec);
  auto of_five = spec;
  of_five.channel = "pong";
  of_five.subscribers = 5;
  const auto fives = Everybody(site, &Peer::publish_release, of_five);
  for (size_t i = 0; i < subjects.size(); ++i) {
    subjects[i].round = [one = subjects[i].round, five = fives[i].round] {
      const double time = Quantile(five(), 0.5);
      return std::vector{(time - Quantile(one(), 0.5)) / 4};
    };
  }
  subjects.push_back(LockedAdds("4 locked adds", 4));
  return subjects;
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
