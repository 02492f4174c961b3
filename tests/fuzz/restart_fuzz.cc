// What a daemon reads back when it starts again: the session table, or without it the sessions in
// the management segment, which its clients can write; and the journal of a change of the
// configuration. It comes up, or says why not; who is attached has a name, a label and an end; a
// second start finds what the first left; a journal that is not of the instance changes nothing.
//
// An input: patches of the living instance; of the session table, its length and patches; the
// journal, behind a byte that says what it begins with.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/attach_listener.h"
#include "server/config_manager.h"
#include "server/session_manager.h"
#include "tests/fuzz/live_instance.h"

namespace zerocp::fuzz {
namespace {

using shm::MemPoolManager;
using shm::UniqueFd;
using Uuid = std::array<uint8_t, 16>;

constexpr char kTitle[] = "zerocp configuration journal 1\n";
constexpr uint8_t kWholeTable = 0;  // else so many halves of a record
constexpr char kNoTable = 1;        // not even a header
enum Journal : uint8_t { kNone, kOurs, kAnothers, kUntitled, kJournals };

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  Expect(static_cast<bool>(file << bytes), "cannot write " + path);
}
UniqueFd OpenFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  Expect(fd.get() >= 0, "cannot open " + path);
  return fd;
}

// The files of a runtime directory that a start reads.
class RuntimeFiles {
  const std::string directory_ = NewDirectory();

 public:
  static RuntimeFiles& Get() {
    static auto* files = new RuntimeFiles;  // never destroyed: inputs may run until the end
    return *files;
  }
  const std::string table_path = directory_ + "/sessions";
  const std::string journal_path = directory_ + "/config-journal";
  const std::string config_path = directory_ + "/zerocp.yaml";

  // As an input says.
  Journal Write(Input& input) const {
    std::string table = table_;
    if (const auto halves = input.Next<uint8_t>(); halves != kWholeTable)
      table.resize(halves * sizeof(SessionRecord) / 2, '\1');
    for (int count = input.Next<uint8_t>() % 64; count > 0 && !table.empty(); --count) {
      const size_t at = input.Next<uint16_t>() % table.size();
      const std::string_view bytes = input.Bytes(input.Next<uint8_t>());
      const size_t fits = std::min(bytes.size(), table.size() - at);
      table.replace(at, fits, bytes, 0, fits);
    }
    WriteFile(table_path, table);
    WriteFile(config_path, "start: {log-level: debug}\n");
    std::filesystem::remove(journal_path);
    const auto kind = static_cast<Journal>(input.Next<uint8_t>() % kJournals);
    const std::string owner = UuidText(kind == kAnothers ? Uuid{} : uuid_) + "\n";
    const std::string title = kind == kUntitled ? std::string() : kTitle + owner;
    if (kind != kNone) WriteFile(journal_path, title + std::string(input.Bytes(kMaxFileBytes)));
    return kind;
  }

  // A journal's lines behind the instance.
  std::string JournalText(const Config& from, const Config& to, bool persist) const {
    ConfigJournal journal(journal_path, UuidText(uuid_));
    Expect(journal.Write({from, to, persist}).ok(), "cannot write a journal");
    const std::string all = ReadFile(journal_path);
    const size_t begin = sizeof(kTitle) - 1;
    return all.substr(all.find('\n', begin) + 1);
  }

