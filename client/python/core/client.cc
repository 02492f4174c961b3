// Client: an attachment to a daemon.
#include "client/python/core/core.h"

namespace zerocp::python {
namespace {

PyTypeObject* client_type = nullptr;

ClientObject* Self(PyObject* object) { return reinterpret_cast<ClientObject*>(object); }

PyObject* New(PyTypeObject* type, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"runtime_dir", "name",   "read_only",
                                      "token",       "socket", nullptr};
  const char* runtime_dir = nullptr;
  const char* name = nullptr;
  int read_only = 0;
  const char* token = nullptr;
  Py_ssize_t token_bytes = 0;
  const char* socket = nullptr;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "|z$zpz#z:Client",
                                  const_cast<char**>(names), &runtime_dir, &name, &read_only,
                                  &token, &token_bytes, &socket) == 0) {
    return nullptr;
  }
  if ((token == nullptr) != (socket == nullptr) ||
      (token != nullptr && token_bytes != ZEROCP_TOKEN_BYTES)) {
    PyErr_Format(PyExc_ValueError,
                 "a token has %d bytes and comes with the attach socket that CreateSession named",
                 ZEROCP_TOKEN_BYTES);
    return nullptr;
  }
  PyObject* const self = PyType_GenericAlloc(type, 0);
  if (self == nullptr) return nullptr;
  const zerocp_client_options options{sizeof(options), name, runtime_dir, read_only};
  zerocp_client** const raw = &Self(self)->raw;
  const zerocp_code code = WithoutGil([&] {
    return token != nullptr
               ? zerocp_attach(reinterpret_cast<const std::uint8_t*>(token), socket, &options, raw)
               : zerocp_connect(&options, raw);
  });
  if (code == ZEROCP_OK) return self;
  Py_DECREF(self);
  return Fail(code);
}

void Dealloc(PyObject* object) {
  CloseWithoutGil(Self(object)->raw, zerocp_client_close);
  FreeObject(object);
}

PyObject* Close(PyObject* object, PyObject*) {
  ClientObject* const self = Self(object);
  if (self->calls != 0) {
    PyErr_SetString(PyExc_RuntimeError,
                    "another thread is in a call of this client: close it after");
    return nullptr;
  }
  zerocp_client* const raw = self->raw;
  self->raw = nullptr;
  CloseWithoutGil(raw, zerocp_client_close);
  Py_RETURN_NONE;
}

PyObject* NewLoanMethod(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"pool", "size", "timeout", nullptr};
  const char* pool = nullptr;
  Py_ssize_t size = 0;
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "sn|O:new_loan", const_cast<char**>(names),
                                  &pool, &size, &seconds) == 0 ||
      (seconds != nullptr && !ToTimeout(seconds, timeout_ns))) {
    return nullptr;
  }
  if (size < 0) return PyErr_SetString(PyExc_ValueError, "a size is at least 0"), nullptr;
  ClientObject* const self = OpenClient(object);
  if (self == nullptr) return nullptr;
  LoanObject* const loan = NewLoan();
  if (loan == nullptr) return nullptr;
  const Calling calling(self);
  const zerocp_code code = WaitWithoutGil(timeout_ns, ZEROCP_EXHAUSTED, [&](std::int64_t slice_ns) {
    return zerocp_client_loan(self->raw, pool, static_cast<size_t>(size), slice_ns, &loan->right);
  });
  return RightOrFail(loan, code);
}

PyObject* Open(PyObject* object, PyObject* argument) {
  if (!PyTuple_Check(argument) || PyTuple_Size(argument) != 2) {
    PyErr_SetString(PyExc_TypeError, "open() takes a Handle, or its two numbers in a tuple");
    return nullptr;
  }
  const std::uint64_t instance = PyLong_AsUnsignedLongLong(PyTuple_GetItem(argument, 0));
  if (PyErr_Occurred() != nullptr) return nullptr;
  const std::uint64_t chunk = PyLong_AsUnsignedLongLong(PyTuple_GetItem(argument, 1));
  if (PyErr_Occurred() != nullptr) return nullptr;
  ClientObject* const self = OpenClient(object);
  if (self == nullptr) return nullptr;
  SampleObject* const sample = NewSample();
  if (sample == nullptr) return nullptr;
  const zerocp_code code = zerocp_client_open(self->raw, {instance, chunk}, &sample->right);
  return RightOrFail(sample, code);
}

