// The middle of Python -> C++ -> Python: takes each message of `there`, adds 1 to what its header
// counts, and names the same chunk on `back`, which copies nothing. Ends with the stream.
//
//   relay RUNTIME_DIR
#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

int Fail(const std::string& message) {
  std::fprintf(stderr, "relay: %s\n", message.c_str());
  return 1;
}

int Relay(const char* runtime_dir) {
  auto client = zerocp::Client::Connect({.name = "relay", .runtime_dir = runtime_dir});
  if (!client) return Fail(client.message());
  auto back = client->JoinAsPublisher("back");
  auto there = client->JoinAsSubscriber("there");
  if (!back || !there) return Fail(back.message() + there.message());
  std::vector<zerocp::Sample> kept;  // until the last reader has opened them
  auto sample = there->Wait();
  for (; sample; sample = there->Wait()) {
    const auto handle = sample->handle();
    auto loan = back->NewLoan(sizeof(zerocp_handle));
    if (!handle || !loan) return Fail(handle.message() + loan.message());
    const zerocp_handle raw{handle->instance, handle->chunk};
    std::memcpy(loan->data().data(), &raw, sizeof(raw));
    std::memcpy(loan->header().data(), sample->header().data(), sample->header().size());
    if (auto published = back->Publish(*loan); !published) return Fail(published.message());
    kept.push_back(std::move(*sample));
  }
  return sample.code() == zerocp::Code::kEndOfStream ? 0 : Fail(sample.message());
}

}  // namespace

int main(int argc, char** argv) {
  return argc == 2 ? Relay(argv[1]) : Fail("usage: relay RUNTIME_DIR");
}
