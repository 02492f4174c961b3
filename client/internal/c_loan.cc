// The functions of zerocp.h for loans, samples and handles. One call each, no allocation, and no
// lock unless the session is limited.
#include <zerocp/loan.h>

#include <chrono>

#include "client/internal/c_api.h"
#include "shm/mutant.h"

namespace zerocp::internal {
namespace {

template <class Right>
void Release(Right* right) {
  ClientCore* core = CoreOf(*right);
  if (core == nullptr) return;
  const ChunkRef ref = RefOf(*right);
  const auto held = static_cast<uint16_t>(right->opaque_chunk >> 48);
  right->opaque[0] = nullptr;
  if (core->writable()) [[likely]] {
    core->Release(ref);
  } else if (core->mapped()) {
    core->ReleaseLost();
  } else {
    return;  // the child of a fork: its parent counts
  }
  if (held != 0) [[unlikely]]
    HeldCounts::Get().Subtract(held);  // last: no more are held than are counted
}

[[gnu::cold, gnu::noinline]] zerocp_code FailLoan(ClientCore& core, const PoolView& pool,
                                                  size_t bytes, Code code) {
  if (!core.open()) return FailClosed(core);
  if (bytes > pool.chunk_size_bytes) {
    return Fail(Code::kTooLarge, std::to_string(bytes) +
                                     " bytes were asked for, but the chunks of pool '" + pool.name +
                                     "' have " + std::to_string(pool.chunk_size_bytes) + " bytes");
  }
  if (code == Code::kNotFound) {
    return Fail(code, "pool '" + pool.name +
                          "' is being deleted or gone (DeletePool): nothing can be loaned from it");
  }
  if (code == Code::kHeldLimit) return FailHeldLimit(core);
  return code == Code::kExhausted ? Fail(code, core.DescribeExhausted(pool)) : Fail(code);
}

void Waste(std::chrono::nanoseconds time) {
  for (const auto end = std::chrono::steady_clock::now() + time;
       std::chrono::steady_clock::now() < end;) {
  }
}

// `port`: of the publisher that the loan is for, or null.
[[gnu::noinline]] zerocp_code NewLoanSlow(ClientCore& core, const PoolView& pool, size_t bytes,
                                          int64_t timeout_ns, zerocp::shm::PublisherPort* port,
                                          LoanCache** cache, zerocp_loan* loan) {
  if (Mutant(98)) Waste(std::chrono::nanoseconds(200));
  if (core.open() && core.Called()) (void)core.LookSometimes();
  if (!core.open() || bytes > pool.chunk_size_bytes) {
    return FailLoan(core, pool, bytes, Code::kOk);
  }
  ChunkRef ref;
  const auto loan_until = [&](Deadline deadline) {
    if (port != nullptr) port->LookWhoIsGone();
    return core.session().LoanInSlices(pool, deadline, &ref);
  };
  const Code code = timeout_ns == 0 ? loan_until(Deadline::Now())
                                    : InSlices(core, timeout_ns, Code::kExhausted, loan_until);
  if (code == Code::kExhausted) zerocp::shm::Session::CountRefusal(pool);
  if (code != Code::kOk) return FailLoan(core, pool, bytes, code);
  *cache = &core.session().CacheOf(pool);
  *loan = LoanOf(**cache, ref.chunk, bytes);
  return ZEROCP_OK;
}

}  // namespace
}  // namespace zerocp::internal

using namespace zerocp::internal;

zerocp_code zerocp_publisher_loan(zerocp_publisher* publisher, size_t bytes, int64_t timeout_ns,
                                  zerocp_loan* loan) {
  uint32_t chunk;
  if (!publisher->cache->TryLoan(bytes, &chunk)) [[unlikely]] {
    return NewLoanSlow(*publisher->core, publisher->port->pool(), bytes, timeout_ns,
                       publisher->port.get(), &publisher->cache, loan);
  }
  *loan = LoanOf(*publisher->cache, chunk, bytes);
  return ZEROCP_OK;
}

zerocp_code zerocp_client_loan(zerocp_client* client, const char* pool, size_t bytes,
                               int64_t timeout_ns, zerocp_loan* loan) {
  if (!client->core->open()) return FailClosed(*client->core);
  if (client->core->read_only()) return FailReadOnly();
  const PoolView* view = client->core->session().manager().FindPool(pool);
  if (view == nullptr) {
    return Fail(Code::kNotFound,
                "there is no pool '" + std::string(pool) +
                    "'; `zerocp pools` lists those there are; make one with "
                    "`zerocp pools create`, the RPC CreatePool, or zerocpd's --pool");
  }
  zerocp::shm::Session& session = client->core->session();
  ChunkRef ref;
  if (bytes > view->chunk_size_bytes || !session.TryLoan(*view, &ref)) {
    LoanCache* cache;
    return NewLoanSlow(*client->core, *view, bytes, timeout_ns, nullptr, &cache, loan);
  }
  *loan = LoanOf(session.CacheOf(*view), ref.chunk, bytes);
  return ZEROCP_OK;
}

void zerocp_loan_release(zerocp_loan* loan) { Release(loan); }

void zerocp_sample_release(zerocp_sample* sample) { Release(sample); }

zerocp_code zerocp_loan_share(zerocp_loan* loan, zerocp_sample* sample) {
  ClientCore* core = CoreOf(*loan);
  if (core == nullptr) return Fail(Code::kInvalid, "this is not a loan: published or released");
  if (!core->writable()) return FailClosed(*core);
  if (loan->size > loan->capacity) {
    return Fail(Code::kInvalid, "the loan's size was set to " + std::to_string(loan->size) +
                                    " bytes, it has " + std::to_string(loan->capacity));
  }
  ChunkRef ref = RefOf(*loan);
  ref.header().size_bytes.store(loan->size, std::memory_order_relaxed);
  ref.header().sequence.store(0, std::memory_order_relaxed);
  core->session().Share(ref);
  loan->opaque[0] = nullptr;
  FillShared(*core, ref, sample);
  return ZEROCP_OK;
}

zerocp_code zerocp_sample_handle(zerocp_sample* sample, zerocp_handle* handle) {
  ClientCore* core = CoreOf(*sample);
  if (core == nullptr) return Fail(Code::kInvalid, "this is not a sample: it was released");
  if (!core->writable()) return FailClosed(*core);
  ChunkRef ref = RefOf(*sample);
  handle->instance = core->session().manager().instance_id();
  if (ref.slot == ChunkRef::kExclusive) {
    if (!core->read_only())
      ref.header().sequence.store(sample->sequence, std::memory_order_relaxed);
    handle->chunk = core->session().Share(ref);
    const uint64_t held = sample->opaque_chunk >> 48 << 48;
    Keep(*core, ref, sample);
    sample->opaque[2] = &kNoLoanCache;
    sample->opaque_chunk |= held;
  } else {
    handle->chunk = zerocp::shm::Session::HandleOf(ref);
  }
  return ZEROCP_OK;
}

zerocp_code zerocp_client_open(zerocp_client* client, zerocp_handle handle, zerocp_sample* sample) {
  ClientCore& core = *client->core;
  if (!core.open()) return FailClosed(core);
  if (handle.instance != core.session().manager().instance_id()) {
    return Fail(Code::kStale, "the handle belongs to another instance than the one at " +
                                  core.connection().socket_path());
  }
  if (core.session().AtHeldLimit()) return FailHeldLimit(core);
  ChunkRef ref;
  const Code code = core.session().Open(handle.chunk, &ref);
  if (code != Code::kOk) return Fail(code);
  FillShared(core, ref, sample);
  return ZEROCP_OK;
}
