#include "server/tls_files.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <utility>
#include <vector>

#include "shm/mutant.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;
using std::chrono::system_clock;

constexpr size_t kMaxFileBytes = size_t{1} << 20;

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<BIO_free>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;

Status Wrong(const char* option, const std::string& path, const std::string& why) {
  return Status(Code::kInvalid, std::string(option) + " " + path + ": " + why);
}

Result<std::string> Read(const char* option, const std::string& path) {
  const shm::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (!fd || fstat(fd.get(), &info) != 0)
    return Status::FromErrno(Code::kInvalid, std::string(option) + " " + path, errno);
  if (!S_ISREG(info.st_mode)) return Wrong(option, path, "is no regular file");
  std::string text;
  char buffer[4096];
  ssize_t size = 0;
  while ((size = read(fd.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(size));
    if (text.size() > kMaxFileBytes) return Wrong(option, path, "is larger than 1 MiB");
  }
  if (size < 0) return Status::FromErrno(Code::kInvalid, std::string(option) + " " + path, errno);
  return text;
}

std::string OpensslError() {
  char text[256] = "unknown";
  if (const unsigned long error = ERR_peek_last_error(); error != 0)
    ERR_error_string_n(error, text, sizeof(text));
  ERR_clear_error();
  return text;
}

// All certificates of a PEM text, which may hold other things too.
Result<std::vector<Certificate>> Certificates(const char* option, const std::string& path,
                                              const std::string& text) {
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  std::vector<Certificate> certificates;
  ERR_clear_error();
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr))
    certificates.emplace_back(next);
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
    return Wrong(option, path, "holds a damaged certificate: " + OpensslError());
  ERR_clear_error();
  if (certificates.empty())
    return Wrong(option, path, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)");
  return certificates;
}

system_clock::time_point TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  ASN1_TIME_to_tm(time, &parts);
  return system_clock::from_time_t(timegm(&parts));
}

std::string SubjectOf(const X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

// Empty if it is valid now.
std::string NotValidNow(const X509* certificate) {
  const system_clock::time_point now = system_clock::now();
  const auto begin = TimeOf(X509_get0_notBefore(certificate));
  const auto end = TimeOf(X509_get0_notAfter(certificate));
  if (now >= end)
    return "the certificate of " + SubjectOf(certificate) + " has expired on " + UtcText(end);
  if (now < begin)
    return "the certificate of " + SubjectOf(certificate) + " is not valid before " +
           UtcText(begin);
  return "";
}

Status CheckKey(const TlsPaths& paths, const std::string& text, X509* certificate) {
  constexpr char kOption[] = "--tls-key";
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  bool encrypted = false;
  const auto no_passphrase = [](char*, int, int, void* asked) {
    *static_cast<bool*>(asked) = true;
    return 0;
  };
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, &encrypted));
  if (encrypted)
    return Wrong(kOption, paths.key, "is encrypted: a key without passphrase is needed");
  if (key == nullptr)
    return Wrong(kOption, paths.key, "holds no private key in PEM: " + OpensslError());
  if (X509_check_private_key(certificate, key.get()) != 1 && !Mutant(61)) {
    ERR_clear_error();
    return Wrong(kOption, paths.key,
                 "does not belong to --tls-cert " + paths.certificate + ": the public keys differ");
  }
  return Status();
}

// A file's content, replaced as a whole under a descriptor's number.
Result<shm::UniqueFd> AnonymousFile(const std::string& content) {
  shm::UniqueFd fd(memfd_create("zerocp-tls", MFD_CLOEXEC));
  if (!fd ||
      write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    return Status::FromErrno(Code::kUnavailable, "cannot keep the TLS certificate", errno);
  }
  return fd;
}

}  // namespace

