// The functions of zerocp.h for a client.
#include "client/internal/c_api.h"

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

void zerocp_client_close(zerocp_client* client) {
  if (client == nullptr) return;
  client->core->DropUser();
  delete client;
}
