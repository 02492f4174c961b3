// zerocp, as a user links it: public headers and the shared library.
#include <zerocp/zerocp.h>

#include "tests/bench/link.h"
#include "tests/bench/loan_release.h"
#include "tests/bench/must.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

class Pool {
 public:
  using Chunk = Result<Loan>;

  explicit Pool(const LoanSpec& spec)
      : client_(std::make_shared<Client>(Must(Client::Connect({"bench", spec.place}), "connect"))),
        channel_(spec.channel),
        publisher_(Join()),
        bytes_(spec.bytes) {}
  Pool(const Pool& other)
      : client_(other.client_),
        channel_(other.channel_),
        publisher_(Join()),
        bytes_(other.bytes_) {}

  Chunk NewChunk() {
    Chunk chunk = publisher_.NewLoan(bytes_);
    if (!chunk) Die("loan", chunk.message());
    return chunk;
  }
  static void* Bytes(Chunk& chunk) { return chunk->data().data(); }

 private:
  Publisher Join() { return Must(client_->JoinAsPublisher(channel_), "join"); }

  std::shared_ptr<Client> client_;
  std::string channel_;
  Publisher publisher_;
  size_t bytes_;
};

class Link {
 public:
  Link(const LinkSpec& spec, int end)
      : spec_(spec),
        client_(Must(Client::Connect({"bench", spec.place}), "connect")),
        in_(Must(client_.JoinAsSubscriber(end == 0 ? "pong" : "ping"), "join")),
        out_(Must(client_.JoinAsPublisher(end == 0 ? "ping" : "pong"), "join")) {
    (void)Must(out_.WaitForSubscribers(1, std::chrono::seconds(30)), "waiting for the other end");
  }

  void Send(uint64_t value) {
    auto loan = out_.NewLoan(spec_.bytes, std::nullopt);
    if (!loan) Die("loan", loan.message());
    WriteMessage(loan->data().data(), value, spec_);
    if (const auto published = out_.Publish(*loan); !published) Die("publish", published.message());
  }
  bool Take(uint64_t* value) { return Read(in_.TryTake(), value); }
  void Wait(uint64_t* value) { (void)Read(in_.Wait(), value); }

 private:
  bool Read(const Result<Sample>& sample, uint64_t* value) {
    if (!sample) {
      if (sample.code() == Code::kTimeout) return false;
      Die("take", sample.message());
    }
    *value = ReadMessage(sample->data().data(), spec_);
    return true;
  }

  const LinkSpec spec_;
  Client client_;
  Subscriber in_;
  Publisher out_;
};

}  // namespace

Peer ZerocpPeer() {
  Peer peer{"zerocp", "a zerocpd for each work; C++ interface of libzerocp.so"};
  peer.loan_release = [](const LoanSpec& spec) { return LoanSubject<Pool>("zerocp", spec); };
  AddLink<Link>(peer);
  return peer;
}

}  // namespace zerocp::bench
