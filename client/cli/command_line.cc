#include "client/cli/command_line.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "client/cli/completion.h"
#include "client/cli/config_command.h"
#include "client/cli/daemon_connection.h"
#include "client/cli/doctor.h"
#include "client/cli/events.h"
#include "client/cli/exit_code.h"
#include "client/cli/look.h"
#include "client/cli/man_page.h"
#include "client/cli/offline_stats.h"
#include "client/cli/output.h"
#include "client/cli/recv.h"
#include "client/cli/send.h"
#include "client/cli/ssh_tunnel.h"
#include "client/cli/top.h"
#include "client/cli/watch_stats.h"
#include "client/cli/word_options.h"
#include "shm/mem_pool_config.h"
#include "shm/runtime_dir.h"

namespace zerocp::cli {
namespace {

constexpr char kAbout[] =
    "zerocp: send and receive through shared memory, and look at and manage the daemon zerocpd.\n\n"
    "The daemon is looked for in --runtime-dir, else in $ZEROCP_RUNTIME_DIR, else in /run/zerocp,\n"
    "$XDG_RUNTIME_DIR/zerocp, /tmp/zerocp-<uid>.";

constexpr char kFooter[] =
    "Examples:\n"
    "  zerocp recv frames -o copy.bin &     # receive the channel 'frames' into a file\n"
    "  zerocp send frames video.bin         # and send a file into it\n"
    "  zerocp stats                         # pools, channels, who is behind\n"
    "  zerocp holders                       # who holds the chunks, and for how long\n"
    "  zerocp events --follow               # what happens: who came, died, or does not take\n\n"
    "A pool, channel, session or subscriber is named as tables show it, or whole: video or\n"
    "pools/video, frames or channels/frames, e5e5461dbdf4 or sessions/e5e5461dbdf4,\n"
    "frames/subscribers/0-1 or channels/frames/subscribers/0-1.\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon answers, 128+n ended by signal n;\n"
    "of `config diff`: 0 equal, 3 would change, 1 anything else.";

// What the options of all words are read into.
struct CommandLine {
  DaemonOptions daemon;
  std::string host;  // ssh://..., where the daemon is
  bool is_local = false;
  bool is_diff = false;  // whose status 3 is an answer
  SendOptions send;
  RecvOptions recv;
  LookOptions look;
  OfflineOptions offline;
  bool watch = false;
  double interval_s = 1;
  EventsOptions events;
  ConfigOptions config;
  std::string doctor_segment_dir;
  double top_interval_s = 1;
  std::string shell;
  std::string man_directory;
  Chosen chosen;

  // A word that works with the memory of this machine, not over a connection to a daemon.
  void ChooseLocal(const std::function<int()>& run) {
    chosen = run;
    is_local = true;
  }