std::string UtcText(system_clock::time_point time) {
  const std::time_t seconds = system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Result<TlsMaterial> ReadTlsFiles(const TlsPaths& paths) {
  constexpr char kCertificate[] = "--tls-cert";
  constexpr char kAuthority[] = "--tls-ca";
  Result<std::string> chain_text = Read(kCertificate, paths.certificate);
  if (!chain_text.ok()) return chain_text.status();
  Result<std::string> key_text = Read("--tls-key", paths.key);
  if (!key_text.ok()) return key_text.status();
  Result<std::string> authority_text = Read(kAuthority, paths.authority);
  if (!authority_text.ok()) return authority_text.status();

  const auto chain = Certificates(kCertificate, paths.certificate, *chain_text);
  if (!chain.ok()) return chain.status();
  X509* const own = chain->front().get();
  if (const std::string why = NotValidNow(own); !why.empty())
    return Wrong(kCertificate, paths.certificate, why);
  if (X509_check_purpose(own, X509_PURPOSE_SSL_SERVER, 0) != 1)
    return Wrong(kCertificate, paths.certificate,
                 "is not for a server: its key usage or extended key usage excludes it");
  if (Status status = CheckKey(paths, *key_text, own); !status.ok()) return status;
  const auto authorities = Certificates(kAuthority, paths.authority, *authority_text);
  if (!authorities.ok()) return authorities.status();
  std::string why;
  for (const Certificate& authority : *authorities) {
    why = NotValidNow(authority.get());
    if (why.empty()) break;  // one is enough: a bundle may hold the authority before, too
  }
  if (!why.empty()) return Wrong(kAuthority, paths.authority, why);

  return TlsMaterial{*chain_text + "\n" + *key_text, *authority_text, SubjectOf(own),
                     TimeOf(X509_get0_notAfter(own))};
}

Result<std::unique_ptr<TlsFiles>> TlsFiles::Open(TlsPaths paths) {
  std::unique_ptr<TlsFiles> files(new TlsFiles(std::move(paths)));
  files->stamp_ = files->Stamp();
  Result<TlsMaterial> material = ReadTlsFiles(files->paths_);
  if (!material.ok()) return material.status();
  {
    MutexLock lock(files->mutex_);
    if (Status status = files->Publish(*material); !status.ok()) return status;
  }
  files->identity_path_ = "/proc/self/fd/" + std::to_string(files->identity_.get());
  files->authority_path_ = "/proc/self/fd/" + std::to_string(files->authority_.get());
  files->thread_ = std::thread([raw = files.get()] { raw->Run(); });
  return files;
}

TlsFiles::~TlsFiles() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

std::string TlsFiles::subject() {
  MutexLock lock(mutex_);
  return material_.subject;
}

system_clock::time_point TlsFiles::expire_time() {
  MutexLock lock(mutex_);
  return material_.expire_time;
}

uint64_t TlsFiles::rejected_count() {
  MutexLock lock(mutex_);
  return rejected_count_;
}

void TlsFiles::Run() {
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (!stopped_) changed_.wait_for(mutex_, kInterval);
      if (stopped_) return;
    }
    Look();
  }
}

// Files that are replaced one after the other do not match for a moment: that is looked at again
// when the next of them changes.
void TlsFiles::Look() {
  std::string stamp = Stamp();
  if (stamp == stamp_) return;
  stamp_ = std::move(stamp);
  const Result<TlsMaterial> material = ReadTlsFiles(paths_);
  Status status = material.status();
  MutexLock lock(mutex_);
  if (status.ok()) status = Publish(*material);
  if (status.ok()) {
    spdlog::info("TLS: new files in use; the certificate of {} expires on {}", material_.subject,
                 UtcText(material_.expire_time));
  } else {
    ++rejected_count_;
    spdlog::error(
        "TLS: the files have changed and are not used: {}; the certificate before ({}, expires on "
        "{}) stays",
        status.message(), material_.subject, UtcText(material_.expire_time));
  }
}

Status TlsFiles::Publish(const TlsMaterial& material) {
  Result<shm::UniqueFd> identity = AnonymousFile(material.identity);
  if (!identity.ok()) return identity.status();
  Result<shm::UniqueFd> authority = AnonymousFile(material.authority);
  if (!authority.ok()) return authority.status();
  material_ = material;
  if (!identity_) {
    identity_ = std::move(*identity);
    authority_ = std::move(*authority);
  } else {
    dup3(identity->get(), identity_.get(), O_CLOEXEC);
    dup3(authority->get(), authority_.get(), O_CLOEXEC);
  }
  return Status();
}

std::string TlsFiles::Stamp() const {
  std::string stamp;
  for (const std::string& path : {paths_.certificate, paths_.key, paths_.authority}) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) info = {};
    stamp += fmt::format("{}:{}:{}:{}.{} ", info.st_dev, info.st_ino, info.st_size,
                         info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  }
  return stamp;
}

}  // namespace zerocp
