// Publishers and subscribers of iceoryx2, as ports.h asks for them.
#pragma once

#include <memory>

#include "tests/bench/peers/iceoryx2_library.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

class Iceoryx2Publisher {
 public:
  using Loan = Iceoryx2Value<void*>;
  explicit Iceoryx2Publisher(const PortSpec& spec)
      : sender_(NewIceoryx2(iceoryx2.new_sender, spec), iceoryx2.delete_sender) {}

  Loan NewLoan() {
    return {iceoryx2.drop_loan, [this](void* loan) { return iceoryx2.loan(sender_.get(), loan); }};
  }
  void Publish(Loan& loan) { iceoryx2.publish(sender_.get(), loan.TakeOut()); }
  void WaitForSubscriber() {}  // it knows them as soon as they are there

 private:
  const std::unique_ptr<void, void (*)(void*)> sender_;
};

class Iceoryx2Subscriber {
 public:
  using Sample = Iceoryx2Value<const void*>;
  explicit Iceoryx2Subscriber(const PortSpec& spec)
      : receiver_(NewIceoryx2(iceoryx2.new_receiver, spec), iceoryx2.delete_receiver) {}

  Sample Take() {
    return {iceoryx2.drop_sample,
            [this](void* sample) { return iceoryx2.take(receiver_.get(), sample); }};
  }
  Sample Wait() {
    for (;;) {
      if (Sample sample = Take()) return sample;
      iceoryx2.wait(receiver_.get());
    }
  }

 private:
  const std::unique_ptr<void, void (*)(void*)> receiver_;
};

}  // namespace zerocp::bench