  int Run() {
    if (is_local && !(daemon.address.empty() && host.empty())) {
      return Failed(kUsage,
                    "this word works in the memory of the machine that it runs on, without "
                    "--address and --host: log in there");
    }
    if (host.empty()) return chosen();
    const std::string& dir = daemon.runtime_dir;
    int code = kDone;
    const auto tunnel = SshTunnel::Open(
        host, (dir.empty() ? shm::SystemRuntimeDir() : dir) + "/" + shm::kAdminSocket, &code);
    if (tunnel == nullptr) return is_diff ? int{kFailed} : code;
    daemon.address = tunnel->socket();
    return chosen();
  }
};

// CLI11's own check puts the words into the name of the type, too.
CLI::Validator OneOf(const std::vector<std::string>& words) {
  const auto check = [words](const std::string& text) {
    std::string none = text + " is none of ";
    for (const std::string& word : words) {
      if (word == text) return std::string();
      none += (word == words[0] ? "" : ", ") + word;
    }
    return none;
  };
  return CLI::Validator(check, "");
}

void AddGlobalOptions(CLI::App& app, CommandLine* line) {
  DaemonOptions* daemon = &line->daemon;
  app.add_option_function<std::string>(
         "-o,--output",
         [=](const std::string& format) {
           daemon->format = format == "json"   ? Format::kJson
                            : format == "yaml" ? Format::kYaml
                                               : Format::kTable;
         },
         "How answers are printed (default: table)")
      ->check(OneOf({"table", "json", "yaml"}))
      ->type_name("table|json|yaml");
  CLI::Option* dir =
      app.add_option("--runtime-dir", daemon->runtime_dir, "The daemon's runtime directory")
          ->type_name("DIR");
  CLI::Option* address = app.add_option("--address", daemon->address,
                                        "The daemon's socket (its path), or HOST:PORT for TLS")
                             ->type_name("ADDRESS");
  app.add_option_function<std::string>(
         "--instance",
         [=](const std::string& name) {
           line->offline.instance = name;
           daemon->runtime_dir = shm::SystemRuntimeDir() + (name.empty() ? "" : "-" + name);
         },
         "The machine's instance NAME (zerocpd@NAME.service): --runtime-dir /run/zerocp-NAME, and "
         "offline the segments of that name")
      ->check(CLI::Validator(
          [](const std::string& name) {
            return name.empty() || shm::IsValidName(name) ? ""
                                                          : name + ": no such name is possible";
          },
          ""))
      ->type_name("NAME")
      ->excludes(dir)
      ->excludes(address);
  app.add_option("--host", line->host,
                 "ssh://[USER@]HOST[:PORT]: the daemon there, whose admin.sock ssh forwards")
      ->type_name("HOST")
      ->excludes(address);
  app.add_option("--tls-ca", daemon->tls_ca, "With HOST:PORT: who signs the daemon's certificate")
      ->type_name("FILE");
  app.add_option("--tls-cert", daemon->tls_cert, "With HOST:PORT: the certificate to show")
      ->type_name("FILE");
  app.add_option("--tls-key", daemon->tls_key, "With HOST:PORT: its key")->type_name("FILE");
  app.add_option("--timeout", daemon->timeout_s,
                 "Longest wait for an answer of the daemon (default: 5; 300 where memory is "
                 "reserved)")
      ->check(Between(1e-9, kMostSeconds))
      ->type_name("SECONDS");
}

void AddTimeout(CLI::App* command, std::optional<double>* seconds, const char* what) {
  command->add_option("--timeout", *seconds, what)
      ->check(Between(0, kMostSeconds))
      ->type_name("SECONDS");
}

void AddChannel(CLI::App* command, std::string* channel) {
  command
      ->add_option_function<std::string>(
          "CHANNEL",
          [=](const std::string& name) {
            constexpr std::string_view kCollection = "channels/";
            *channel = name.substr(name.starts_with(kCollection) ? kCollection.size() : 0);
          },
          "The channel's name")
      ->required()
      ->type_name("");
}

void AddSend(CLI::App& app, CommandLine* line) {
  SendOptions* options = &line->send;
  CLI::App* command = AddSubcommand(
      app, "send", "Send a file or standard input into a channel",
      {"send frames video.bin", "send backup --timeout 60 < backup.tar",
       "send log --no-wait < /var/log/syslog"},
      "Each read goes straight into a chunk and becomes a message; of a file every chunk but the "
      "last is\nfull. On SIGINT and SIGTERM the channel is left in order: receivers see the end of "
      "the stream.");
  AddChannel(command, &options->channel);
  command->add_option("FILE", options->file, "What to send; - or nothing: standard input")
      ->type_name("");
  command->add_flag("--no-wait", options->no_wait,
                    "Send at once, although nobody may be there to receive");
  AddTimeout(command, &options->timeout_s,
             "Longest wait for a subscriber, a free chunk or room in a queue (default: for ever)");
  command->callback([=] {
    line->ChooseLocal([=] {
      options->runtime_dir = line->daemon.runtime_dir;
      return Send(*options);
    });
  });
}

void AddRecv(CLI::App& app, CommandLine* line) {
  RecvOptions* options = &line->recv;
  CLI::App* command = AddSubcommand(
      app, "recv", "Receive a channel into a file or standard output",
      {"recv frames -o copy.bin", "recv backup | tar x",
       "recv frames --sha256 --verify-in-place   # digest of the bytes where they lie",
       "recv frames --count 1 --timeout 5 > first.bin"},
      "Ends when the last publisher has closed and everything was received. Exit status 1 if a "
      "publisher\ndied instead: what came is then not the whole stream.");
  AddChannel(command, &options->channel);
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
  command->callback([=] {
    line->ChooseLocal([=] {
      options->runtime_dir = line->daemon.runtime_dir;
      return Recv(*options);
    });
  });
}

constexpr char kLookNotes[] =
    "Joins as a lossy subscriber with a queue of one message: no publisher ever waits for it. It "
    "keeps one\nmessage of each publisher, and the one that is looked at, from going back to the "
    "pool. A sender that\nwaits for a subscriber begins. Ends at SIGINT and SIGTERM with status 0.";

// `tap` or `hz`, whose options are read into `line->look`.
CLI::App* AddLook(CLI::App& app, CommandLine* line, const char* name, const char* about,
                  const std::vector<const char*>& examples, const std::string& notes,
                  int (*run)(const LookOptions&)) {
  LookOptions* options = &line->look;
  CLI::App* command = AddSubcommand(app, name, about, examples, kLookNotes + notes);
  AddChannel(command, &options->channel);
  command->callback([=] {
    line->ChooseLocal([=] {
      options->runtime_dir = line->daemon.runtime_dir;
      options->format = line->daemon.format;
      return run(*options);
    });
  });
  return command;
}

void AddTapAndHz(CLI::App& app, CommandLine* line) {
  LookOptions* options = &line->look;
  CLI::App* tap = AddLook(app, line, "tap", "Show the messages of a channel, in nobody's way",
                          {"tap frames", "tap frames --count 1 --bytes 64 --timeout 5"}, "", Tap);
  tap->add_option("--count", options->count, "End after so many messages")
      ->check(Positive())
      ->type_name("N");
  tap->add_option("--bytes", options->shown_bytes, "Bytes to show of each message (default: 16)")
      ->check(CLI::Range(0U, 1U << 20))
      ->type_name("N");
  AddTimeout(tap, &options->timeout_s, "Longest wait for a message (default: for ever)");
  CLI::App* hz = AddLook(app, line, "hz", "Show how often messages come, in nobody's way",
                         {"hz frames", "hz frames --interval 10 --count 6 -o json"},
                         "\n\nUNSEEN are messages that came between two looks, which it means to: "
                         "MESSAGES/S counts them, BYTES takes\nthem for as long as those that were "
                         "SEEN, and no other subscriber lost any.",
                         Hz);
  hz->add_option("--count", options->count, "End after so many lines")
      ->check(Positive())
      ->type_name("N");
  hz->add_option("--interval", options->interval_s, "Time of a line (default: 1)")
      ->check(Between(0.1, 3600))
      ->type_name("SECONDS");
}

// What the word `stats` can do beside its call of the daemon.
void AddStatsOptions(CLI::App* command, CommandLine* line) {
  CLI::Option* offline = command->add_flag("--offline", line->offline.offline,
                                           "Read the segments instead of asking the daemon");
  command
      ->add_option("--segment-dir", line->offline.segment_dir,
                   "Where the segments are (default /dev/shm)")
      ->type_name("DIR")
      ->needs(offline);
  CLI::Option* watch =
      command->add_flag("--watch", line->watch, "Show them again and again, until a signal")
          ->excludes(offline);
  command->add_option("--interval", line->interval_s, "Time between them (default: 1)")
      ->check(Between(0.1, 3600))
      ->type_name("SECONDS")
      ->needs(watch);
  command->parse_complete_callback([=] {
    const DaemonOptions* daemon = &line->daemon;
    if (line->watch) line->chosen = [=] { return WatchStats(*daemon, line->interval_s); };
    if (!line->offline.offline) return;
    line->ChooseLocal(
        [=] { return OfflineStats(line->offline, daemon->runtime_dir, daemon->format); });
  });
}

void AddEvents(CLI::App& app, CommandLine* line) {
  EventsOptions* options = &line->events;
  CLI::App* command = AddSubcommand(
      app, "events", "Show what happened, and with --follow what happens",
      {"events --since 10m", "events --follow | grep -E 'died|stalled|exhausted'",
       "events --after 1200 -o json | jq -c 'select(.kind == \"KIND_SESSION_DIED\")'"},
      "A line per event, with its number, which counts from 1 since the daemon's start; the daemon "
      "keeps\nthe last 4096. A line that starts with -- tells of events that are missing. With -o "
      "json an event is\none line of JSON, with all holders of an exhausted pool, and what is "
      "missing is on standard error.\n\nExit status: 0 done, with --follow at SIGINT and SIGTERM; "
      "3 no daemon answers, or it has gone.");
  command->add_flag("--follow", options->follow, "Go on with what happens, until a signal");
  command->add_option("--after", options->after, "Only events after the one with this number")
      ->check(NotNegative())
      ->type_name("NUMBER");
  command
      ->add_option("--since", options->since_s,
                   "Only what happened in this time until now: 90, 90s, 10m, 2h, 1d")
      ->check(Between(0, kMostSeconds))
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, double>{{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}}))
      ->type_name("TIME");
  command->callback([=] { line->chosen = [=] { return Events(line->daemon, *options); }; });
}

