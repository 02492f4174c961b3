// A message to itself, over the channel of the packaged configuration.
#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstring>

int main() {
  auto client = zerocp::Client::Connect();
  if (!client) return std::puts(client.message().c_str()), 1;
  auto in = client->JoinAsSubscriber("default");
  auto out = client->JoinAsPublisher("default");
  if (!in || !out) return std::puts("cannot join the channel default"), 1;
  auto loan = out->NewLoan(5);
  if (!loan) return std::puts(loan.message().c_str()), 1;
  std::memcpy(loan->data().data(), "hello", 5);
  if (auto published = out->Publish(*loan); !published)
    return std::puts(published.message().c_str()), 1;
  auto sample = in->Wait(std::chrono::seconds(10));
  return sample && std::memcmp(sample->data().data(), "hello", 5) == 0 ? 0 : 1;
}