 private:
  RuntimeFiles() {
    const LiveInstance& instance = LiveInstance::Get();
    instance.Restore();
    const auto manager = MemPoolManager::Adopt(instance.options());
    Expect(manager.ok(), "cannot adopt the instance");
    uuid_ = (*manager)->instance_uuid();
    SessionTable table(OpenFile(table_path));
    Expect(table.Clear() && table.Sign(uuid_, (*manager)->session_capacity()),
           "cannot write " + table_path);
    for (const uint16_t id : {uint16_t{2}, uint16_t{3}, uint16_t{4}}) {
      Expect(instance.attached().test(id), "session " + std::to_string(id) + " is not attached");
      SessionRecord record{};
      record.state = static_cast<uint32_t>(shm::SessionState::kAttached);
      record.pid = getpid();
      record.start_time = StartTimeOf(getpid()).value_or(0);
      ("sessions/00000000000" + std::to_string(id)).copy(record.name, sizeof(record.name) - 1);
      std::string("client").copy(record.client_name, sizeof(record.client_name) - 1);
      record.cookie.fill(static_cast<uint8_t>(id));
      Expect(table.Write(id, record), "cannot write " + table_path);
    }
    table_ = ReadFile(table_path);
  }

  Uuid uuid_{};
  std::string table_;
};

UniqueFd Listen() {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address{AF_UNIX, {}};  // the kernel finds a name
  Expect(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)) == 0 &&
             listen(fd.get(), 1) == 0,
         "cannot listen");
  return fd;
}

// The part of a start that reads, in the daemon's order.
class Start {
 public:
  explicit Start(std::unique_ptr<MemPoolManager> manager) : core_(std::move(manager)) {}

  // False: a start that ends with a message.
  bool AdoptChannels() {
    MutexLock lock(core_.mutex);
    return core_.registry.Adopt().ok();
  }
  void RestoreSessions() {
    Expect(sessions_.Restore().ok(), "the session table cannot be written");
    CheckSessions();
    SessionManager second(core_, OpenFile(files_.table_path), {});
    Expect(second.Restore().ok(), "the session table cannot be written");
    Expect(Text(second) == Text(sessions_), "a second start has other sessions:\n" + Text(second) +
                                                "\nthan the first:\n" + Text(sessions_));
  }
  void RecoverConfig(Journal kind) {
    PoolManager pools(core_);
    ChannelManager channels(core_);
    const ConfigFile file(files_.config_path, {});
    ConfigManager config(core_, pools, channels, files_.journal_path, &file);
    const std::string before = config.Get().etag;
    config.Recover();
    Expect(!std::filesystem::exists(files_.journal_path), "the journal stays");
    if (kind != kOurs && kind != kUntitled)
      Expect(config.Get().etag == before, "a configuration changes by itself");
  }
  // Those whose process is gone are recovered; then all others.
  void EndSessions() {
    AttachListener listener(core_, sessions_, Listen(), {});
    Expect(listener.Start().ok(), "nobody watches the sessions");
    (void)listener.FindDead(/*recover=*/true);
    listener.Stop();
    sessions_.Died(shm::SessionSet().set());
    Expect(sessions_.List().empty(), "a session outlives everybody:\n" + Text(sessions_));
    for (uint32_t id = shm::kFirstSession; id < core_.manager->session_capacity(); ++id)
      Expect(core_.manager->session_entry(static_cast<uint16_t>(id)).state == 0,
             "a session is left in the segment");
  }

 private:
  static std::string Text(SessionManager& sessions) {
    std::string text;
    for (const SessionInfo& info : sessions.List()) {
      text += fmt::format("{} {} '{}' {} pid {} uid {}{}\n", info.id, info.name, info.client_name,
                          static_cast<int>(info.phase), info.pid, *info.uid,
                          info.read_only ? " read-only" : "");
    }
    return text;
  }
  void CheckSessions() {
    std::set<std::string> names;
    for (const SessionInfo& info : sessions_.List()) {
      const std::string who = "session " + std::to_string(info.id);
      Expect(info.phase == SessionPhase::kOrphaned || info.phase == SessionPhase::kRevoked,
             who + " has an impossible phase");
      Expect(info.name.starts_with("sessions/") && IsValidLabel(info.name) &&
                 names.insert(info.name).second,
             who + " has no name of its own, but '" + info.name + "'");
      Expect(IsValidLabel(info.client_name), who + " has an impossible label");
      Expect(info.pid >= 0, who + " has an impossible process");
    }
  }

