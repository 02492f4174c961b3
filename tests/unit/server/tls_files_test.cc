#include "server/tls_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>

#include "tests/system/certificates.h"
#include "tests/system/child_process.h"

namespace zerocp {
namespace {

using testing::Identity;
using testing::ReadFile;
using testing::WriteFile;

class TlsFilesTest : public ::testing::Test {
 protected:
  TlsFilesTest() { Write(server_); }
  void Write(const Identity& identity) {
    WriteFile(paths_.certificate, identity.certificate);
    WriteFile(paths_.key, identity.key);
  }
  // Waits until it holds; ctest's time limit is the watchdog.
  static void WaitUntil(const std::function<bool()>& condition) {
    while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  testing::TempDir dir_;
  const testing::TestAuthority authority_;
  const Identity server_ = authority_.Sign({.names = "DNS:localhost"});
  const TlsPaths paths_{dir_.path() + "/cert.pem", dir_.path() + "/key.pem", [this] {
                          WriteFile(dir_.path() + "/ca.pem", authority_.certificate());
                          return dir_.path() + "/ca.pem";
                        }()};
};

TEST_F(TlsFilesTest, WhatIsRightIsRead) {
  const auto material = ReadTlsFiles(paths_);
  ASSERT_TRUE(material.ok()) << material.status().message();
  EXPECT_EQ(material->subject, "CN=test");
  EXPECT_GT(material->expire_time, std::chrono::system_clock::now());
  EXPECT_EQ(material->authority, authority_.certificate());
}

TEST_F(TlsFilesTest, WhatIsWrongIsNamedWithItsFileAndReason) {
  const testing::TestAuthority other;
  const std::string expired = authority_.Sign({.valid_to = std::chrono::seconds(-60)}).certificate;
  const std::string early = authority_.Sign({.valid_from = std::chrono::seconds(600)}).certificate;
  const std::string client = authority_.Sign({.extended_key_usage = "clientAuth"}).certificate;
  const std::string damaged = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
  const std::string missing;  // the file is removed
  const std::string text = "no PEM at all\n";
  const struct {
    const std::string& path;
    const char* option;
    const std::string& content;
    const char* reason;
  } rows[] = {
      {paths_.certificate, "--tls-cert", missing, "No such file"},
      {paths_.key, "--tls-key", missing, "No such file"},
      {paths_.authority, "--tls-ca", missing, "No such file"},
      {paths_.certificate, "--tls-cert", text, "holds no certificate"},
      {paths_.key, "--tls-key", text, "holds no private key"},
      {paths_.authority, "--tls-ca", text, "holds no certificate"},
      {paths_.certificate, "--tls-cert", damaged, "holds a damaged certificate"},
      {paths_.authority, "--tls-ca", damaged, "holds a damaged certificate"},
      {paths_.certificate, "--tls-cert", expired, "has expired on 20"},
      {paths_.authority, "--tls-ca", expired, "has expired on 20"},
      {paths_.certificate, "--tls-cert", early, "is not valid before 20"},
      {paths_.certificate, "--tls-cert", client, "is not for a server"},
      {paths_.key, "--tls-key", other.Sign({}).key, "does not belong to --tls-cert"},
      {paths_.key, "--tls-key", testing::Encrypted(server_.key), "is encrypted"},
      {paths_.certificate, "--tls-cert", std::string(2 << 20, 'x'), "is larger than 1 MiB"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(std::string(row.option) + " " + row.reason);
    const std::string before = ReadFile(row.path);
    if (&row.content == &missing) {
      unlink(row.path.c_str());
    } else {
      WriteFile(row.path, row.content);
    }
    const auto material = ReadTlsFiles(paths_);
    ASSERT_FALSE(material.ok());
    EXPECT_EQ(material.code(), shm::Code::kInvalid);
    const std::string& message = material.status().message();
    EXPECT_EQ(message.find(row.option + (" " + row.path)), 0u) << message;
    EXPECT_NE(message.find(row.reason), std::string::npos) << message;
    WriteFile(row.path, before);
  }
  EXPECT_TRUE(ReadTlsFiles(paths_).ok());
}

TEST_F(TlsFilesTest, ABundleNeedsOneAuthorityThatIsValid) {
  const std::string expired = authority_.Sign({.valid_to = std::chrono::seconds(-60)}).certificate;
  WriteFile(paths_.authority, expired + authority_.certificate());
  EXPECT_TRUE(ReadTlsFiles(paths_).ok());
}

TEST_F(TlsFilesTest, NewFilesAreUsedAndWrongOnesAreNot) {
  auto files = TlsFiles::Open(paths_);
  ASSERT_TRUE(files.ok()) << files.status().message();
  const auto expire_time = (*files)->expire_time();
  const std::string before = ReadFile((*files)->identity_path());
  EXPECT_NE(before.find(server_.certificate), std::string::npos);
  EXPECT_NE(before.find(server_.key), std::string::npos);

  // The key alone does not match, until its certificate comes.
  const Identity next = authority_.Sign({.valid_to = std::chrono::seconds(7200)});
  WriteFile(paths_.key, next.key);
  WaitUntil([&] { return (*files)->rejected_count() != 0; });
  EXPECT_EQ(ReadFile((*files)->identity_path()), before);
  WriteFile(paths_.certificate, next.certificate);
  WaitUntil([&] { return (*files)->expire_time() != expire_time; });
  const std::string after = ReadFile((*files)->identity_path());
  EXPECT_NE(after.find(next.certificate), std::string::npos);
  EXPECT_NE(after.find(next.key), std::string::npos);

  const testing::TestAuthority other;
  WriteFile(paths_.authority, other.certificate());
  WaitUntil([&] { return ReadFile((*files)->authority_path()) == other.certificate(); });
  EXPECT_EQ(ReadFile((*files)->identity_path()), after);
}

}  // namespace
}  // namespace zerocp
