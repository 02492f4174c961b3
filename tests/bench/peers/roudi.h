// The daemon of iceoryx, which there is one of per machine.
#pragma once

namespace zerocp::bench {

inline constexpr char kRouDi[] = "/usr/bin/iox-roudi";

// Makes this process its client; starts it first unless another process of this program has. It
// ends with that process.
void UseRouDi();

}  // namespace zerocp::bench
