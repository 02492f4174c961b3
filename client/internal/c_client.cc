// The functions of zerocp.h for a client.
#include "client/internal/c_api.h"
#include "shm/mutant.h"

namespace zerocp::internal {
namespace {

zerocp_code Attach(std::unique_ptr<Connection> connection, const zerocp_client_options* options,
                   std::optional<Connection::Token> token, zerocp_client** client) {
  const char* name = Option(options, &zerocp_client_options::name);
  std::string label(TextOf(name));
  if (name == nullptr)
    label = TextOf(program_invocation_short_name).substr(0, zerocp::shm::kNameBytes - 1);
  std::string printable = label;
  for (char& c : printable) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (name == nullptr) label = printable;
  if (label.size() >= zerocp::shm::kNameBytes) {
    return Fail(Code::kInvalid, "a client's name has at most " +
                                    std::to_string(zerocp::shm::kNameBytes - 1) +
                                    " bytes, this has " + std::to_string(label.size()));
  }
  if (label != printable) {
    return Fail(Code::kInvalid, "a client's name is of printable ASCII characters, \"" + printable +
                                    "\" (with ? for what is not) is no such name");
  }
  const int32_t read_only = Option(options, &zerocp_client_options::read_only);
  if (read_only != 0 && read_only != 1) {
    return Fail(Code::kInvalid,
                "read_only is " + std::to_string(read_only) + ", it must be 0 or 1");
  }
  auto core = ClientCore::Attach(std::move(connection), label, token, read_only == 1);
  if (!core.ok()) return Fail(core.status());
  *client = new zerocp_client{*core};
  return ZEROCP_OK;
}

// Grows with each pool that is created, grown or deleted, and with nothing else: the sum over the
// pools' places of a word that only grows, the pool's serial (odd while it exists) over its chunks.
// A pool counts from its state on: before that MemPoolManager::pool does not find it.
uint64_t RegionsEpoch(const zerocp::shm::MemPoolManager& manager) {
  uint64_t epoch = 0;
  for (uint32_t index = 0; index < zerocp::shm::kMaxPools; ++index) {
    const zerocp::shm::MemPool& pool = manager.pool_entry(index);
    const bool exists = pool.state.load(std::memory_order_acquire) !=  // PAIR pool.state
                        static_cast<uint32_t>(zerocp::shm::PoolState::kEmpty);
    const uint64_t serial = pool.use.load(std::memory_order_acquire) >> 1;  // PAIR pool.use
    const uint32_t count =
        pool.chunk_count.load(std::memory_order_acquire);  // PAIR pool.chunk_count
    epoch += exists && serial % 2 == 1 ? (serial << 25) + (zerocp::Mutant(104) ? 0 : count)
                                       : (serial & ~uint64_t{1}) << 25;
  }
  return epoch;
}

}  // namespace
}  // namespace zerocp::internal

using namespace zerocp::internal;

zerocp_code zerocp_connect(const zerocp_client_options* options, zerocp_client** client) {
  return Guarded([&] {
    auto connection =
        Connection::Find(std::string(TextOf(Option(options, &zerocp_client_options::runtime_dir))));
    if (!connection.ok()) return Fail(connection.status());
    return Attach(std::move(*connection), options, std::nullopt, client);
  });
}

zerocp_code zerocp_attach(const uint8_t token[ZEROCP_TOKEN_BYTES], const char* socket_path,
                          const zerocp_client_options* options, zerocp_client** client) {
  return Guarded([&] {
    auto connection = Connection::Open(std::string(TextOf(socket_path)));
    if (!connection.ok()) return Fail(connection.status());
    return Attach(std::move(*connection), options, Connection::Token(token, ZEROCP_TOKEN_BYTES),
                  client);
  });
}

zerocp_code zerocp_client_state(zerocp_client* client) {
  return Guarded([&] {
    ClientCore& core = *client->core;
    if (core.state() == ClientCore::kForked) return FailClosed(core);
    const Code code = core.Look();
    if (code == Code::kOk) return zerocp_code{ZEROCP_OK};
    if (!core.open()) return FailClosed(core);
    return Fail(code, "the daemon at " + core.connection().socket_path() +
                          " is away: what is joined goes on, and this client finds it again when "
                          "it is back");
  });
}

zerocp_code zerocp_client_regions(zerocp_client* client, zerocp_region* regions, size_t capacity,
                                  size_t* count, uint64_t* epoch) {
  ClientCore& core = *client->core;
  if (!core.writable()) return FailClosed(core);  // a view that is new is noted in shared memory
  zerocp::shm::MemPoolManager& manager = core.session().manager();
  const uint64_t before = RegionsEpoch(manager);
  size_t found = 0;
  const bool wanted = count != nullptr || capacity > 0;
  for (uint32_t index = 0; wanted && index < zerocp::shm::kMaxPools; ++index) {
    const PoolView* pool = manager.pool(index);
    if (pool == nullptr) continue;
    if (found < capacity) {
      zerocp_region& region = regions[found];
      region = {pool->data(0), pool->live_chunk_count() * pool->stride_bytes, {}};
      pool->name.copy(region.pool, sizeof(region.pool) - 1);
    }
    ++found;
  }
  if (count != nullptr) *count = found;
  if (epoch != nullptr) *epoch = before;
  return ZEROCP_OK;
}

void zerocp_client_close(zerocp_client* client) {
  if (client == nullptr) return;
  client->core->DropUser();
  delete client;
}
