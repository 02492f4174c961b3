// A feed of prices with any number of readers, who may come late.
//
//   feed write     sends each line of its input, such as "EURUSD 1.0842"
//   feed read      prints what comes
//
// Channel `prices` has a history: whoever joins first gets the last prices that were sent before,
// then all that follow, without a gap. However many read, a price is written once, and lies in
// memory once. The history is the writer's: when it leaves, late readers find nothing.
#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

struct Price {
  static constexpr const char* kMessageType = "example.Price/1";
  char symbol[16];
  double price;
};

template <class T>
T OrDie(zerocp::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s: %s\n", Name(result.code()), result.message().c_str());
  std::exit(1);
}

int Write(zerocp::Client& client) {
  auto feed = OrDie(client.JoinAsPublisher<Price>("prices"));
  OrDie(feed.WaitForSubscribers(1));
  Price price{};
  int sent = 0;
  for (char line[64]; std::fgets(line, sizeof(line), stdin) != nullptr;) {
    if (std::sscanf(line, "%15s %lf", price.symbol, &price.price) != 2) continue;
    OrDie(feed.Send(price));  // small: a copy costs less than care
    ++sent;
  }
  std::printf("sent %d\n", sent);
  return 0;
}

int Read(zerocp::Client& client) {
  auto feed = OrDie(client.JoinAsSubscriber<Price>("prices"));
  for (;;) {
    auto price = feed.Wait();
    if (!price) {
      std::printf("%s\n", Name(price.code()));
      return price.code() == zerocp::Code::kEndOfStream ? 0 : 1;
    }
    std::printf("%d %s %.4f\n", static_cast<int>(price->sequence()), (*price)->symbol,
                (*price)->price);
    std::fflush(stdout);
  }  // let go before the next wait: eight at once can hold a message of the history
}

}  // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 1 ? argv[1] : "";
  if (role != "write" && role != "read") return std::puts("usage: feed write | read"), 2;
  auto client = OrDie(zerocp::Client::Connect({.name = "feed " + role}));
  return role == "write" ? Write(client) : Read(client);
}
