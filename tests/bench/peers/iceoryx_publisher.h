// A publisher of iceoryx, as ports.h asks for it.
#pragma once

#include <iceoryx_posh/popo/untyped_publisher.hpp>
#include <thread>

#include "tests/bench/peers/held.h"
#include "tests/bench/peers/roudi.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

class IceoryxPublisher {
 public:
  using Loan = Held<IceoryxPublisher, void*>;
  explicit IceoryxPublisher(const PortSpec& spec)
      : publisher_((UseRouDi(), IceoryxService(spec)), Options(spec)), bytes_(spec.bytes) {}

  Loan NewLoan() {
    void* loaned = nullptr;
    while (loaned == nullptr)  // a receiver may have all chunks for a moment
      publisher_.loan(static_cast<uint32_t>(bytes_)).and_then([&](void* chunk) { loaned = chunk; });
    return {*this, loaned};
  }
  void Publish(Loan& loan) { publisher_.publish(loan.TakeOut()); }
  void GiveBack(void* bytes) { publisher_.release(bytes); }
  void WaitForSubscriber() {
    while (!publisher_.hasSubscribers()) std::this_thread::yield();
  }

 private:
  static iox::popo::PublisherOptions Options(const PortSpec& spec) {
    iox::popo::PublisherOptions options;
    if (!spec.drops)
      options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
    return options;
  }

  iox::popo::UntypedPublisher publisher_;
  const size_t bytes_;
};

}  // namespace zerocp::bench
