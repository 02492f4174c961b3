// How many calls of each method of zerocp.v1 there were, how they ended, and how long they took.
//
// Threads. All functions from any thread.
#pragma once

#include <google/protobuf/descriptor.h>
#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>
#include <string>
#include <string_view>

namespace zerocp {

// "NOT_FOUND" of 5; "UNKNOWN" of what is no canonical code.
std::string_view CanonicalCodeName(int code);

class RpcMetrics {
 public:
  RpcMetrics();

  // A call of `method` has come.
  void Begin(const google::protobuf::MethodDescriptor& method);
  // It ends with the canonical `code`. What it took counts unless it is a stream: those last as
  // long as their caller wants.
  void End(const google::protobuf::MethodDescriptor& method, int code,
           std::chrono::steady_clock::duration took);

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Gauge>& in_flight_;
  prometheus::Family<prometheus::Histogram>& latency_;
};

}  // namespace zerocp
