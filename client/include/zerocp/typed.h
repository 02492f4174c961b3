// Channels whose messages are all one struct.
//
//   struct Pose { double x, y, z; };
//   auto publisher = client->JoinAsPublisher<Pose>("pose");
//   auto loan = publisher->NewLoan();
//   **loan = {1, 2, 3};
//   publisher->Publish(*loan);
//
//   auto subscriber = client->JoinAsSubscriber<Pose>("pose");
//   auto pose = subscriber->Wait();
//   Use((*pose)->x);
//
// T is trivially copyable, and the same in all programs: it has no pointers, and a name, to which
// the channel's message_type is compared, that changes with it. Joining fails if the chunks of the
// channel's pool are too small for a T (kTooLarge) or aligned to less (kInvalid).
#pragma once

#include <zerocp/loan.h>
#include <zerocp/publisher.h>
#include <zerocp/result.h>
#include <zerocp/subscriber.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace zerocp {

template <class T>
concept Message = std::is_trivially_copyable_v<T> && std::is_object_v<T> && !std::is_pointer_v<T>;

namespace internal {

// The name of T's message type: T::kMessageType, else none.
template <Message T>
constexpr std::string_view MessageTypeOf() {
  if constexpr (requires { std::string_view(T::kMessageType); }) {
    return T::kMessageType;
  } else {
    return {};
  }
}

}  // namespace internal

// A Loan of one T. Its bytes are not cleared.
template <class T>
class TypedLoan : private Loan {
 public:
  TypedLoan() = default;

  // REQUIRES here and below: not empty.
  T& operator*() { return *static_cast<T*>(static_cast<void*>(data().data())); }
  T* operator->() { return &**this; }
  using Loan::header;
  using Loan::operator bool;

 private:
  template <class>
  friend class Result;
  template <class>
  friend class TypedPublisher;

  explicit TypedLoan(Loan loan) : Loan(std::move(loan)) {}
};

// A Sample of one T.
template <class T>
class TypedSample : private Sample {
 public:
  TypedSample() = default;

  // REQUIRES here and below: not empty.
  const T& operator*() const {
    return *static_cast<const T*>(static_cast<const void*>(data().data()));
  }
  const T* operator->() const { return &**this; }
  using Sample::handle;
  using Sample::header;
  using Sample::missed_before;
  using Sample::sequence;
  using Sample::operator bool;

 private:
  friend class Subscriber;
  template <class>
  friend class TypedSubscriber;
};

// A Publisher whose messages are each one T.
template <class T>
class TypedPublisher : private Publisher {
 public:
  TypedPublisher() = default;

  // As Publisher's, also in what can fail.
  Result<TypedLoan<T>> NewLoan(Deadline wait = std::chrono::nanoseconds{0}) {
    return Publisher::NewLoan(sizeof(T), wait).template As<TypedLoan<T>>();
  }
  Result<Published> Publish(TypedLoan<T>& loan, Deadline wait = std::nullopt) {
    return Publisher::Publish(loan, wait);
  }
  // A copy of `message`, for small ones. `wait` is for a chunk, then anew for the queues. Fails as
  // NewLoan and Publish.
  Result<Published> Send(const T& message, Deadline wait = std::nullopt) {
    auto loan = NewLoan(wait);
    if (!loan) return std::move(loan).template As<Published>();
    **loan = message;
    return Publish(*loan, wait);
  }
  using Publisher::Close;
  using Publisher::WaitForSubscribers;

 private:
  template <class>
  friend class Result;

  explicit TypedPublisher(Publisher publisher) : Publisher(std::move(publisher)) {}
};

// A Subscriber whose messages are each one T.
template <class T>
class TypedSubscriber : private Subscriber {
 public:
  TypedSubscriber() = default;

  // As Subscriber's. kTypeMismatch: the message has another size than a T; it is let go.
  Result<TypedSample<T>> Wait(Deadline wait = std::nullopt) {
    return Take(internal::TimeoutOf(wait));
  }
  Result<TypedSample<T>> TryTake() { return Take(0); }
  using Subscriber::Close;
  using Subscriber::fd;

 private:
  template <class>
  friend class Result;

  explicit TypedSubscriber(Subscriber subscriber) : Subscriber(std::move(subscriber)) {}

  Result<TypedSample<T>> Take(std::int64_t timeout_ns) {
    auto result = Subscriber::Take<TypedSample<T>>(timeout_ns);
    if (result && result->template as<T>() == nullptr) [[unlikely]] {
      result.Set(Code::kTypeMismatch,
                 "message " + std::to_string(result->sequence()) + " has " +
                     std::to_string(result->data().size()) + " bytes, this subscriber's type has " +
                     std::to_string(sizeof(T)) +
                     ": do all programs agree on it? A channel that was created with a "
                     "message_type refuses who names another");
      *result = {};
    }
    return result;
  }
};

}  // namespace zerocp
