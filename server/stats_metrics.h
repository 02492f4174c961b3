// The numbers of GetStats, and a few more, as Prometheus wants them: computed at each scrape.
//
// Threads. Collect from any thread; it reads every record of the pools, as GetStats does.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "server/core.h"
#include "server/pool_manager.h"
#include "server/stats_reader.h"

namespace zerocp {

// Of more subscribers only those that have taken nothing for the longest time, then with the
// longest queues, have series.
inline constexpr size_t kMaxSubscriberSeries = 1000;

class StatsMetrics final : public prometheus::Collectable {
 public:
  // When the certificate of a TLS listener expires; nullopt: there is none.
  using CertificateExpiry = std::function<std::optional<std::chrono::system_clock::time_point>()>;

  // REQUIRES: all outlive this.
  StatsMetrics(Core& core, PoolManager& pools, StatsReader& stats,
               CertificateExpiry certificate_expiry = {})
      : core_(core),
        pools_(pools),
        stats_(stats),
        certificate_expiry_(std::move(certificate_expiry)) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  Core& core_;
  PoolManager& pools_;
  StatsReader& stats_;
  const CertificateExpiry certificate_expiry_;
};

}  // namespace zerocp
