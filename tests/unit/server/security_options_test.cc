#include "server/security_options.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "server/options.h"

namespace zerocp {
namespace {

ParsedOptions Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), {"zerocpd", "--runtime-dir", "/tmp/x"});
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data());
}

TEST(SecurityOptionsTest, EveryOptionReachesItsField) {
  const ParsedOptions parsed =
      Parse({"--tls-listen", "[::1]:7747", "--tls-cert=c", "--tls-key=k", "--tls-ca=a",
             "--tls-admin", "spiffe://x/a", "--tls-admin=b.example", "--tls-observer=o.example",
             "--audit-log=/var/log/audit", "--allow-user", "root", "--allow-user=1000",
             "--allow-group=root", "--max-sessions-per-user=7", "--max-attach-rate=9"});
  ASSERT_TRUE(parsed.options) << parsed.output;
  const SecurityOptions& options = parsed.options->security;
  EXPECT_EQ(options.tls_listen, "[::1]:7747");
  EXPECT_EQ(options.tls.certificate, "c");
  EXPECT_EQ(options.tls.key, "k");
  EXPECT_EQ(options.tls.authority, "a");
  EXPECT_EQ(options.tls_admins, (std::set<std::string>{"b.example", "spiffe://x/a"}));
  EXPECT_EQ(options.tls_observers, (std::set<std::string>{"o.example"}));
  EXPECT_EQ(options.audit_log, "/var/log/audit");
  EXPECT_EQ(options.attach.users, (std::set<uid_t>{0, 1000}));
  EXPECT_EQ(options.attach.groups, (std::set<gid_t>{0}));
  EXPECT_EQ(options.attach.max_sessions_per_user, 7u);
  EXPECT_EQ(options.attach.max_attaches_per_second, 9u);
}

TEST(SecurityOptionsTest, TlsIsOffByDefault) {
  const ParsedOptions parsed = Parse({});
  ASSERT_TRUE(parsed.options) << parsed.output;
  EXPECT_TRUE(parsed.options->security.tls_listen.empty());
  const auto endpoint = OpenTls(parsed.options->security);
  ASSERT_TRUE(endpoint.ok());
  EXPECT_FALSE(endpoint->has_value());
}

TEST(SecurityOptionsTest, BadValuesExitWithTwoAndSayWhatWouldBeRight) {
  const std::vector<std::pair<std::vector<const char*>, const char*>> table = {
      {{"--tls-cert", "c"}, "go with --tls-listen"},
      {{"--allow-user", "nobody-of-this-name"}, "there is no user nobody-of-this-name"},
      {{"--allow-group", "none-of-this-name"}, "there is no group none-of-this-name"},
      {{"--max-attach-rate", "-1"}, "--max-attach-rate"},
      {{"--tls-admin", "a"}, "go with --tls-listen"},
      {{"--tls-listen", "127.0.0.1:7747"}, "needs --tls-cert, --tls-key and --tls-ca"},
      {{"--tls-listen", "127.0.0.1:7747", "--tls-cert=c", "--tls-key=k", "--tls-ca=a"},
       "needs a --tls-admin or a --tls-observer"},
      {{"--tls-listen", "localhost:7747"}, "an address and a port are needed"},
      {{"--tls-listen", "127.0.0.1"}, "an address and a port are needed"},
      {{"--tls-listen", "127.0.0.1:"}, "an address and a port are needed"},
      {{"--tls-listen", "127.0.0.1:65536"}, "an address and a port are needed"},
      {{"--tls-listen", "127.0.0.1:-1"}, "an address and a port are needed"},
      {{"--tls-listen", "::1:7747"}, "an address and a port are needed"},
      {{"--tls-listen", "[127.0.0.1]:7747"}, "an address and a port are needed"},
      {{"--tls-listen", ":7747"}, "an address and a port are needed"},
  };
  for (const auto& [arguments, expected] : table) {
    const ParsedOptions parsed = Parse(arguments);
    EXPECT_FALSE(parsed.options) << arguments.back();
    EXPECT_EQ(parsed.exit_code, kExitUsage) << arguments.back();
    EXPECT_NE(parsed.output.find(expected), std::string::npos) << parsed.output;
  }
}

}  // namespace
}  // namespace zerocp
