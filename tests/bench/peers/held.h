// Bytes that go back to their owner.
#pragma once

#include <utility>

namespace zerocp::bench {

// Owner::GiveBack(bytes): once for each that has not been taken out. Null: there are none.
template <class Owner, class Pointer>
class Held {
 public:
  Held(Owner& owner, Pointer bytes) : owner_(&owner), bytes_(bytes) {}
  Held(Held&& other) noexcept : owner_(other.owner_), bytes_(other.TakeOut()) {}
  ~Held() {
    if (bytes_ != nullptr) owner_->GiveBack(bytes_);
  }
  Held& operator=(Held&&) = delete;

  Pointer bytes() const { return bytes_; }
  Pointer TakeOut() { return std::exchange(bytes_, nullptr); }
  explicit operator bool() const { return bytes_ != nullptr; }

 private:
  Owner* owner_;
  Pointer bytes_;
};

}  // namespace zerocp::bench
