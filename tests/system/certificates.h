// An authority of a test's own, and the certificates that it signs.
#pragma once

#include <chrono>
#include <memory>
#include <string>

namespace zerocp::testing {

struct Identity {
  std::string certificate;  // PEM
  std::string key;          // PEM
};

struct CertificateOptions {
  // OpenSSL's form: "URI:spiffe://test/admin,DNS:admin.test".
  std::string names = {};
  std::chrono::seconds valid_from{-3600};  // from now
  std::chrono::seconds valid_to{3600};
  std::string extended_key_usage = {};  // OpenSSL's form; empty: for everything
};

class TestAuthority {
 public:
  TestAuthority();
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  const std::string& certificate() const { return own_.certificate; }
  Identity Sign(const CertificateOptions& options) const;

 private:
  struct Keys;
  std::unique_ptr<Keys> keys_;
  Identity own_;
};

// The key of an identity, encrypted with a passphrase.
std::string Encrypted(const std::string& key);

}  // namespace zerocp::testing
