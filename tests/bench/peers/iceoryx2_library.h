// The functions of the library that is built from iceoryx2/, and values of it.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "tests/bench/port_spec.h"

namespace zerocp::bench {

struct Iceoryx2Spec {
  const char* name;
  size_t bytes, queue, loans, samples, publishers, subscribers;
  bool drops, sleeps;
};
// Found by iceoryx2.cc; what they do is written in iceoryx2/src.
struct Iceoryx2Functions {
  void* (*new_sender)(const Iceoryx2Spec&);
  void (*delete_sender)(void* sender);
  void* (*loan)(void* sender, void* loan);
  void (*drop_loan)(void* loan);
  void (*publish)(void* sender, void* loan);
  void* (*new_receiver)(const Iceoryx2Spec&);
  void (*delete_receiver)(void* receiver);
  const void* (*take)(void* receiver, void* sample);
  void (*drop_sample)(void* sample);
  void (*wait)(void* receiver);
};
inline Iceoryx2Functions iceoryx2{};

// Calls create(const Iceoryx2Spec&).
template <class Create>
void* NewIceoryx2(Create create, const PortSpec& spec) {
  const std::string name = spec.service();
  return create({name.c_str(), spec.bytes, spec.queue, spec.loans, spec.samples,
                 static_cast<size_t>(spec.publishers), static_cast<size_t>(spec.subscribers),
                 spec.drops, spec.sleeps});
}

// A loan or a sample in Rust, which may be moved as its bytes are. Empty: bytes() is null.
template <class Pointer>
class Iceoryx2Value {
 public:
  // Calls make(storage), which returns the payload, or null and makes nothing.
  template <class Make>
  Iceoryx2Value(void (*drop)(void*), Make make) : drop_(drop), bytes_(make(storage_)) {}
  Iceoryx2Value(Iceoryx2Value&& other) noexcept : drop_(other.drop_), bytes_(other.bytes_) {
    std::memcpy(storage_, other.storage_, sizeof(storage_));
    other.bytes_ = nullptr;
  }
  ~Iceoryx2Value() {
    if (bytes_ != nullptr) drop_(storage_);
  }
  Iceoryx2Value& operator=(Iceoryx2Value&&) = delete;

  Pointer bytes() const { return bytes_; }
  // For who takes it over.
  void* TakeOut() {
    bytes_ = nullptr;
    return storage_;
  }
  explicit operator bool() const { return bytes_ != nullptr; }

 private:
  void (*drop_)(void*);
  alignas(16) std::byte storage_[256];
  Pointer bytes_;
};

}  // namespace zerocp::bench