constexpr char kConfigNotes[] =
    "What `show` prints is what `apply` takes, and what zerocpd --config does: YAML or JSON with "
    "pools and\nchannels. A section `start` is left out. `diff`, `apply` and `reload` print "
    "changes:\n+ created, - deleted, ~ changed, = stays, as a pool never shrinks.";

void AddConfig(CLI::App& app, CommandLine* line) {
  ConfigOptions* options = &line->config;
  const DaemonOptions* daemon = &line->daemon;
  AddSubcommand(app, "config", "Show or change pools and channels as a whole, as a file",
                {"config show > zerocp.yaml", "config apply zerocp.yaml --validate-only"},
                kConfigNotes)
      ->require_subcommand(1);
  const auto add = [&](const char* path, const char* about,
                       const std::vector<const char*>& examples, auto run) {
    CLI::App* command = AddSubcommand(app, path, about, examples, kConfigNotes);
    command->callback([=] { line->chosen = [=] { return run(*daemon, *options); }; });
    return command;
  };
  add("config show", "Print the configuration in force",
      {"config show > zerocp.yaml", "config show -o json"},
      [](const DaemonOptions& d, const ConfigOptions&) { return GetConfig(d); })
      ->alias("get");
  CLI::App* diff =
      add("config diff", "Say what a file would change: exit status 0 nothing, 3 something",
          {"config diff zerocp.yaml", "config diff zerocp.yaml || test $? = 3"}, DiffConfig);
  diff->parse_complete_callback([=] { line->is_diff = true; });
  CLI::App* apply = add("config apply", "Make the daemon's configuration that of a file",
                        {"config apply zerocp.yaml --validate-only",
                         "config apply zerocp.yaml --allow-deletion --persist"},
                        ApplyConfig);
  CLI::App* reload =
      add("config reload", "Have the daemon read its file again and apply it, as SIGHUP does",
          {"config reload --validate-only", "config reload --allow-deletion"}, ReloadConfig);
  for (CLI::App* command : {diff, apply}) {
    command->add_option("FILE", options->file, "YAML or JSON; - : standard input")
        ->required()
        ->type_name("");
  }
  for (CLI::App* command : {apply, reload}) {
    command->add_flag("--validate-only", options->validate_only, "Say what would change, only");
    command->add_flag("--allow-deletion", options->allow_deletion,
                      "Delete what the file does not have, under those who use it");
  }
  apply->add_flag("--persist", options->persist, "Write it to the daemon's file, too");
}

