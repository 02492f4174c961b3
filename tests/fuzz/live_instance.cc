#include "tests/fuzz/live_instance.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>

#include "shm/free_list.h"
#include "shm/pool_drain.h"
#include "shm/publisher_port.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"

// The audit looks at a finding several times, a millisecond apart, for somebody may be writing;
// here nobody is.
extern "C" int nanosleep(const timespec*, timespec*) { return 0; }

namespace zerocp::fuzz {
namespace {

using shm::ChannelRegistry;
using shm::ChunkRef;
using shm::Code;
using shm::Deadline;
using shm::MemPoolManager;
using shm::PoolView;
using shm::PublisherPort;
using shm::Session;
using shm::SubscriberPort;

constexpr size_t kPageBytes = 4096;
constexpr uint8_t kCutArea = 0xff;
// The areas that come first, and how many bytes of each WordPatches changes.
constexpr uint64_t kSeeded[] = {128, 3 * sizeof(shm::MemPool), 128, 2 * sizeof(shm::ChannelEntry)};
constexpr size_t kTables = std::size(kSeeded);

// Daemon and clients of the instance while it is made.
class Builder {
 public:
  explicit Builder(const MemPoolManager::CreateOptions& options) {
    auto created = MemPoolManager::Create(options);
    Expect(created.ok(), "no instance: " + created.status().message());
    manager = std::move(*created);
    registry = std::make_unique<ChannelRegistry>(*manager);
    recovery = std::make_unique<shm::Recovery>(*manager, *registry);
  }
  const PoolView& AddPool(const char* name, uint64_t bytes, uint32_t count, uint32_t most,
                          uint32_t holders) {
    shm::PoolSpec spec;
    spec.name = name;
    spec.chunk_size_bytes = bytes;
    spec.chunk_count = count;
    spec.max_chunk_count = most;
    spec.max_holders = holders;
    auto index = manager->CreatePool(spec);
    Expect(index.ok(), "no pool: " + index.status().message());
    return *manager->pool(*index);
  }
  void AddChannel(const char* name, const char* pool, shm::WhenFull when_full, uint32_t history) {
    shm::ChannelSpec spec;
    spec.name = name;
    spec.pool = pool;
    spec.queue_capacity = 4;
    spec.when_full = when_full;
    spec.history_count = history;
    Expect(registry->Create(spec).ok(), "no channel");
  }
  std::shared_ptr<Session> Attach(uint16_t id) {
    shm::SessionEntry& entry = manager->session_entry(id);
    entry.state.store(static_cast<uint32_t>(shm::SessionState::kAttached));
    entry.pid = getpid();
    shm::CopyName(entry.name, "client-" + std::to_string(id));
    return std::make_shared<Session>(manager, id);
  }
  std::unique_ptr<PublisherPort> Publish(const std::shared_ptr<Session>& session,
                                         const char* channel) {
    auto info = registry->JoinAsPublisher(channel, "", session->id());
    Expect(info.ok(), "no publisher: " + info.status().message());
    auto port = PublisherPort::Create(session, *info);
    Expect(port.ok(), "no publisher's port");
    return std::move(*port);
  }
  std::unique_ptr<SubscriberPort> Subscribe(const std::shared_ptr<Session>& session,
                                            const char* channel, bool lossy = false) {
    auto info = registry->JoinAsSubscriber(channel, "", session->id(), {0, lossy});
    Expect(info.ok(), "no subscriber: " + info.status().message());
    auto port = SubscriberPort::Create(session, *info);
    Expect(port.ok(), "no subscriber's port");
    return std::move(*port);
  }
  static void Send(Session& session, PublisherPort& port, int count) {
    for (int i = 0; i < count; ++i) {
      ChunkRef chunk;
      shm::Published published{};
      Expect(session.Loan(port.pool(), Deadline::Now(), &chunk) == Code::kOk &&
                 port.Publish(chunk, Deadline::Now(), &published) == Code::kOk,
             "nothing published");
    }
  }
  static ChunkRef Take(SubscriberPort& port) {
    ChunkRef chunk;
    Expect(port.TryTake(&chunk) == Code::kOk, "nothing taken");
    return chunk;
  }

