// The three PEM files of TLS, read and checked, and handed on to gRPC.
//
// gRPC starts, and fails every handshake, with files that are missing or do not match, and takes
// any rotation for good. Here what is wrong is an error with its file and reason, and gRPC gets
// nothing that was not checked: it reads /proc/self/fd paths of anonymous files, which are replaced
// as a whole when the operator's files have changed and are right.
//
// Threads. One of its own looks at the files every `interval`. Functions from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "server/mutex.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

struct TlsPaths {
  std::string certificate;  // the server's, then those between it and its authority
  std::string key;          // of the certificate, without a passphrase
  std::string authority;    // certificates that clients' must be signed by
};

struct TlsMaterial {
  std::string identity;  // certificates and key, PEM
  std::string authority;
  std::string subject;  // of the server's certificate
  std::chrono::system_clock::time_point expire_time;
};

// kInvalid: what is wrong with which file. A certificate that is not valid now is wrong.
shm::Result<TlsMaterial> ReadTlsFiles(const TlsPaths& paths);

// "2027-01-31T12:00:00Z".
std::string UtcText(std::chrono::system_clock::time_point time);

class TlsFiles {
 public:
  static constexpr std::chrono::seconds kInterval{1};

  // kInvalid as ReadTlsFiles; kUnavailable: no descriptor, no memory.
  static shm::Result<std::unique_ptr<TlsFiles>> Open(TlsPaths paths);
  ~TlsFiles();
  TlsFiles(const TlsFiles&) = delete;
  TlsFiles& operator=(const TlsFiles&) = delete;

  // Always one right pair and its authority.
  const std::string& identity_path() const { return identity_path_; }
  const std::string& authority_path() const { return authority_path_; }
  // Of the certificate in use.
  std::string subject();
  std::chrono::system_clock::time_point expire_time();
  // Changes of the files that were not used.
  uint64_t rejected_count();

 private:
  explicit TlsFiles(TlsPaths paths) : paths_(std::move(paths)) {}
  void Run();
  void Look();
  shm::Status Publish(const TlsMaterial& material) ZEROCP_REQUIRES(mutex_);
  // Which files are there, so that a change is noticed.
  std::string Stamp() const;

  const TlsPaths paths_;
  shm::UniqueFd identity_;
  shm::UniqueFd authority_;
  std::string identity_path_;
  std::string authority_path_;
  std::string stamp_;  // of the last look; the thread's own after Open
  Mutex mutex_;
  ConditionVariable changed_;
  TlsMaterial material_ ZEROCP_GUARDED_BY(mutex_);
  uint64_t rejected_count_ ZEROCP_GUARDED_BY(mutex_) = 0;
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zerocp
