// boost.interprocess: chunks of a managed segment in shared memory.
#include "tests/bench/loan_release.h"
#include "tests/bench/peers/peers.h"

#if __has_include(<boost/interprocess/managed_shared_memory.hpp>)
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/version.hpp>

namespace zerocp::bench {
namespace {

using boost::interprocess::managed_shared_memory;

class Segment {
 public:
  class Chunk {
   public:
    Chunk(managed_shared_memory& segment, void* bytes) : segment_(segment), bytes_(bytes) {}
    ~Chunk() { segment_.deallocate(bytes_); }
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    void* bytes() const { return bytes_; }

   private:
    managed_shared_memory& segment_;
    void* bytes_;
  };

  explicit Segment(const LoanSpec& spec)
      : bytes_(spec.bytes),
        memory_(
            new managed_shared_memory(boost::interprocess::create_only, Name(), size_t{64} << 20),
            [](managed_shared_memory* memory) {
              delete memory;
              boost::interprocess::shared_memory_object::remove(Name());
            }) {}
  Chunk NewChunk() { return {*memory_, memory_->allocate(bytes_)}; }
  static void* Bytes(const Chunk& chunk) { return chunk.bytes(); }

 private:
  static const char* Name() {
    static const std::string name = "zerocp_bench_" + std::to_string(getpid());
    return name.c_str();
  }

  size_t bytes_;
  std::shared_ptr<managed_shared_memory> memory_;
};

}  // namespace

Peer BoostPeer() {
  Peer peer{"boost", "boost.interprocess " BOOST_LIB_VERSION ", managed_shared_memory of 64 MiB"};
  peer.loan_release = [](const LoanSpec& spec) { return LoanSubject<Segment>("boost", spec); };
  return peer;
}

}  // namespace zerocp::bench

#else
namespace zerocp::bench {

Peer BoostPeer() {
  Peer peer{"boost", "", "built without Debian's package libboost-dev"};
  peer.loan_release = [](const LoanSpec&) { return Subject{}; };
  return peer;
}

}  // namespace zerocp::bench
#endif
