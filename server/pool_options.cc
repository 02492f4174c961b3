// How the command line writes pools and channels, and those that are made without being asked for.
#include <algorithm>
#include <charconv>
#include <set>

#include "server/options.h"
#include "shm/byte_size.h"
#include "shm/mem_pool_allocator.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;

Status Invalid(std::string message) { return Status(Code::kInvalid, std::move(message)); }

bool ParseNumber(std::string_view text, uint64_t* value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

std::string Describe(const std::vector<shm::Violation>& violations) {
  std::string text;
  for (const shm::Violation& violation : violations) {
    text += (text.empty() ? "" : "; ") + violation.field + " " + violation.description;
  }
  return text;
}

// Removes what stands before the next comma, or the end, and returns it.
std::string_view NextField(std::string_view& text) {
  const std::string_view field = text.substr(0, text.find(','));
  text.remove_prefix(field.size());
  return field;
}

// Calls `parse` with each field of a text as ",max=256,auto-grow".
template <class Parse>
Status ParseFields(std::string_view text, Parse parse) {
  std::set<std::string_view> given;
  while (!text.empty()) {
    text.remove_prefix(1);  // the comma
    const std::string_view field = NextField(text);
    if (Status status = parse(field); !status.ok()) return status;
    const std::string_view key = field.substr(0, field.find('='));
    if (!given.insert(key).second) return Invalid(std::string(key) + " is given twice");
  }
  return Status();
}

// One of what can follow the size: "max=256", "auto-grow".
Status ParsePoolField(std::string_view field, shm::PoolSpec& pool) {
  constexpr std::string_view kMax = "max=";
  uint64_t number = 0;
  if (field == "auto-grow") {
    pool.auto_grow = true;
  } else if (field.starts_with(kMax)) {
    if (!ParseNumber(field.substr(kMax.size()), &number) || number == 0 ||
        number > shm::kMaxChunksPerPool) {
      return Invalid("max= is from the number of chunks to " +
                     std::to_string(shm::kMaxChunksPerPool));
    }
    pool.max_chunk_count = static_cast<uint32_t>(number);
  } else {
    return Invalid("after the size ,max=N and ,auto-grow are possible, not \"" +
                   std::string(field) + "\"");
  }
  return Status();
}

}  // namespace

Result<shm::PoolSpec> ParsePool(std::string_view text) {
  const size_t equals = text.find('=');
  std::string_view rest = text.substr(equals == std::string_view::npos ? text.size() : equals + 1);
  const std::string_view chunks = NextField(rest);
  const size_t times = chunks.rfind('x');
  if (times == std::string_view::npos) {
    return Invalid("NAME=SIZExCOUNT[,max=N][,auto-grow] is needed, as video=1MiBx64");
  }
  shm::PoolSpec pool;
  pool.name = text.substr(0, equals);
  Result<uint64_t> size = shm::ParseBytes(chunks.substr(0, times));
  if (!size.ok()) return size.status();
  uint64_t count = 0;
  if (!ParseNumber(chunks.substr(times + 1), &count) || count == 0 ||
      count > shm::kMaxChunksPerPool) {
    return Invalid("the number of chunks is from 1 to " + std::to_string(shm::kMaxChunksPerPool));
  }
  pool.chunk_size_bytes = *size;
  pool.chunk_count = static_cast<uint32_t>(count);
  const auto parse = [&](std::string_view field) { return ParsePoolField(field, pool); };
  if (Status status = ParseFields(rest, parse); !status.ok()) return status;
  if (auto violations = shm::Validate(pool); !violations.empty())
    return Invalid(Describe(violations));
  return pool;
}

namespace {

// One of what can follow the pool: "queue=8".
Status ParseChannelField(std::string_view field, shm::ChannelSpec& channel) {
  const size_t equals = std::min(field.find('='), field.size());
  const std::string_view key = field.substr(0, equals);
  const std::string_view value = field.substr(std::min(equals + 1, field.size()));
  uint64_t number = 0;
  if (key == "queue") {
    if (!ParseNumber(value, &number) || number == 0 || number > shm::kMaxQueueCapacity) {
      return Invalid("queue= is from 1 to " + std::to_string(shm::kMaxQueueCapacity));
    }
    channel.queue_capacity = static_cast<uint32_t>(number);
  } else if (key == "when-full" && (value == "wait" || value == "drop")) {
    channel.when_full = value == "wait" ? shm::WhenFull::kWait : shm::WhenFull::kDropOldest;
  } else if (key == "max-held") {
    if (!ParseNumber(value, &number) || number == 0 || number > shm::kMaxChunksPerPool) {
      return Invalid("max-held= is from 1 to " + std::to_string(shm::kMaxChunksPerPool));
    }
    channel.max_held_count = static_cast<uint32_t>(number);
  } else if (key == "history") {
    if (!ParseNumber(value, &number) || number == 0 || number > shm::kMaxQueueCapacity) {
      return Invalid("history= is from 1 to the queue's capacity");
    }
    channel.history_count = static_cast<uint32_t>(number);
  } else if (key == "type" && !value.empty()) {
    channel.message_type = value;
  } else {
    return Invalid(
        "after the pool ,queue=N ,when-full=wait or drop ,max-held=N ,history=N and ,type=NAME are "
        "possible, not \"" +
        std::string(field) + "\"");
  }
  return Status();
}

}  // namespace

Result<shm::ChannelSpec> ParseChannel(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos)
    return Invalid(
        "NAME=POOL[,queue=N][,when-full=wait|drop][,max-held=N][,history=N][,type=NAME] is needed, "
        "as camera=video,queue=8");
  shm::ChannelSpec channel;
  channel.name = text.substr(0, equals);
  std::string_view rest = text.substr(equals + 1);
  channel.pool = NextField(rest);
  const auto parse = [&](std::string_view field) { return ParseChannelField(field, channel); };
  if (Status status = ParseFields(rest, parse); !status.ok()) return status;
  if (auto violations = shm::Validate(channel); !violations.empty())
    return Invalid(Describe(violations));
  return channel;
}

DefaultSetup MakeDefaultSetup(uint64_t available_bytes, uint32_t session_capacity) {
  const uint64_t budget = std::min(available_bytes / 4, 256 * kMiB);
  const std::pair<const char*, uint64_t> kinds[] = {
      {"small", 4 * kKiB}, {"medium", 64 * kKiB}, {"large", kMiB}};
  const uint64_t tables = shm::MemPoolAllocator::SizesFor({}, session_capacity).total_bytes();
  DefaultSetup setup;
  // A third of the budget each; less of everything until headers and records fit too.
  for (uint64_t share = budget / 3; share >= 4 * kKiB; share -= share / 10) {
    setup = {};
    shm::MemPoolConfig config;
    for (const auto& [name, size] : kinds) {
      const uint64_t count = share / size;
      if (count == 0) continue;
      shm::PoolSpec pool;
      pool.name = name;
      pool.chunk_size_bytes = size;
      pool.chunk_count = static_cast<uint32_t>(count);
      setup.pools.push_back(pool);
      (void)config.Add(pool);
    }
    setup.bytes = shm::MemPoolAllocator::SizesFor(config, session_capacity).total_bytes() - tables;
    if (setup.bytes > budget) continue;
    shm::ChannelSpec channel;
    channel.name = "default";
    channel.pool = setup.pools.back().name;
    setup.channels.push_back(channel);
    return setup;
  }
  return {};
}

}  // namespace zerocp
