#include "server/options.h"

#include <arpa/inet.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>

#include "server/build_info.h"
#include "server/start_section.h"
#include "server/whole_file.h"
#include "shm/byte_size.h"
#include "shm/mem_pool_allocator.h"
#include "shm/runtime_dir.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;
constexpr uint64_t kTiB = 1024 * kGiB;
constexpr uint64_t kMaxReservedBytes = 32 * kTiB;  // both ranges fit into a 47-bit address space

constexpr char kFooter[] = R"(Examples:
  zerocpd                                      an instance of this user, with default pools
  zerocpd --pool video=1MiBx64 --channel camera=video,queue=8
  zerocpd --runtime-dir /tmp/try --pool small=4KiBx1000
  zerocpd --cleanup --runtime-dir /tmp/try     remove what a killed daemon left

Runtime directory: /run/zerocp when run as root or as that directory's owner, else
$XDG_RUNTIME_DIR/zerocp, else /tmp/zerocp-<uid>. Clients look there too.

Exit codes: 0 stopped in order, 1 failed, 2 bad command line, 3 another daemon runs there or owns
the segments.)";

constexpr char kDefaultConfigHead[] =
    R"(# Configuration of zerocpd. YAML; JSON will do, too.
#   zerocpd --check-config FILE   checks it
#   zerocpd --config FILE         starts with it
# After an edit SIGHUP or `zerocp config reload` takes over pools and channels, a restart the rest.

# Options of the command line, by their long names. The command line wins.
start:
)";

constexpr char kDefaultConfigTail[] = R"(
# All pools. chunk_count is a minimum: a pool only grows. Further fields: chunk_alignment_bytes,
# max_chunk_count (room to grow; 4 times chunk_count), max_holders_per_chunk, auto_grow.
pools:
  - name: pools/small
    chunk_size_bytes: 4KiB
    chunk_count: 1024
  - name: pools/large
    chunk_size_bytes: 1MiB
    chunk_count: 16
    auto_grow: true

# All channels. when_full is WHEN_FULL_WAIT or WHEN_FULL_DROP_OLDEST. Further fields:
# queue_capacity (16), max_held_count, history_count, message_type.
channels:
  - name: channels/default
    pool: pools/large
    when_full: WHEN_FULL_WAIT
)";

Status Invalid(std::string message) { return Status(Code::kInvalid, std::move(message)); }

// For an option that takes one of a few words. CLI11's own transformer also takes the numbers
// behind them, and answers anything else with both.
template <class T>
CLI::Validator OneOf(std::map<std::string, T> words) {
  return CLI::Validator(
      [words = std::move(words)](std::string& text) {
        std::string possible;
        for (const auto& [word, value] : words) {
          if (word == text) {
            text = std::to_string(static_cast<int64_t>(value));
            return std::string();
          }
          possible += (possible.empty() ? "" : ", ") + word;
        }
        return "'" + text + "' is none of " + possible;
      },
      "");
}