void AddDoctor(CLI::App& app, CommandLine* line) {
  CLI::App* command = AddSubcommand(
      app, "doctor",
      "Say whether this machine lets a daemon and its clients work, and what to change",
      {"doctor", "doctor -o json | jq -r '.findings[] | select(.state != \"ok\") | .change'"},
      "Needs no daemon; of one that runs, it asks for pools without a free chunk. Looks at the "
      "runtime directory,\nthe sockets, space for segments, memory and its cgroups, limits, what "
      "removes segments, huge pages, and\nwhat the kernel can do. \"note\": works, but not all of "
      "it.\n\nExit status: 0 nothing has to be changed, 1 something has to.");
  command
      ->add_option("--segment-dir", line->doctor_segment_dir,
                   "Where segments are (default: the daemon's, or /dev/shm)")
      ->type_name("DIR");
  command->callback(
      [=] { line->ChooseLocal([=] { return Doctor(line->daemon, line->doctor_segment_dir); }); });
}

void AddTop(CLI::App& app, CommandLine* line) {
  CLI::App* command = AddSubcommand(
      app, "top", "Show pools, channels, who is slow and who holds chunks, as they change",
      {"top", "top --interval 0.2"},
      "Pools with bars (# shared, = being written, ~ free in a client's cache), channels with "
      "their "
      "slowest\nsubscriber, those that are stalled first, and who holds chunks, the oldest first.\n"
      "Keys: q quits, space pauses, + and - change the interval.");
  command->add_option("--interval", line->top_interval_s, "Time between numbers (default: 1)")
      ->check(Between(0.1, 3600))
      ->type_name("SECONDS");
  command->callback(
      [=] { line->chosen = [=] { return Top(line->daemon, line->top_interval_s); }; });
}

