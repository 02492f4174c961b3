// Programs for syscall_count_test.sh: one fills chunks in place, one sums them in place; both ask
// again and again. `follow` sums them, too, but sleeps in poll(2).
//
//   poll_stream produce|consume|follow RUNTIME_DIR CHANNEL MESSAGES
#include <poll.h>
#include <zerocp/zerocp.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr size_t kWords = 128;

int Fail(const char* what, const std::string& why) {
  std::fprintf(stderr, "poll_stream: %s: %s\n", what, why.c_str());
  return 1;
}

int Produce(zerocp::Client& client, const char* channel, uint64_t messages) {
  auto publisher = client.JoinAsPublisher(channel);
  if (!publisher) return Fail("join", publisher.message());
  if (auto found = publisher->WaitForSubscribers(1); !found) return Fail("wait", found.message());
  for (uint64_t i = 0; i < messages; ++i) {
    auto loan = publisher->NewLoan(kWords * sizeof(uint64_t));
    while (loan.code() == zerocp::Code::kExhausted) {
      loan = publisher->NewLoan(kWords * sizeof(uint64_t));
    }
    if (!loan) return Fail("loan", loan.message());
    auto* words = reinterpret_cast<uint64_t*>(loan->data().data());
    for (size_t word = 0; word < kWords; ++word) words[word] = i + word;
    auto published = publisher->Publish(*loan, std::chrono::nanoseconds{0});
    while (published.code() == zerocp::Code::kTimeout) {
      published = publisher->Publish(*loan, std::chrono::nanoseconds{0});
    }
    if (!published) return Fail("publish", published.message());
  }
  return 0;
}

int Consume(zerocp::Client& client, const char* channel, uint64_t messages, bool sleeps) {
  auto subscriber = client.JoinAsSubscriber(channel);
  if (!subscriber) return Fail("join", subscriber.message());
  pollfd readable{-1, POLLIN, 0};
  if (sleeps) {
    auto fd = subscriber->fd();
    if (!fd) return Fail("fd", fd.message());
    readable.fd = *fd;
  }
  uint64_t sum = 0;
  for (uint64_t i = 0; i < messages;) {
    auto sample = subscriber->TryTake();
    if (sample.code() == zerocp::Code::kTimeout) {
      if (sleeps && poll(&readable, 1, 60'000) != 1) return Fail("poll", "nothing came for 60 s");
      continue;
    }
    if (!sample) return Fail("take", sample.message());
    const auto* words = reinterpret_cast<const uint64_t*>(sample->data().data());
    for (size_t word = 0; word < kWords; ++word) sum += words[word];
    ++i;
  }
  // Sum over i of (128 i + 0 + ... + 127).
  const uint64_t expected =
      kWords * (messages * (messages - 1) / 2) + messages * (kWords * (kWords - 1) / 2);
  if (sum != expected)
    return Fail("sum", std::to_string(sum) + " instead of " + std::to_string(expected));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  auto client = zerocp::Client::Connect({"poll_stream", argv[2]});
  if (!client) return Fail("connect", client.message());
  const uint64_t messages = std::strtoull(argv[4], nullptr, 10);
  return std::string(argv[1]) == "produce"
             ? Produce(*client, argv[3], messages)
             : Consume(*client, argv[3], messages, std::string(argv[1]) == "follow");
}
