// The module zerocp._core: errors, forks, waiting, and the list of its types.
#include <pthread.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <ctime>

#include "client/python/core/core.h"

namespace zerocp::python {
namespace {

std::uint64_t fork_count = 0;

// The exception of zerocp._errors that says this.
PyObject* Raise(zerocp_code code, const char* message) {
  const Ref module(PyImport_ImportModule("zerocp._errors"));
  if (!module) return nullptr;
  const Ref text(PyUnicode_DecodeUTF8(message, static_cast<Py_ssize_t>(std::strlen(message)),
                                      "replace"));  // it may quote a path
  const Ref error(text ? PyObject_CallMethod(module.get(), "error_of", "iO", code, text.get())
                       : nullptr);
  if (error) PyErr_SetObject(PyExceptionInstance_Class(error.get()), error.get());
  return nullptr;
}

}  // namespace

PyObject* Fail(zerocp_code code, const char* what) {
  if (code == kInterrupted) return nullptr;  // its exception is set
  return Raise(code, code == ZEROCP_TIMEOUT ? what : zerocp_last_error());
}

PyObject* FailInUse(const char* what) {
  PyErr_Format(PyExc_RuntimeError, "another thread is in a call of this %s: one at a time", what);
  return nullptr;
}

std::uint64_t ForkCount() { return fork_count; }

bool InThisProcess(std::uint64_t made_at) {
  if (made_at == fork_count) return true;
  Raise(ZEROCP_UNAVAILABLE,
        "this process is the child of a fork and does not have the memory: connect again in it "
        "(with multiprocessing, the start method 'spawn' does)");
  return false;
}

bool ToTimeout(PyObject* seconds, std::int64_t& timeout_ns) {
  if (seconds == nullptr || seconds == Py_None) {
    timeout_ns = ZEROCP_FOREVER;
    return true;
  }
  const double value = PyFloat_AsDouble(seconds);
  if (value == -1.0 && PyErr_Occurred() != nullptr) return false;
  if (std::isnan(value) || value < 0) {
    PyErr_SetString(PyExc_ValueError, "a timeout is None (for ever) or seconds, at least 0");
    return false;
  }
  constexpr double kNsPerSecond = 1e9;
  const double ns = std::ceil(value * kNsPerSecond);
  constexpr double kTooMany = 9e18;  // 285 years
  timeout_ns = ns > kTooMany ? ZEROCP_FOREVER : static_cast<std::int64_t>(ns);
  return true;
}

bool IsMainThread() {
  struct Known {
    std::uint64_t fork_count;
    bool is_main;
  };
  thread_local Known known{fork_count, gettid() == getpid()};
  if (known.fork_count != fork_count) known = {fork_count, gettid() == getpid()};
  return known.is_main;
}

PyObject* Enter(PyObject* self, PyObject*) { return Py_NewRef(self); }

std::int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

PyTypeObject* AddType(PyObject* module, const char* name, PyType_Spec& spec) {
  PyObject* const type = PyType_FromSpec(&spec);
  // The module's reference and the reference of what makes objects of the type, which is for ever.
  if (type == nullptr || PyModule_AddObjectRef(module, name, type) != 0) return nullptr;
  return reinterpret_cast<PyTypeObject*>(type);
}

void FreeObject(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  const auto free = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
  free(self);
  Py_DECREF(reinterpret_cast<PyObject*>(type));
}

}  // namespace zerocp::python

PyMODINIT_FUNC PyInit__core() {
  using namespace zerocp::python;  // NOLINT(google-build-using-namespace): the one function outside
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                   "_core",
                                   "The C interface of libzerocp; use the package zerocp.",
                                   -1,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr};
  Ref module(PyModule_Create(&definition));
  if (!module) return nullptr;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++fork_count; });
  if (registered != 0) return PyErr_NoMemory();
  if (!AddBuffers(module.get()) || !AddClient(module.get()) || !AddPublisher(module.get()) ||
      !AddSubscriber(module.get()) ||
      PyModule_AddStringConstant(module.get(), "library_version", zerocp_version()) != 0) {
    return nullptr;
  }
  return module.release();
}
