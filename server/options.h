// What zerocpd was told to do: the command line, checked.
#pragma once

#include <spdlog/common.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/death_watch.h"
#include "shm/channel_registry.h"
#include "shm/mem_pool_config.h"
#include "shm/status.h"

namespace zerocp {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitHeld = 3;  // another daemon runs there, or owns the segments

// What becomes of the segments when the daemon stops in order.
enum class OnStop {
  kAuto,  // unlinked if nobody is attached, else kept for the next start
  kKeep,
  kUnlink,
};

struct Options {
  std::string runtime_dir;
  bool system_service = false;  // the modes and groups of a system service, instead of a user's
  std::optional<std::string> instance;
  std::string segment_dir = "/dev/shm";
  std::string socket_group = "zerocp";
  std::string admin_group = "zerocp-admin";
  bool socket_group_named = false;  // by the user: then a missing group is an error
  bool admin_group_named = false;
  std::vector<shm::PoolSpec> pools;
  std::vector<shm::ChannelSpec> channels;
  uint64_t chunk_reserved_bytes = uint64_t{1} << 40;
  uint32_t max_session_count = shm::kDefaultSessionCapacity;
  uint32_t max_chunks_per_session = 0;  // 0: not limited
  OnStop on_stop = OnStop::kAuto;
  std::string config_file;    // empty: none
  bool check_config = false;  // only check it, and what a start with it would do
  bool cleanup = false;
  spdlog::level::level_enum log_level = spdlog::level::info;
  std::string metrics_listen;  // "127.0.0.1:9400", "[::1]:0"; empty: no metrics
  DeathWatchMode death_watch = DeathWatchMode::kAuto;

  uint64_t management_reserved_bytes() const;
};

// The command line, and behind it the section `start` of its --config, as options, or the text to
// print and the code to exit with.
struct ParsedOptions {
  std::optional<Options> options;
  std::string output;  // to stdout if exit_code is kExitOk, else to stderr
  int exit_code = kExitOk;
};
ParsedOptions ParseOptions(int argc, const char* const* argv);

// "9400", "0.0.0.0:9400", "[::1]:0": where metrics are served, with the address; a port alone is
// that of 127.0.0.1. kInvalid.
shm::Result<std::string> ParseListenAddress(std::string_view text);
// "NAME=SIZExCOUNT[,max=N][,auto-grow]", "video=1MiBx64". kInvalid.
shm::Result<shm::PoolSpec> ParsePool(std::string_view text);
// "NAME=POOL[,queue=N][,when-full=wait|drop][,max-held=N][,history=N]". kInvalid.
shm::Result<shm::ChannelSpec> ParseChannel(std::string_view text);

// The pools and the channel of a daemon that was not told any: three sizes of chunks for a first
// experiment, together at most a quarter of `available_bytes` and 256 MiB. Fewer pools, or none,
// where memory is very short.
struct DefaultSetup {
  std::vector<shm::PoolSpec> pools;
  std::vector<shm::ChannelSpec> channels;
  uint64_t bytes = 0;  // of real memory, over that of an instance without pools
};
DefaultSetup MakeDefaultSetup(uint64_t available_bytes, uint32_t session_capacity);

}  // namespace zerocp
