// Metrics for Prometheus over HTTP, at /metrics.
//
// Whoever can connect reads them; nothing can be changed there. Series and their labels are
// bounded: names of pools, channels, methods and codes, and at most kMaxSubscriberSeries
// subscribers.
//
// Threads. Start and the destructor from one thread; two of its own serve.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include <memory>
#include <string>
#include <vector>

#include "shm/status.h"

namespace zerocp {

class MetricsServer {
 public:
  // Listens at `address` ("127.0.0.1:9400", "[::1]:0"), and answers 404 until there is something to
  // serve. kUnavailable: it cannot be had; the message says why.
  static shm::Result<std::unique_ptr<MetricsServer>> Start(const std::string& address);

  // Waits for the scrapes that run.
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // Serves what they collect from now on.
  void Serve(std::vector<std::shared_ptr<prometheus::Collectable>> metrics);

  // With the port that was chosen if it was 0.
  const std::string& address() const { return address_; }

 private:
  MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, std::string address)
      : address_(std::move(address)), exposer_(std::move(exposer)) {}

  const std::string address_;
  std::vector<std::shared_ptr<prometheus::Collectable>> metrics_;  // the exposer knows them weakly
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace zerocp