  std::shared_ptr<MemPoolManager> manager;
  std::unique_ptr<ChannelRegistry> registry;
  std::unique_ptr<shm::Recovery> recovery;
};

}  // namespace

void Fail(const std::string& what) {
  std::fprintf(stderr, "fuzz: %s\n", what.c_str());
  abort();
}

std::string NewDirectory() {
  std::string path = (std::filesystem::temp_directory_path() / "zerocp_fuzz_XXXXXX").string();
  Expect(mkdtemp(path.data()) != nullptr, "cannot make " + path);
  return path;
}

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator open("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(open), end(open)));
}

LiveInstance& LiveInstance::Get() {
  static auto* instance = new LiveInstance;  // never destroyed: inputs may run until the end
  return *instance;
}

LiveInstance::LiveInstance() {
  directory_ = NewDirectory();
  Builder b(options());
  const PoolView& small = b.AddPool("small", 64, 24, 48, 0);
  b.AddPool("large", 1000, 6, 6, 50);
  const PoolView& going = b.AddPool("going", 64, 4, 1024, 0);
  b.AddChannel("waits", "small", shm::WhenFull::kWait, 0);
  b.AddChannel("drops", "small", shm::WhenFull::kDropOldest, 0);
  b.AddChannel("keeps", "large", shm::WhenFull::kWait, 2);
  b.AddChannel("closed", "small", shm::WhenFull::kWait, 0);

  std::shared_ptr<Session> sender = b.Attach(2);
  std::shared_ptr<Session> viewer = b.Attach(3);
  std::shared_ptr<Session> other = b.Attach(4);
  std::shared_ptr<Session> dies = b.Attach(5);
  auto waits_viewer = b.Subscribe(viewer, "waits");
  auto waits_other = b.Subscribe(other, "waits", /*lossy=*/true);
  auto drops_viewer = b.Subscribe(viewer, "drops");
  auto keeps_other = b.Subscribe(other, "keeps");
  auto closed_viewer = b.Subscribe(viewer, "closed");
  auto waits_sender = b.Publish(sender, "waits");
  auto waits_dies = b.Publish(dies, "waits");
  auto drops_sender = b.Publish(sender, "drops");
  auto keeps_sender = b.Publish(sender, "keeps");

  Builder::Send(*dies, *waits_dies, 2);
  Builder::Send(*sender, *waits_sender, 3);
  Builder::Send(*sender, *drops_sender, 6);
  Builder::Send(*sender, *keeps_sender, 3);
  (void)Builder::Take(*waits_viewer);
  (void)Builder::Take(*drops_viewer);
  viewer->Release(Builder::Take(*drops_viewer));  // to its cache
  (void)Builder::Take(*keeps_other);
  ChunkRef loan, shared, opened;
  Expect(sender->Loan(going, Deadline::Now(), &loan) == Code::kOk, "no loan");
  Expect(sender->Loan(small, Deadline::Now(), &shared) == Code::kOk, "no loan");
  handles_ = {sender->Share(shared), 0};
  Expect(other->Open(handles_[0], &opened) == Code::kOk, "no handle");
  shm::SessionSet dead;
  dead.set(dies->id());
  b.recovery->Recover(dead, false);
  dies->Disown();
  Expect(b.registry->Close("closed").ok(), "not closed");
  Expect(b.registry
             ->StopSubscriber(keeps_other->info().channel, keeps_other->info().index,
                              keeps_other->info().epoch)
             .ok(),
         "not stopped");
  b.manager->StartDrain(going.index);
  for (uint16_t id : {uint16_t{2}, uint16_t{3}, uint16_t{4}}) attached_.set(id);
  publishers_ = {waits_sender->info(), drops_sender->info(), keeps_sender->info()};
  subscribers_ = {waits_viewer->info(), drops_viewer->info(), keeps_other->info(),
                  closed_viewer->info()};
  NoteAreas(*b.manager, *b.registry);

  const std::string directory = directory_ + "/";
  images_.push_back(Remember(directory + MemPoolManager::ManagementName("fuzz")));
  images_.push_back(Remember(directory + MemPoolManager::ChunkName("fuzz")));
  Expect(b.manager->Destroy().ok(), "cannot remove the instance");
  for (Image& image : images_) {
    image.file = shm::UniqueFd(
        open(image.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    Expect(image.file.get() >= 0, "cannot make " + image.path);
  }
}

MemPoolManager::CreateOptions LiveInstance::options() const {
  MemPoolManager::CreateOptions options;
  options.segment_dir = directory_;
  options.instance = "fuzz";
  options.management_reserved_bytes = uint64_t{4} << 20;
  options.chunk_reserved_bytes = uint64_t{16} << 20;
  options.session_capacity = 64;
  options.lock = {1, 2, "lock"};
  return options;
}

void LiveInstance::NoteAreas(MemPoolManager& manager, ChannelRegistry& registry) {
  const uint64_t sessions = shm::kSessionTableOffset;
  const uint64_t channels = sessions + manager.session_capacity() * sizeof(shm::SessionEntry);
  areas_ = {{"super block", false, 0, sizeof(shm::SuperBlock)},
            {"pool table", false, shm::kPoolTableOffset, 4 * sizeof(shm::MemPool)},
            {"session table", false, sessions, 8 * sizeof(shm::SessionEntry)},
            {"channel table", false, channels, 5 * sizeof(shm::ChannelEntry)}};
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    const PoolView* pool = manager.pool(index);
    if (pool == nullptr) continue;
    const uint64_t count = pool->chunk_count;
    areas_.push_back({"records", false, pool->records_offset, count * pool->record_bytes()});
    areas_.push_back(
        {"hints", false, pool->hints_offset, shm::FreeList::Bytes(pool->max_chunk_count)});
    areas_.push_back({"headers", true, pool->headers_offset, count * sizeof(shm::ChunkHeader)});
  }
  for (uint32_t index : registry.List()) {
    const ChannelRegistry::Channel& channel = *registry.channel(index);
    areas_.push_back(
        {"channel", false, channel.geometry.region_offset, channel.geometry.region_bytes()});
    for (const ChannelRegistry::LaneRecord& lane : channel.lanes) {
      if (lane.state == shm::LaneState::kFree) continue;
      areas_.push_back({"lane", false, lane.offset, channel.geometry.lane_bytes()});
    }
  }
}

LiveInstance::Image LiveInstance::Remember(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  Expect(!all.empty(), "cannot read " + path);
  Image image;
  image.path = path;
  image.bytes = all.size();
  for (size_t at = 0; at < all.size(); at += kPageBytes) {
    std::string page = all.substr(at, kPageBytes);
    if (page.find_first_not_of('\0') != std::string::npos) image.pages.push_back({at, page});
  }
  return image;
}

shm::UniqueFd LiveInstance::OpenAgain(const Image& image) {
  return shm::UniqueFd(open(image.path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
}

void LiveInstance::Restore() const {
  for (const Image& image : images_) {
    const int fd = image.file.get();
    bool done = ftruncate(fd, 0) == 0 && ftruncate(fd, static_cast<off_t>(image.bytes)) == 0;
    for (const Page& page : image.pages) {
      done &= pwrite(fd, page.bytes.data(), page.bytes.size(), static_cast<off_t>(page.offset)) ==
              static_cast<ssize_t>(page.bytes.size());
    }
    Expect(done, "cannot write " + image.path);
  }
}

void LiveInstance::Patch(Input& input, bool may_cut) const {
  for (int count = input.Next<uint8_t>() % 64; count > 0 && !input.empty(); --count) {
    const auto number = input.Next<uint8_t>();
    const auto place = input.Next<uint16_t>();
    const auto size = input.Next<uint16_t>();
    const std::string_view bytes = input.Bytes(size);
    if (number == kCutArea) {
      const Image& image = images_[place % 2];
      const uint64_t end = std::min<uint64_t>(uint64_t{size} * 64, image.bytes);
      if (may_cut) Expect(ftruncate(image.file.get(), static_cast<off_t>(end)) == 0, "not cut");
      continue;
    }
    const Area& area = areas_[number % areas_.size()];
    const uint64_t offset = place % area.bytes;
    const size_t fits = std::min<size_t>(bytes.size(), area.bytes - offset);
    const int fd = images_[area.of_chunk_segment ? 1 : 0].file.get();
    Expect(pwrite(fd, bytes.data(), fits, static_cast<off_t>(area.offset + offset)) ==
               static_cast<ssize_t>(fits),
           "not written");
  }
}

std::string LiveInstance::OnePatch(size_t area, uint64_t offset, const std::string& bytes) {
  return BytesOf(uint8_t{1}) + BytesOf(static_cast<uint8_t>(area)) +
         BytesOf(static_cast<uint16_t>(offset)) + BytesOf(static_cast<uint16_t>(bytes.size())) +
         bytes;
}

std::string LiveInstance::Cut(bool chunk_segment, uint32_t bytes) const {
  return BytesOf(uint8_t{1}) + BytesOf(kCutArea) + BytesOf(uint16_t{chunk_segment}) +
         BytesOf(static_cast<uint16_t>(bytes / 64));
}

std::vector<std::string> LiveInstance::WordPatches() const {
  std::vector<std::string> patches{NoPatch()};
  for (size_t area = 0; area < areas_.size(); ++area) {
    const bool is_table = area < kTables;
    const uint64_t end = is_table ? kSeeded[area] : 128;
    for (uint64_t offset = 0; offset < end; offset += is_table ? 4 : 8) {
      patches.push_back(OnePatch(area, offset, BytesOf(~uint32_t{0})));
      if (is_table) patches.push_back(OnePatch(area, offset, BytesOf(uint32_t{3})));
    }
  }
  for (const bool chunk : {false, true}) {
    for (const uint32_t bytes : {0u, 64u, 4096u, 8192u, 0x40000u, 0x60000u, 0x80000u, 0x100000u})
      patches.push_back(Cut(chunk, bytes));
  }
  return patches;
}

void WriteSeeds(const std::vector<std::string>& seeds) {
  const char* directory = getenv("ZEROCP_FUZZ_SEEDS");
  if (directory == nullptr) return;
  for (size_t i = 0; i < seeds.size(); ++i) {
    std::ofstream file(std::string(directory) + "/seed-" + std::to_string(i), std::ios::binary);
    Expect(static_cast<bool>(file << seeds[i]), "cannot write seeds");
  }
}

}  // namespace zerocp::fuzz