// Root, or whoever owns the directory, runs the system service; everybody else an instance of their
// own.
std::string DefaultRuntimeDir() {
  struct stat info {};
  std::string system = shm::SystemRuntimeDir();
  if (geteuid() == 0) return system;
  if (lstat(system.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid())
    return system;
  return shm::UserRuntimeDir();
}

// The texts of the options that are more than CLI11 can check.
struct RawOptions {
  std::vector<std::string> pools;
  std::vector<std::string> channels;
  std::string reserve;
  std::string metrics_listen;
  bool print_default_config = false;
};

void Declare(CLI::App& app, Options& options, RawOptions& raw) {
  app.set_version_flag("--version", std::string("zerocpd ") + kVersion);
  app.footer(kFooter);
  app.add_option("--runtime-dir", options.runtime_dir,
                 "directory of sockets, lock and session table; default: $ZEROCP_RUNTIME_DIR if it "
                 "is set,\n"
                 "else /run/zerocp for root or its owner, else $XDG_RUNTIME_DIR/zerocp, else\n"
                 "/tmp/zerocp-<uid>")
      ->type_name("DIR");
  app.add_option("--instance", options.instance,
                 "name in the segments' names; by default from the runtime directory")
      ->type_name("NAME");
  app.add_option("--segment-dir", options.segment_dir, "tmpfs for the segments (default /dev/shm)")
      ->type_name("DIR");
  app.add_flag(
      "--system", options.system_service,
      "modes and groups of a system service; implied by the runtime directory /run/zerocp");
  app.add_option("--socket-group", options.socket_group,
                 "system service: group of client.sock and attach.sock (default zerocp)")
      ->type_name("GROUP");
  app.add_option("--admin-group", options.admin_group,
                 "system service: group of admin.sock (default zerocp-admin)")
      ->type_name("GROUP");
  app.add_option("--pool", raw.pools, "a pool to create, as video=1MiBx64; repeatable")
      ->type_name("NAME=SIZExCOUNT[,max=N][,auto-grow]")
      ->allow_extra_args(false);
  app.add_option("--channel", raw.channels,
                 "a channel to create, as camera=video,queue=8; repeatable")
      ->type_name("NAME=POOL[,queue=N][,when-full=wait|drop][,max-held=N][,history=N][,type=NAME]")
      ->allow_extra_args(false);
  app.add_option("--reserve", raw.reserve,
                 "address range for chunks (default 1TiB); memory is only taken by pools")
      ->type_name("BYTES");
  app.add_option("--max-sessions", options.max_session_count,
                 "processes attached at once (default 4096, at most 16381)")
      ->type_name("N")
      ->check(CLI::Range(1u, shm::kMaxSessionCapacity));
  app.add_option(
         "--max-chunks-per-session", options.max_chunks_per_session,
         "loans and samples a session (one per Connect) may have at once; 0: not limited (default)")
      ->type_name("N")
      ->check(CLI::Range(0u, shm::kMaxPools * shm::kMaxChunksPerPool));
  app.add_option(
         "--on-stop", options.on_stop,
         "what becomes of the segments: auto (unlinked if nobody is attached), keep, unlink")
      ->type_name("HOW")
      ->transform(OneOf<OnStop>(
          {{"auto", OnStop::kAuto}, {"keep", OnStop::kKeep}, {"unlink", OnStop::kUnlink}}));
  app.add_option("--log-level", options.log_level, "trace, debug, info (default), warning, error")
      ->type_name("LEVEL")
      ->transform(OneOf<spdlog::level::level_enum>({{"trace", spdlog::level::trace},
                                                    {"debug", spdlog::level::debug},
                                                    {"info", spdlog::level::info},
                                                    {"warning", spdlog::level::warn},
                                                    {"error", spdlog::level::err}}));
  app.add_option(
         "--metrics-listen", raw.metrics_listen,
         "serve metrics for Prometheus over HTTP, to anybody who can connect; a port alone\n"
         "is that of 127.0.0.1, port 0 any free one (default: no metrics)")
      ->type_name("[ADDRESS:]PORT");
  app.add_option(
         "--death-watch", options.death_watch,
         "how deaths are noticed: auto, pidfd-open, hangup; the latter two only test fall-backs")
      ->type_name("HOW")
      ->transform(OneOf<DeathWatchMode>({{"auto", DeathWatchMode::kAuto},
                                         {"pidfd-open", DeathWatchMode::kPidfdOpen},
                                         {"hangup", DeathWatchMode::kHangup}}));
  Declare(app, options.security);
  app.add_option("--config", options.config_file,
                 "YAML or JSON file with pools, channels and these options; read again at SIGHUP")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--check-config",
         [&options](const std::string& file) {
           options.config_file = file;
           options.check_config = true;
         },
         "check such a file, say what is wrong with it, and exit with 0 or 1")
      ->type_name("FILE")
      ->excludes("--config");
  app.add_flag("--print-default-config", raw.print_default_config,
               "print such a file, with every option and comments, and exit");
  app.add_flag("--cleanup", options.cleanup,
               "remove the segments of an instance whose daemon is gone, and exit");
}

Status ParsePoolsAndChannels(const RawOptions& raw, Options& options) {
  shm::MemPoolConfig config;
  for (const std::string& text : raw.pools) {
    Result<shm::PoolSpec> pool = ParsePool(text);
    if (!pool.ok()) return Invalid("--pool " + text + ": " + pool.status().message());
    if (Status status = config.Add(*pool); !status.ok()) {
      return Invalid("--pool " + text + ": " + status.message());
    }
    options.pools.push_back(*pool);
  }
  for (const std::string& text : raw.channels) {
    Result<shm::ChannelSpec> channel = ParseChannel(text);
    if (!channel.ok()) return Invalid("--channel " + text + ": " + channel.status().message());
    for (const shm::ChannelSpec& other : options.channels) {
      if (other.name == channel->name)
        return Invalid("--channel " + text + ": " + other.name + " is there already");
    }
    options.channels.push_back(*channel);
  }
  return Status();
}