  const RuntimeFiles& files_ = RuntimeFiles::Get();
  Core core_;
  SessionManager sessions_{core_, OpenFile(files_.table_path), {}};
};

std::string PatchOf(size_t at, const std::string& bytes) {
  return BytesOf(uint8_t{1}) + BytesOf(static_cast<uint16_t>(at)) +
         BytesOf(static_cast<uint8_t>(bytes.size())) + bytes;
}
std::string Table(uint8_t halves, const std::string& patch) {
  return LiveInstance::NoPatch() + BytesOf(halves) + patch;
}
std::string WithJournal(Journal kind, const std::string& text) {
  return Table(kWholeTable, std::string(1, '\0')) + BytesOf(static_cast<uint8_t>(kind)) + text;
}

Config SomeConfig(const std::string& name, uint32_t chunk_count) {
  shm::PoolSpec small, added;
  small.name = "small";
  small.chunk_size_bytes = 64;
  small.chunk_count = chunk_count;
  added.name = name;
  added.chunk_size_bytes = 128;
  added.chunk_count = 4;
  shm::ChannelSpec channel;
  channel.name = name;
  channel.pool = name;
  return {{small, added}, {channel}};
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (uint8_t halves = 1; halves < 8; ++halves) seeds.push_back(Table(halves, {}));
  seeds.push_back(Table(255, {}));
  const std::vector<LiveInstance::Area>& areas = LiveInstance::Get().areas();
  const auto entries = std::find_if(areas.begin(), areas.end(), [](const LiveInstance::Area& area) {
    return area.name == "session table";
  });
  for (const uint32_t value : {2u, 4u, ~0u}) {
    const std::string bytes = BytesOf(value);
    for (const size_t record : {0u, 3u}) {
      for (size_t at = 0; at < sizeof(SessionRecord); at += sizeof(value))
        seeds.push_back(Table(130, PatchOf(record * sizeof(SessionRecord) + at, bytes)));
    }
    for (size_t at = 0; at < 4 * sizeof(shm::SessionEntry); at += 2 * sizeof(value)) {
      seeds.push_back(
          LiveInstance::OnePatch(static_cast<size_t>(entries - areas.begin()), at, bytes) +
          kNoTable);
    }
  }
  const size_t name = 3 * sizeof(SessionRecord) + offsetof(SessionRecord, name);
  seeds.push_back(Table(kWholeTable, PatchOf(name, "sessions/000000000002")));
  const RuntimeFiles& files = RuntimeFiles::Get();
  const Config from = SomeConfig("comes", 24);
  for (const bool persist : {false, true}) {
    const std::string text = files.JournalText(from, SomeConfig("goes", 32), persist);
    const std::string back = files.JournalText(SomeConfig("goes", 4000000), from, persist);
    for (const Journal kind : {kNone, kOurs, kAnothers, kUntitled})
      for (const std::string& lines : {text, back}) seeds.push_back(WithJournal(kind, lines));
    for (size_t bytes = 0; bytes < text.size(); bytes += 16)
      seeds.push_back(WithJournal(kOurs, text.substr(0, bytes)));
  }
  return seeds;
}

}  // namespace
}  // namespace zerocp::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  zerocp::fuzz::WriteSeeds(zerocp::fuzz::Seeds());
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocp::fuzz;
  const LiveInstance& instance = LiveInstance::Get();
  const RuntimeFiles& files = RuntimeFiles::Get();
  Input input(data, size);
  instance.Restore();
  instance.Patch(input, /*may_cut=*/true);
  const Journal journal = files.Write(input);
  auto manager = zerocp::shm::MemPoolManager::Adopt(instance.options());
  if (!manager.ok()) return 0;
  Start start(std::move(*manager));
  if (!start.AdoptChannels()) return 0;
  start.RestoreSessions();
  start.RecoverConfig(journal);
  start.EndSessions();
  return 0;
}
