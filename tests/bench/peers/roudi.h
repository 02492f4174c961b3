// The daemon of iceoryx, which there is one of per machine.
#pragma once

#include <sys/types.h>

#include <iceoryx_posh/capro/service_description.hpp>

#include "tests/bench/port_spec.h"

namespace zerocp::bench {

inline constexpr char kRouDi[] = "/usr/bin/iox-roudi";

// Makes this process its client; starts it first unless another process of this program has. It
// ends with that process.
void UseRouDi();
// REQUIRES: this process, or the one that started it, has called UseRouDi.
pid_t RouDiPid();

// The daemon's directory, which no other work has, names the service.
inline iox::capro::ServiceDescription IceoryxService(const PortSpec& spec) {
  using Text = iox::capro::IdString_t;
  return {Text(iox::cxx::TruncateToCapacity, spec.place), "zerocp_bench",
          Text(iox::cxx::TruncateToCapacity, spec.channel)};
}

}  // namespace zerocp::bench
