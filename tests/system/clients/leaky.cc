// A local program gone wrong, for clients_test.sh: it joins a channel and takes nothing, so that
// publishers wait for it, and it loans three chunks of a pool and keeps them, until it is killed.
//
//   leaky RUNTIME_DIR CHANNEL POOL
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <array>
#include <cstdio>
#include <string>
#include <utility>

namespace {

int Fail(const char* what, const std::string& why) {
  std::fprintf(stderr, "leaky: %s: %s\n", what, why.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  auto client = zerocp::Client::Connect({"leaky", argv[1]});
  if (!client) return Fail("connect", client.message());
  std::array<zerocp::Loan, 3> leak;
  for (zerocp::Loan& loan : leak) {
    auto result = client->NewLoan(argv[3], 1);
    if (!result) return Fail("loan", result.message());
    loan = std::move(*result);
  }
  auto subscriber = client->JoinAsSubscriber(argv[2]);
  if (!subscriber) return Fail("join", subscriber.message());
  for (;;) pause();
}
