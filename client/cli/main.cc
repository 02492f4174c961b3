// The command `zerocp`: reads the command line and calls one subcommand.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <system_error>

#include "client/cli/config_command.h"
#include "client/cli/daemon_command.h"
#include "client/cli/events.h"
#include "client/cli/exit_code.h"
#include "client/cli/offline_stats.h"
#include "client/cli/output.h"
#include "client/cli/recv.h"
#include "client/cli/send.h"

namespace zerocp::cli {
namespace {

constexpr char kAbout[] =
    "zerocp: send and receive through shared memory, and look at the daemon zerocpd.\n\n"
    "The daemon is looked for in --runtime-dir, else in $ZEROCP_RUNTIME_DIR, else in /run/zerocp,\n"
    "$XDG_RUNTIME_DIR/zerocp, /tmp/zerocp-<uid>.";

constexpr char kFooter[] =
    "Examples:\n"
    "  zerocp recv frames -o copy.bin &     # receive the channel 'frames' into a file\n"
    "  zerocp send frames video.bin         # and send a file into it\n"
    "  zerocp stats                         # pools, channels, who is behind\n"
    "  zerocp events --follow               # what happens: who came, died, or does not take\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon answers, 128+n ended by signal n.";

constexpr char kSendFooter[] =
    "Each read goes straight into a chunk and becomes a message; of a file every chunk but the "
    "last is\n"
    "full. On SIGINT and SIGTERM the channel is left in order: receivers see the end of the "
    "stream.\n\n"
    "Examples:\n"
    "  zerocp send frames video.bin\n"
    "  tar c /srv | zerocp send backup --timeout 60\n"
    "  tail -f log | zerocp send log --no-wait";

constexpr char kRecvFooter[] =
    "Ends when the last publisher has closed and everything was received. Exit status 1 if a "
    "publisher\n"
    "died instead: what came is then not the whole stream.\n\n"
    "Examples:\n"
    "  zerocp recv frames -o copy.bin\n"
    "  zerocp recv backup | tar x\n"
    "  zerocp recv frames --sha256 --verify-in-place   # digest of the bytes where they lie\n"
    "  zerocp recv frames --count 1 --timeout 5 > first.bin";

// CLI11's own checks name the largest number there is, in 300 digits.
CLI::Validator AtLeast(double least, const std::string& rule) {
  const auto check = [least, rule](const std::string& text) {
    double number = 0;
    const bool is_number =
        std::from_chars(text.data(), text.data() + text.size(), number).ec == std::errc();
    return is_number && number >= least ? std::string() : text + " does not do: it must be " + rule;
  };
  return CLI::Validator(check, "");
}
CLI::Validator NotNegative() { return AtLeast(0, "0 or more"); }
CLI::Validator Positive() {
  return AtLeast(std::numeric_limits<double>::denorm_min(), "more than 0");
}

void AddRuntimeDir(CLI::App* command, std::string* runtime_dir) {
  command->add_option("--runtime-dir", *runtime_dir, "The daemon's runtime directory")
      ->type_name("DIR");
}

void AddTimeout(CLI::App* command, std::optional<double>* seconds, const char* what) {
  command->add_option("--timeout", *seconds, what)->check(NotNegative())->type_name("SECONDS");
}

void AddSend(CLI::App& app, SendOptions* options, std::function<int()>* chosen) {
  CLI::App* command = app.add_subcommand("send", "Send a file or standard input into a channel");
  command->footer(kSendFooter);
  command->add_option("CHANNEL", options->channel, "The channel's name")->required();
  command->add_option("FILE", options->file, "What to send; - or nothing: standard input");
  command->add_flag("--no-wait", options->no_wait,
                    "Send at once, although nobody may be there to receive");
  AddTimeout(command, &options->timeout_s,
             "Longest wait for a subscriber, a free chunk or room in a queue (default: for ever)");
  AddRuntimeDir(command, &options->runtime_dir);
  command->callback([=] { *chosen = [=] { return Send(*options); }; });
}

void AddRecv(CLI::App& app, RecvOptions* options, std::function<int()>* chosen) {
  CLI::App* command =
      app.add_subcommand("recv", "Receive a channel into a file or standard output");
  command->footer(kRecvFooter);
  command->add_option("CHANNEL", options->channel, "The channel's name")->required();
  command
      ->add_option(
          "-o,--output", options->output,
          "Where the bytes go; - or nothing: standard output; with --sha256 nothing: nowhere")
      ->type_name("FILE");
  command->add_flag("--lossy", options->lossy,
                    "Lose messages instead of making senders wait; says how many at the end");
  command->add_flag("--sha256", options->sha256, "Print the SHA-256 of all bytes at the end");
  command->add_flag("--verify-in-place", options->verify_in_place,
                    "Check against /proc/self/maps that all bytes lie in the chunk segment");
  command->add_option("--count", options->count, "End after so many messages")
      ->check(Positive())
      ->type_name("N");
  AddTimeout(command, &options->timeout_s, "Longest wait for a message (default: for ever)");
  AddRuntimeDir(command, &options->runtime_dir);
  command->callback([=] { *chosen = [=] { return Recv(*options); }; });
}

struct DaemonSubcommand {
  const char* name;
  const char* what;
  int (*run)(const DaemonOptions&);
};

constexpr DaemonSubcommand kDaemonSubcommands[] = {
    {"pools", "List the pools", Pools},
    {"channels", "List the channels", Channels},
    {"sessions", "List the attached processes", Sessions},
    {"info", "Show the daemon's version and instance", Info},
    {"audit", "Check every chunk and queue; exit status 1 if an invariant does not hold", Audit},
};

constexpr char kStatsFooter[] =
    "--offline reads the segments themselves: also with the daemon dead, and without asking it if "
    "it "
    "lives.\n"
    "It changes nothing, needs the daemon's user or root, and shows sessions and who holds most, "
    "too. "
    "With\n"
    "-o json session names and what only the daemon knows (start, recovered sessions, least free) "
    "are\n"
    "missing. --segment-dir may name a directory with copies of both segments.\n\n"
    "Examples:\n"
    "  zerocp stats\n"
    "  zerocp stats --watch --interval 0.5\n"
    "  zerocp stats -o json --runtime-dir /run/zerocp\n"
    "  zerocp stats --offline --runtime-dir /run/zerocp\n"
    "  zerocp stats --offline --instance video --segment-dir /dev/shm\n\n"
    "Exit status with --offline: 0 done, 3 no segments, 4 no permission, 5 another memory layout,\n"
    "6 damaged (what can be read is shown if only channels are), 1 anything else.";

constexpr char kEventsFooter[] =
    "A line per event, with its number, which counts from 1 since the daemon's start; the daemon "
    "keeps\n"
    "the last 4096. A line that starts with -- tells of events that are missing. With -o json an "
    "event is\n"
    "one line of JSON, with all holders of an exhausted pool, and what is missing is on standard "
    "error.\n\n"
    "Examples:\n"
    "  zerocp events\n"
    "  zerocp events --since 10m\n"
    "  zerocp events --follow | grep -E 'died|stalled|exhausted'\n"
    "  zerocp events --after 1200 -o json | jq -c 'select(.kind == \"KIND_SESSION_DIED\")'\n\n"
    "Exit status: 0 done, with --follow at SIGINT and SIGTERM; 3 no daemon answers, or it has "
    "gone.";

// A subcommand that asks the daemon.
CLI::App* AddDaemonSubcommand(CLI::App& app, const std::string& name, const char* what,
                              DaemonOptions* options) {
  CLI::App* command = app.add_subcommand(name, what);
  command->footer("Examples:\n  zerocp " + name + "\n  zerocp " + name +
                  " -o json --runtime-dir /run/zerocp");
  command
      ->add_option_function<std::string>(
          "-o,--output", [=](const std::string& format) { options->json = format == "json"; },
          "table (default) or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->type_name("FORMAT");
  command
      ->add_option("--timeout", options->timeout_s,
                   "Longest wait for the daemon's answer (default: 5)")
      ->check(Positive())
      ->type_name("SECONDS");
  AddRuntimeDir(command, &options->runtime_dir);
  return command;
}

struct StatsOptions {
  OfflineOptions offline;
  bool watch = false;
  double interval_s = 1;
};

void AddStats(CLI::App& app, DaemonOptions* daemon, StatsOptions* stats,
              std::function<int()>* chosen) {
  OfflineOptions* options = &stats->offline;
  CLI::App* command = AddDaemonSubcommand(
      app, "stats", "Show chunks by state, channels, and each subscriber, the slowest first",
      daemon);
  command->footer(kStatsFooter);
  CLI::Option* offline = command->add_flag("--offline", options->offline,
                                           "Read the segments instead of asking the daemon");
  command
      ->add_option("--instance", options->instance,
                   "Name in the segments' names; by default from the runtime directory")
      ->type_name("NAME")
      ->needs(offline);
  command
      ->add_option("--segment-dir", options->segment_dir,
                   "Where the segments are (default /dev/shm)")
      ->type_name("DIR")
      ->needs(offline);
  CLI::Option* watch =
      command->add_flag("--watch", stats->watch, "Show them again and again, until a signal")
          ->excludes(offline);
  command->add_option("--interval", stats->interval_s, "Time between them (default: 1)")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS")
      ->needs(watch);
  command->callback([=] {
    *chosen = [=] {
      if (stats->watch) return WatchStats(*daemon, stats->interval_s);
      return options->offline ? OfflineStats(*options, daemon->runtime_dir, daemon->json)
                              : Stats(*daemon);
    };
  });
}

void AddEvents(CLI::App& app, DaemonOptions* daemon, EventsOptions* options,
               std::function<int()>* chosen) {
  CLI::App* command = AddDaemonSubcommand(
      app, "events", "Show what happened, and with --follow what happens", daemon);
  command->footer(kEventsFooter);
  command->add_flag("--follow", options->follow, "Go on with what happens, until a signal");
  command->add_option("--after", options->after, "Only events after the one with this number")
      ->check(NotNegative())
      ->type_name("NUMBER");
  command
      ->add_option("--since", options->since_s,
                   "Only what happened in this time until now: 90, 90s, 10m, 2h, 1d")
      ->check(NotNegative())
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, double>{{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}}))
      ->type_name("TIME");
  command->callback([=] { *chosen = [=] { return Events(*daemon, *options); }; });
}

constexpr char kCleanupFooter[] =
    "Dead sessions of this daemon, and segments of daemons that no longer run and that no process "
    "uses;\n"
    "what is in them is lost. Without --execute nothing is changed.\n\n"
    "Examples:\n"
    "  zerocp cleanup\n"
    "  zerocp cleanup --execute";

void AddCleanup(CLI::App& app, DaemonOptions* daemon, bool* execute, std::function<int()>* chosen) {
  CLI::App* command = AddDaemonSubcommand(
      app, "cleanup", "Show what dead processes and daemons left behind, or remove it", daemon);
  command->footer(kCleanupFooter);
  command->add_flag("--execute", *execute, "Really remove it");
  command->callback([=] { *chosen = [=] { return Cleanup(*daemon, *execute); }; });
}

constexpr char kConfigFooter[] =
    "What `get` prints is what `apply` takes, and what zerocpd --config does: YAML or JSON with "
    "pools "
    "and\n"
    "channels. A section `start` is left out. `apply` and `reload` print what they change:\n"
    "+ created, - deleted, ~ changed, = stays, as a pool never shrinks.\n\n"
    "Examples:\n"
    "  zerocp config get > zerocp.yaml\n"
    "  zerocp config apply zerocp.yaml --validate-only\n"
    "  zerocp config apply zerocp.yaml --allow-deletion --persist\n"
    "  zerocp config reload            # the file of zerocpd --config, as SIGHUP does";

void AddConfig(CLI::App& app, DaemonOptions* daemon, ConfigOptions* options,
               std::function<int()>* chosen) {
  CLI::App* config =
      app.add_subcommand("config", "Show or change pools and channels as a whole, as a file");
  config->footer(kConfigFooter)->require_subcommand(1);
  CLI::App* get = AddDaemonSubcommand(*config, "get", "Print the configuration in force", daemon);
  get->callback([=] { *chosen = [=] { return GetConfig(*daemon); }; });
  CLI::App* apply = AddDaemonSubcommand(*config, "apply",
                                        "Make the daemon's configuration that of a file", daemon);
  apply->add_option("FILE", options->file, "YAML or JSON; - : standard input")->required();
  apply->callback([=] { *chosen = [=] { return ApplyConfig(*daemon, *options); }; });
  CLI::App* reload = AddDaemonSubcommand(
      *config, "reload", "Have the daemon read its file again and apply it", daemon);
  reload->callback([=] { *chosen = [=] { return ReloadConfig(*daemon, *options); }; });
  for (CLI::App* command : {apply, reload}) {
    command->add_flag("--validate-only", options->validate_only, "Say what would change, only");
    command->add_flag("--allow-deletion", options->allow_deletion,
                      "Delete what the file does not have, under those who use it");
  }
  apply->add_flag("--persist", options->persist, "Write it to the daemon's file, too");
  for (CLI::App* command : {get, apply, reload}) command->footer(kConfigFooter);
}

int Main(int argc, char** argv) {
  CLI::App app(kAbout, "zerocp");
  app.footer(kFooter);
  app.set_version_flag("--version", "zerocp " ZEROCP_VERSION);
  app.require_subcommand(0, 1);
  std::function<int()> chosen;
  SendOptions send;
  RecvOptions recv;
  DaemonOptions daemon;
  StatsOptions stats;
  EventsOptions events;
  ConfigOptions config;
  AddSend(app, &send, &chosen);
  AddRecv(app, &recv, &chosen);
  for (const DaemonSubcommand& subcommand : kDaemonSubcommands) {
    AddDaemonSubcommand(app, subcommand.name, subcommand.what, &daemon)->callback([&, subcommand] {
      chosen = [&, subcommand] { return subcommand.run(daemon); };
    });
  }
  AddStats(app, &daemon, &stats, &chosen);
  AddEvents(app, &daemon, &events, &chosen);
  AddConfig(app, &daemon, &config, &chosen);
  bool execute = false;
  AddCleanup(app, &daemon, &execute, &chosen);
  try {
    app.parse(argc, argv);
    if (!chosen) throw CLI::RequiredError("A subcommand");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kUsage;
  }
  return chosen();
}

// `code`, but kFailed if all seems done and what was printed cannot be written.
int Finish(int code) {
  const int error = code == kDone ? FlushOutput() : 0;
  if (error == 0) return code;
  std::fprintf(stderr, "zerocp: %s\n", WriteErrorText(error).c_str());
  return kFailed;
}

}  // namespace
}  // namespace zerocp::cli

int main(int argc, char** argv) { return zerocp::cli::Finish(zerocp::cli::Main(argc, argv)); }