PyObject* CheckState(PyObject* object, PyObject*) {
  ClientObject* const self = OpenClient(object);
  if (self == nullptr) return nullptr;
  const Calling calling(self);
  const zerocp_code code = WithoutGil([self] { return zerocp_client_state(self->raw); });
  if (code != ZEROCP_OK) return Fail(code);
  Py_RETURN_NONE;
}

PyObject* Regions(PyObject* object, PyObject*) {
  ClientObject* const self = OpenClient(object);
  if (self == nullptr) return nullptr;
  zerocp_region regions[ZEROCP_MAX_POOLS];
  std::size_t count = 0;
  std::uint64_t epoch = 0;
  const zerocp_code code =
      zerocp_client_regions(self->raw, regions, ZEROCP_MAX_POOLS, &count, &epoch);
  if (code != ZEROCP_OK) return Fail(code);
  PyObject* const list = PyList_New(0);
  for (std::size_t i = 0; list != nullptr && i < count; ++i) {
    PyObject* const region = Py_BuildValue("(sKn)", regions[i].pool,
                                           reinterpret_cast<unsigned long long>(regions[i].data),
                                           static_cast<Py_ssize_t>(regions[i].size));
    const bool added = region != nullptr && PyList_Append(list, region) == 0;
    Py_XDECREF(region);
    if (!added) return Py_DECREF(list), nullptr;
  }
  return list != nullptr ? Py_BuildValue("(KN)", static_cast<unsigned long long>(epoch), list)
                         : nullptr;
}

PyMethodDef methods[] = {
    {"new_loan", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(NewLoanMethod)),
     METH_VARARGS | METH_KEYWORDS,
     "new_loan(pool, size, timeout=0)\n--\n\nLoans a chunk of a pool, without a channel. "
     "Exhausted: "
     "none came free in time. TooLarge, HeldLimit, NotFound, Denied."},
    {"open", Open, METH_O,
     "open(handle)\n--\n\nThe Sample that a Handle names, while somebody holds it. Stale: nobody "
     "does. HoldersFull, HeldLimit."},
    {"check_state", CheckState, METH_NOARGS,
     "check_state()\n--\n\nRaises what the daemon is to the client now: Unavailable (away; what is "
     "joined goes on), InstanceLost or Detached (for good). Programs that wait learn it there."},
    {"regions", Regions, METH_NOARGS,
     "regions()\n--\n\nWhere the chunks of each pool are, for who registers memory with a device: "
     "(epoch, [(pool, address, size), ...]). The epoch grows whenever a pool is created, grown or "
     "deleted."},
    {"close", Close, METH_NOARGS,
     "close()\n--\n\nGives the client up. Publishers, subscribers, loans and samples made with it "
     "go on."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", Close, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("See zerocp.Client.")},
                       {Py_tp_new, reinterpret_cast<void*>(New)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc)},
                       {Py_tp_methods, methods},
                       {0, nullptr}};

PyType_Spec spec = {"zerocp._core.Client", sizeof(ClientObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

}  // namespace

ClientObject* OpenClient(PyObject* object) {
  if (PyObject_TypeCheck(object, client_type) == 0) {
    PyErr_SetString(PyExc_TypeError, "this takes a zerocp.Client");
    return nullptr;
  }
  if (Self(object)->raw != nullptr) return Self(object);
  PyErr_SetString(PyExc_ValueError, "this client was closed");
  return nullptr;
}

bool AddClient(PyObject* module) {
  client_type = AddType(module, "Client", spec);
  return client_type != nullptr;
}

}  // namespace zerocp::python