Status Check(const CLI::App& app, const RawOptions& raw, Options& options) {
  options.socket_group_named = app.count("--socket-group") != 0;
  options.admin_group_named = app.count("--admin-group") != 0;
  if (options.runtime_dir.empty()) {
    if (app.count("--runtime-dir") != 0) return Invalid("--runtime-dir: a directory is missing");
    const char* variable = std::getenv("ZEROCP_RUNTIME_DIR");  // where clients look, too
    options.runtime_dir = options.system_service                     ? shm::SystemRuntimeDir()
                          : variable != nullptr && *variable != '\0' ? std::string(variable)
                                                                     : DefaultRuntimeDir();
  }
  if (options.runtime_dir == shm::SystemRuntimeDir()) options.system_service = true;
  if (!options.system_service && (options.socket_group_named || options.admin_group_named)) {
    return Invalid(
        "--socket-group and --admin-group go with --system: the runtime directory of a user's "
        "instance is closed to everybody else");
  }
  if (options.segment_dir.empty() || options.segment_dir.front() != '/') {
    return Invalid("--segment-dir " + options.segment_dir +
                   ": an absolute path is needed, as /dev/shm");
  }
  if (options.instance && !options.instance->empty() && !shm::IsValidName(*options.instance)) {
    return Invalid(
        "--instance " + *options.instance +
        ": a name has at most 63 of a-z, 0-9 and -, starts with a letter and does not end with -");
  }
  if (!raw.reserve.empty()) {
    Result<uint64_t> bytes = shm::ParseBytes(raw.reserve);
    if (!bytes.ok()) return Invalid("--reserve: " + bytes.status().message());
    if (*bytes < 64 * kMiB || *bytes > kMaxReservedBytes) {
      return Invalid("--reserve " + raw.reserve + ": from 64MiB to 32TiB are possible");
    }
    options.chunk_reserved_bytes = *bytes;
  }
  if (Status status = Check(options.security); !status.ok()) return status;
  if (app.count("--metrics-listen") != 0) {
    Result<std::string> address = ParseListenAddress(raw.metrics_listen);
    if (!address.ok()) return Invalid("--metrics-listen: " + address.status().message());
    options.metrics_listen = *address;
  }
  return ParsePoolsAndChannels(raw, options);
}

}  // namespace

uint64_t Options::management_reserved_bytes() const {
  return std::max(kGiB, chunk_reserved_bytes / 16);
}

namespace {

// A command line and what it says.
struct CommandLine {
  CLI::App app{"zerocpd owns the shared-memory pools of an instance of zerocp.", "zerocpd"};
  Options options;
  RawOptions raw;

  CommandLine() { Declare(app, options, raw); }
  // Throws what CLI::App::parse does.
  void Parse(const std::vector<std::string>& arguments) {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(std::move(reversed));
  }
};

// What only a command line can say.
bool IsForFiles(const std::string& name) {
  static const std::set<std::string> kOthers{
      "help", "version", "config", "check-config", "print-default-config", "cleanup"};
  return kOthers.count(name) == 0;
}

// The options of a file's section `start` that the command line does not give, as arguments.
Result<std::vector<std::string>> FileArguments(const CLI::App& command_line,
                                               const std::vector<StartOption>& section,
                                               const std::string& file) {
  std::vector<std::string> arguments;
  for (const StartOption& option : section) {
    const std::string where = file + ":" + std::to_string(option.line) + ": start." + option.name;
    const std::string flag = "--" + option.name;
    if (!IsForFiles(option.name) || command_line.get_option_no_throw(flag) == nullptr)
      return Invalid(where + " is no option of a file; zerocpd --print-default-config shows all");
    std::vector<std::string> own;
    for (const std::string& value : option.values)
      own.push_back(std::string(flag).append("=").append(value));
    CommandLine alone;  // so that what is wrong with it has its line
    try {
      alone.Parse(own);
    } catch (const CLI::ParseError& error) {
      return Invalid(where + ": " + error.what());
    }
    if (command_line.count(flag) == 0) arguments.insert(arguments.end(), own.begin(), own.end());
  }
  return arguments;
}

// True if the text has the flag as a word.
bool Names(const std::string& text, const std::string& flag) {
  const size_t at = text.find(flag);
  if (at == std::string::npos) return false;
  const char after = text[at + flag.size()];  // '\0' at the end
  return after != '-' && std::isalnum(static_cast<unsigned char>(after)) == 0;
}

// Puts the place in front of a message that names an option from the file.
Status WithPlace(const Status& status, const CLI::App& command_line,
                 const std::vector<StartOption>& section, const std::string& file) {
  for (const StartOption& option : section) {
    const std::string flag = "--" + option.name;
    if (command_line.count(flag) != 0 || !Names(status.message(), flag)) continue;
    return Status(status.code(), file + ":" + std::to_string(option.line) + ": start." +
                                     option.name + ": " + status.message());
  }
  return status;
}

// A line of comment for each line of the text.
std::string Comment(const std::string& text) {
  std::string comment = "  # ";
  for (const char c : text) comment += c == '\n' ? "\n  # " : std::string(1, c);
  return comment + "\n";
}

std::string DefaultConfig(const CLI::App& app) {
  std::string text = kDefaultConfigHead;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || !IsForFiles(option->get_lnames().front())) continue;
    const bool is_flag = option->get_items_expected_max() == 0;
    text += Comment(option->get_description());
    text += "  # " + option->get_lnames().front() + ": " +
            (is_flag ? "true" : option->get_type_name()) + "\n";
  }
  return text + kDefaultConfigTail;
}

