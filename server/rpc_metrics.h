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
#include <map>
#include <memory>
#include <string_view>

#include "server/mutex.h"

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
  // Of one method. A series is there from the first call on that counts in it.
  struct Series {
    prometheus::Gauge* in_flight = nullptr;
    prometheus::Histogram* latency = nullptr;
    std::map<int, prometheus::Counter*> handled = {};  // by code
  };

  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Gauge>& in_flight_;
  prometheus::Family<prometheus::Histogram>& latency_;
  Mutex mutex_;
  std::map<const google::protobuf::MethodDescriptor*, Series> series_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
