#include "client/cli/in_place.h"

#include <openssl/evp.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>

namespace zerocp::cli {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
}

void Sha256::Add(std::span<const std::byte> data) {
  EVP_DigestUpdate(context_.get(), data.data(), data.size());
}

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(context_.get(), digest, &bytes);
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += {kDigits[digest[i] >> 4], kDigits[digest[i] & 15]};
  }
  return text;
}

ChunkSegmentMapping::ChunkSegmentMapping() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin, end;
    if (line.find("memory_chunk") == std::string::npos || line.find('/') == std::string::npos ||
        std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) {
      continue;
    }
    const std::string path = line.substr(line.find('/'));
    if (path == path_ && begin == end_) {
      end_ = end;  // one mapping, shown in parts
    } else if (path_.empty()) {
      begin_ = begin;
      end_ = end;
      path_ = path;
    }
  }
}

std::string ChunkSegmentMapping::Describe() const {
  if (path_.empty()) return "/proc/self/maps shows no chunk segment";
  char range[64];
  std::snprintf(range, sizeof(range), " at %" PRIxPTR "-%" PRIxPTR, begin_, end_);
  return path_ + range;
}

}  // namespace zerocp::cli