// Adds what the file says to what `line` says.
Status ReadFile(const std::vector<std::string>& arguments, const std::string& file,
                std::unique_ptr<CommandLine>& line) {
  Result<std::string> text = ReadWholeFile(file);
  if (!text.ok()) return Invalid("--config: " + text.status().message());
  Result<std::vector<StartOption>> section = ReadStartSection(*text, file);
  if (!section.ok()) return section.status();
  Result<std::vector<std::string>> all = FileArguments(line->app, *section, file);
  if (!all.ok()) return all.status();
  all->insert(all->end(), arguments.begin(), arguments.end());
  auto merged = std::make_unique<CommandLine>();
  try {
    merged->Parse(*all);
  } catch (const CLI::ParseError& error) {
    return Invalid(file + " and the command line: " + error.what());
  }
  const Status checked = Check(merged->app, merged->raw, merged->options);
  if (!checked.ok()) return WithPlace(checked, line->app, *section, file);
  line = std::move(merged);
  return Status();
}

}  // namespace

ParsedOptions ParseOptions(int argc, const char* const* argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  auto line = std::make_unique<CommandLine>();
  const CLI::App& app = line->app;
  ParsedOptions parsed;
  try {
    line->Parse(arguments);
  } catch (const CLI::CallForHelp&) {
    parsed.output = app.help();
    return parsed;
  } catch (const CLI::CallForVersion& version) {
    parsed.output = std::string(version.what()) + "\n";
    return parsed;
  } catch (const CLI::ParseError& error) {
    parsed.output =
        "zerocpd: " + std::string(error.what()) + "\nzerocpd --help lists what is possible.\n";
    parsed.exit_code = kExitUsage;
    return parsed;
  }
  if (line->raw.print_default_config) {
    parsed.output = DefaultConfig(app);
    return parsed;
  }
  const std::string file = line->options.config_file;
  const bool check_only = line->options.check_config;
  const Status status =
      file.empty() ? Check(app, line->raw, line->options) : ReadFile(arguments, file, line);
  if (!status.ok()) {
    parsed.output = "zerocpd: " + status.message() + "\n";
    parsed.exit_code = check_only ? kExitFailed : kExitUsage;
    return parsed;
  }
  parsed.options = std::move(line->options);
  return parsed;
}

Result<std::string> ParseListenAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  const std::string address(colon == std::string_view::npos ? "127.0.0.1" : text.substr(0, colon));
  const std::string_view port = text.substr(colon == std::string_view::npos ? 0 : colon + 1);
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  const bool is_port = error == std::errc() && end == port.data() + port.size();
  in6_addr parsed{};
  const bool v6 = address.size() > 2 && address.front() == '[' && address.back() == ']' &&
                  inet_pton(AF_INET6, address.substr(1, address.size() - 2).c_str(), &parsed) == 1;
  if ((!v6 && inet_pton(AF_INET, address.c_str(), &parsed) != 1) || !is_port) {
    return Invalid("\"" + std::string(text) +
                   "\" is not a port from 0 to 65535, with an IPv4 address or an IPv6 address in "
                   "brackets before it, as 9400, 0.0.0.0:9400 or [::1]:9400");
  }
  return address + ":" + std::to_string(number);
}

}  // namespace zerocp
