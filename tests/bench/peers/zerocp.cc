// zerocp, as a user links it: public headers and the shared library.
#include <zerocp/zerocp.h>

#include "tests/bench/must.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/ports.h"

namespace zerocp::bench {
namespace {

// One for all ports that are there at once.
std::shared_ptr<Client> ClientAt(const std::string& place) {
  static std::pair<std::string, std::weak_ptr<Client>> last;
  std::shared_ptr<Client> client = last.second.lock();
  if (client != nullptr && last.first == place) return client;
  client = std::make_shared<Client>(Must(Client::Connect({"bench", place}), "connect"));
  last = {place, client};
  return client;
}

struct Ports {
  static constexpr size_t kMostLoans = 1'000'000;

  class Publisher {
   public:
    using Loan = Result<zerocp::Loan>;
    explicit Publisher(const PortSpec& spec)
        : client_(ClientAt(spec.place)),
          publisher_(Must(client_->JoinAsPublisher(spec.channel), "join")),
          bytes_(spec.bytes),
          wait_(spec.loans_wait ? Deadline() : std::chrono::nanoseconds{0}) {}

    [[gnu::always_inline]] Loan NewLoan() { return publisher_.NewLoan(bytes_, wait_); }
    void Publish(Loan& loan) {  // the loan is looked at last: in place, and once it is written
      const auto published = publisher_.Publish(*loan);
      if (!loan || !published) Die("publish", loan.message() + ", " + published.message());
    }
    void WaitForSubscriber() { (void)Must(publisher_.WaitForSubscribers(1), "subscribers"); }

   private:
    const std::shared_ptr<Client> client_;
    zerocp::Publisher publisher_;
    const size_t bytes_;
    const Deadline wait_;
  };

  class Subscriber {
   public:
    using Sample = Result<zerocp::Sample>;
    explicit Subscriber(const PortSpec& spec)
        : client_(ClientAt(spec.place)),
          subscriber_(Must(client_->JoinAsSubscriber(spec.channel), "join")) {}

    Sample Take() { return Wait(std::chrono::nanoseconds{0}); }
    Sample Wait(Deadline deadline = std::nullopt) {
      Sample sample = subscriber_.Wait(deadline);
      if (!sample && sample.code() != Code::kTimeout) Die("take", sample.message());
      return sample;
    }

   private:
    const std::shared_ptr<Client> client_;
    zerocp::Subscriber subscriber_;
  };

  static void* Bytes(Publisher::Loan& loan) { return loan->data().data(); }
  static const void* Bytes(const Subscriber::Sample& sample) { return sample->data().data(); }
};

}  // namespace

Peer ZerocpPeer() {
  Peer peer{"zerocp",
            "a zerocpd for each work; C++ interface; queues of 128 messages of each publisher, of "
            "4 or 16 large ones"};
  AddPorts<Ports>(peer);
  return peer;
}

}  // namespace zerocp::bench