// What is made from the tree of words itself.
void AddGenerators(CLI::App& app, CommandLine* line) {
  CLI::App* completion =
      AddSubcommand(app, "completion", "Print a script that completes zerocp in a shell",
                    {"completion bash > ~/.local/share/bash-completion/completions/zerocp",
                     "completion zsh > \"${fpath[1]}/_zerocp\""});
  completion->add_option("SHELL", line->shell, "Which shell")
      ->required()
      ->check(OneOf({"bash", "zsh"}))
      ->type_name("bash|zsh");
  completion->callback([=, &app] {
    line->chosen = [=, &app] {
      Print(CompletionScript(app, line->shell));
      return kDone;
    };
  });
  CLI::App* man = AddSubcommand(app, "man", "Write the manual pages",
                                {"man /usr/local/share/man/man1", "man ."});
  man->group("");  // for those who package it
  man->add_option("DIR", line->man_directory, "Where to")->required();
  man->callback(
      [=, &app] { line->chosen = [=, &app] { return WriteManPages(app, line->man_directory); }; });
}

void AddAll(CLI::App& app, CommandLine* line) {
  AddGlobalOptions(app, line);
  AddSend(app, line);
  AddRecv(app, line);
  AddTapAndHz(app, line);
  for (const Word& word : Words()) {
    CLI::App* command = AddWord(app, word, &line->daemon, &line->chosen);
    if (std::string(word.path) == "stats") AddStatsOptions(command, line);
  }
  AddEvents(app, line);
  AddConfig(app, line);
  AddDoctor(app, line);
  AddTop(app, line);
  AddGenerators(app, line);
}

}  // namespace

int RunCommandLine(int argc, char** argv) {
  CLI::App app(kAbout, "zerocp");
  app.footer(kFooter);
  app.set_version_flag("--version", "zerocp " ZEROCP_VERSION);
  app.require_subcommand(0, 1);
  app.fallthrough();
  CommandLine line;
  AddAll(app, &line);
  try {
    app.parse(argc, argv);
    if (!line.chosen) throw CLI::RequiredError("A subcommand");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kUsage;
  }
  return line.Run();
}

}  // namespace zerocp::cli
