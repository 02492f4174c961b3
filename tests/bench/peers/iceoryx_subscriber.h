// A subscriber of iceoryx, as ports.h asks for it.
#pragma once

#include <iceoryx_posh/popo/untyped_subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>

#include "tests/bench/peers/held.h"
#include "tests/bench/peers/roudi.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

class IceoryxSubscriber {
 public:
  using Sample = Held<IceoryxSubscriber, const void*>;
  explicit IceoryxSubscriber(const PortSpec& spec)
      : subscriber_((UseRouDi(), IceoryxService(spec)), Options(spec)) {
    if (spec.sleeps) (void)waiter_.attachState(subscriber_, iox::popo::SubscriberState::HAS_DATA);
  }

  Sample Take() {
    const void* taken = nullptr;
    subscriber_.take().and_then([&](const void* chunk) { taken = chunk; });
    return {*this, taken};
  }
  Sample Wait() {
    for (;;) {
      if (Sample sample = Take()) return sample;
      (void)waiter_.wait();
    }
  }
  void GiveBack(const void* bytes) { subscriber_.release(bytes); }

 private:
  static iox::popo::SubscriberOptions Options(const PortSpec& spec) {
    iox::popo::SubscriberOptions options;
    if (!spec.drops) options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
    options.queueCapacity = spec.queue;
    return options;
  }

  iox::popo::UntypedSubscriber subscriber_;
  iox::popo::WaitSet<> waiter_;  // lets go of the subscriber first
};

}  // namespace zerocp::bench
