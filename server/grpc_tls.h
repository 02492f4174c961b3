// The credentials of the TLS listener.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/tls_files.h"

namespace zerocp {

// Demands a certificate of the authority from every client; follows `files`, which outlives the
// server.
std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const TlsFiles& files);

}  // namespace zerocp
