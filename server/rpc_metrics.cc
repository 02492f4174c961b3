#include "server/rpc_metrics.h"

#include <array>

#include "shm/mutant.h"

namespace zerocp {
namespace {

// Reads take some 100 us, the growth of a large pool seconds.
const prometheus::Histogram::BucketBoundaries kBuckets = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03,
                                                          0.1,    0.3,    1,     3,     10};

prometheus::Labels LabelsOf(const google::protobuf::MethodDescriptor& method) {
  return {{"service", method.service()->full_name()}, {"method", method.name()}};
}

}  // namespace

std::string_view CanonicalCodeName(int code) {
  constexpr std::array<std::string_view, 17> kNames = {"OK",
                                                       "CANCELLED",
                                                       "UNKNOWN",
                                                       "INVALID_ARGUMENT",
                                                       "DEADLINE_EXCEEDED",
                                                       "NOT_FOUND",
                                                       "ALREADY_EXISTS",
                                                       "PERMISSION_DENIED",
                                                       "RESOURCE_EXHAUSTED",
                                                       "FAILED_PRECONDITION",
                                                       "ABORTED",
                                                       "OUT_OF_RANGE",
                                                       "UNIMPLEMENTED",
                                                       "INTERNAL",
                                                       "UNAVAILABLE",
                                                       "DATA_LOSS",
                                                       "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

RpcMetrics::RpcMetrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      handled_(prometheus::BuildCounter()
                   .Name("zerocp_grpc_handled_total")
                   .Help("Calls that have ended, by method and status code.")
                   .Register(*registry_)),
      in_flight_(prometheus::BuildGauge()
                     .Name("zerocp_grpc_in_flight")
                     .Help("Calls that have not ended; of a streaming method the open streams.")
                     .Register(*registry_)),
      latency_(prometheus::BuildHistogram()
                   .Name("zerocp_grpc_handling_seconds")
                   .Help("Time from the arrival of a call to its answer, streams excepted.")
                   .Register(*registry_)) {}

void RpcMetrics::Begin(const google::protobuf::MethodDescriptor& method) {
  MutexLock lock(mutex_);
  Series& series = series_[&method];
  if (series.in_flight == nullptr) series.in_flight = &in_flight_.Add(LabelsOf(method));
  series.in_flight->Increment();
}

void RpcMetrics::End(const google::protobuf::MethodDescriptor& method, int code,
                     std::chrono::steady_clock::duration took) {
  MutexLock lock(mutex_);
  Series& series = series_[&method];
  if (!Mutant(67)) series.in_flight->Decrement();
  if (!method.server_streaming()) {
    if (series.latency == nullptr) series.latency = &latency_.Add(LabelsOf(method), kBuckets);
    series.latency->Observe(std::chrono::duration<double>(took).count());
  }
  prometheus::Counter*& handled = series.handled[code];
  if (handled == nullptr) {
    prometheus::Labels labels = LabelsOf(method);
    labels.emplace("code", CanonicalCodeName(code));
    handled = &handled_.Add(labels);
  }
  handled->Increment();
}

}  // namespace zerocp
