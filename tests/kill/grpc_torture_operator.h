// What torture_test asks of the daemon, and tells it, over gRPC. A call waits for a daemon that is
// not there yet; one that fails is a failure of the test.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::torture {

// Chunks by session, pool and phase; those in caches left out, and those of histories in the name
// of nobody.
using Holdings = std::map<std::tuple<std::string, std::string, std::string>, int64_t>;
inline constexpr char kWriting[] = "PHASE_WRITING";
inline constexpr char kReading[] = "PHASE_READING";
inline constexpr char kHistory[] = "PHASE_HISTORY";

class Operator {
 public:
  // Of the daemon with that admin socket.
  explicit Operator(std::string socket);
  ~Operator();
  void Connect();
  // A daemon that stops would wait for a connection that nobody looks at.
  void Disconnect();

  enum class PoolStep { kNone, kCreated, kGrown, kDeleted };
  // The next step in the life of pool "churn"; kNone: it is not possible now.
  PoolStep ChurnPool(std::mt19937_64& random);
  // Deletes channel "fleeting" under its members, or makes it anew.
  void ChurnChannel();
  // Ends the session of that process, if it has one yet, within 5 s if the process goes along.
  // False: there is none.
  bool TerminateSessionOf(int32_t process);
  // Detaches any subscriber; false: there is none.
  bool DetachSubscriber(std::mt19937_64& random);

  // Names of the sessions by process, if these processes have one each, and nobody else has.
  std::optional<std::map<int32_t, std::string>> SessionsOf(const std::set<int32_t>& processes);
  Holdings Census();
  // Every invariant holds.
  void ExpectAuditClean();

 private:
  template <class Stub, class Request, class Response>
  grpc::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response);

  const std::string socket_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<v1::ObserverService::Stub> observer_;
  bool churn_is_there_ = false;
  bool fleeting_is_there_ = false;
};

}  // namespace zerocp::torture
