// What the files of the extension module zerocp._core share: it is the C interface of libzerocp
// for Python, against the limited API of 3.11, so that one build serves every later version.
//
// Threads. What the C interface gives to one thread at a time (publishers, subscribers, loans) is
// marked while a call of it runs without the GIL; another thread's call meanwhile is a
// RuntimeError. Everything else here happens under the GIL.
//
// fork. After a fork nothing of the parent's may be touched in the child: InThisProcess refuses.
#pragma once

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <zerocp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

namespace zerocp::python {

struct Decref {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Ref = std::unique_ptr<PyObject, Decref>;  // owns one reference

// Errors: each sets a Python exception and returns nullptr, to be returned at once.

// The exception of zerocp._errors for `code`, with zerocp_last_error(), or with `what` if the code
// is TIMEOUT, which has no sentence of its own.
PyObject* Fail(zerocp_code code, const char* what = "nothing came in time");
// RuntimeError: an object that one thread at a time may use is used by two.
PyObject* FailInUse(const char* what);

// Fork.

// Counts the forks that lead to this process; objects keep the count of their making.
std::uint64_t ForkCount();
// False, with the exception of UNAVAILABLE, if `made_at` is a parent's count.
bool InThisProcess(std::uint64_t made_at);

// Waiting.

// Nanoseconds for zerocp_*: None is for ever, a number is seconds. False with an exception.
bool ToTimeout(PyObject* seconds, std::int64_t& timeout_ns);

// Not a code: a signal's handler raised, and its exception is set.
inline constexpr zerocp_code kInterrupted = -1;

std::int64_t MonotonicNs();

// Runs `call` without the GIL. A thread that comes back after the interpreter's end is ended there,
// which unwinds the stack: no caller's destructor may touch a Python object (no Ref).
template <typename Call>
zerocp_code WithoutGil(Call call) {
  PyThreadState* const thread = PyEval_SaveThread();
  const zerocp_code code = call();
  PyEval_RestoreThread(thread);
  return code;
}

// True in the thread that runs Python's signal handlers.
bool IsMainThread();

// Runs `call(timeout_ns)` without the GIL for as long as it returns `again` and time is left: in
// slices of `slice_ns`, between which signals have their turn, where they are handled.
template <typename Call>
zerocp_code WaitWithoutGil(std::int64_t timeout_ns, zerocp_code again, Call call,
                           std::int64_t slice_ns = 100'000'000) {
  if (timeout_ns == 0 || !IsMainThread()) return WithoutGil([&] { return call(timeout_ns); });
  const std::int64_t end = timeout_ns > 0 ? MonotonicNs() + timeout_ns : 0;
  std::int64_t left = timeout_ns;
  for (;;) {
    const std::int64_t slice = left < 0 ? slice_ns : std::min(left, slice_ns);
    const zerocp_code code = WithoutGil([&] { return call(slice); });
    if (code != again) return code;
    if (PyErr_CheckSignals() != 0) return kInterrupted;
    if (timeout_ns > 0 && (left = end - MonotonicNs()) <= 0) return code;
  }
}

// A refusal counts in the pool's statistics: a wait in the main thread counts one a second.
inline constexpr std::int64_t kLoanSliceNs = 1'000'000'000;

// Marks an object as used by this thread; see the head of this file.
class InUse {
 public:
  explicit InUse(bool& mark) : mark_(mark) { mark_ = true; }
  ~InUse() { mark_ = false; }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  bool& mark_;
};

// Buffers (buffers.cc).

struct LoanObject {
  PyObject_HEAD zerocp_loan right;
  std::uint64_t made_at;  // ForkCount()
  Py_ssize_t views;       // memory views of it that live
  bool given_up;          // released by the program; views keep the chunk
  bool in_use;
};

struct SampleObject {
  PyObject_HEAD zerocp_sample right;
  std::uint64_t made_at;
  Py_ssize_t views;
  bool given_up;
};

// New references to objects without a right; nullptr with an exception.
LoanObject* NewLoan();
SampleObject* NewSample();
bool IsLoan(PyObject* object);
// The object with the right that a call has given it, or, after `code`, an exception.
PyObject* RightOrFail(LoanObject* loan, zerocp_code code);
PyObject* RightOrFail(SampleObject* sample, zerocp_code code);
// What the chunk's last user left there may be the shape of an array.
inline void ClearHeader(zerocp_loan& loan) {
  std::memset(loan.user_header, 0, ZEROCP_USER_HEADER_BYTES);
}
// The loan may be written, published or shared by this call: it has its right, it is not in use,
// nobody views it. False with an exception.
bool MayGiveAway(LoanObject* loan);

// Types (client.cc, publisher.cc, subscriber.cc).

struct ClientObject {
  PyObject_HEAD zerocp_client* raw;
  Py_ssize_t calls;  // that run without the GIL
};

// Counts such a call, so that nobody closes the client meanwhile.
class Calling {
 public:
  explicit Calling(ClientObject* client) : client_(client) { ++client_->calls; }
  ~Calling() { --client_->calls; }
  Calling(const Calling&) = delete;
  Calling& operator=(const Calling&) = delete;

 private:
  ClientObject* const client_;
};

// The client of a constructor's argument, open; nullptr with an exception.
ClientObject* OpenClient(PyObject* object);

// Each adds its types to the module; false with an exception.
bool AddBuffers(PyObject* module);
bool AddClient(PyObject* module);
bool AddPublisher(PyObject* module);
bool AddSubscriber(PyObject* module);

// Makes the type of `spec` and adds it under `name`; nullptr with an exception, else borrowed.
PyTypeObject* AddType(PyObject* module, const char* name, PyType_Spec& spec);

// Frees the memory of an object of a heap type, and its reference to the type.
void FreeObject(PyObject* self);

// `close(raw)` without the GIL: it may wait for the daemon.
template <typename Raw>
void CloseWithoutGil(Raw* raw, void (*close)(Raw*)) {
  WithoutGil([=] { return close(raw), ZEROCP_OK; });
}

// "self", for __enter__.
PyObject* Enter(PyObject* self, PyObject*);

}  // namespace zerocp::python
