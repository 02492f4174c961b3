// Publisher: joined to a channel, sends loans.
#include <cstring>

#include "client/python/core/core.h"

namespace zerocp::python {
namespace {

PyTypeObject* published_type = nullptr;

struct PublisherObject {
  PyObject_HEAD zerocp_publisher* raw;
  bool in_use;
};

// The open publisher that no other thread uses; nullptr with an exception.
PublisherObject* Usable(PyObject* object) {
  auto* const self = reinterpret_cast<PublisherObject*>(object);
  if (self->in_use) return FailInUse("publisher"), nullptr;
  if (self->raw != nullptr) return self;
  PyErr_SetString(PyExc_ValueError, "this publisher was closed");
  return nullptr;
}

PyObject* New(PyTypeObject* type, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"client", "channel", "message_type", nullptr};
  PyObject* client = nullptr;
  const char* channel = nullptr;
  const char* message_type = nullptr;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "Os|z:Publisher", const_cast<char**>(names),
                                  &client, &channel, &message_type) == 0) {
    return nullptr;
  }
  ClientObject* const from = OpenClient(client);
  PyObject* const self = from != nullptr ? PyType_GenericAlloc(type, 0) : nullptr;
  if (self == nullptr) return nullptr;
  const zerocp_join_options options{sizeof(options), message_type, 0, 0, 0, 0};
  zerocp_publisher** const raw = &reinterpret_cast<PublisherObject*>(self)->raw;
  const Calling calling(from);
  const zerocp_code code =
      WithoutGil([&] { return zerocp_join_publisher(from->raw, channel, &options, raw); });
  if (code == ZEROCP_OK) return self;
  Py_DECREF(self);
  return Fail(code);
}

void Dealloc(PyObject* object) {
  CloseWithoutGil(reinterpret_cast<PublisherObject*>(object)->raw, zerocp_publisher_close);
  FreeObject(object);
}

PyObject* Close(PyObject* object, PyObject*) {
  auto* const self = reinterpret_cast<PublisherObject*>(object);
  if (self->in_use) return FailInUse("publisher");
  zerocp_publisher* const raw = self->raw;
  self->raw = nullptr;
  CloseWithoutGil(raw, zerocp_publisher_close);
  Py_RETURN_NONE;
}

zerocp_code Loan(PublisherObject* self, size_t size, std::int64_t timeout_ns, zerocp_loan& loan) {
  const InUse in_use(self->in_use);
  return WaitWithoutGil(
      timeout_ns, ZEROCP_EXHAUSTED,
      [&](std::int64_t slice_ns) {
        return zerocp_publisher_loan(self->raw, size, slice_ns, &loan);
      },
      kLoanSliceNs);
}

// A published loan, or an exception and the loan as it was.
PyObject* PublishRaw(PublisherObject* self, zerocp_loan& loan, std::int64_t timeout_ns) {
  zerocp_published published{};
  zerocp_code code = ZEROCP_OK;
  {
    const InUse in_use(self->in_use);
    code = WaitWithoutGil(timeout_ns, ZEROCP_TIMEOUT, [&](std::int64_t slice_ns) {
      return zerocp_publisher_publish(self->raw, &loan, slice_ns, &published);
    });
  }
  if (code != ZEROCP_OK)
    return Fail(code, "a subscriber's queue stayed full; nobody got the message");
  Ref result(PyStructSequence_New(published_type));
  if (!result) return nullptr;
  PyStructSequence_SetItem(result.get(), 0, PyLong_FromLong(published.delivered));
  PyStructSequence_SetItem(result.get(), 1, PyLong_FromLong(published.dropped));
  return PyErr_Occurred() == nullptr ? result.release() : nullptr;
}

PyObject* NewLoanMethod(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"size", "timeout", nullptr};
  Py_ssize_t size = 0;
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "n|O:new_loan", const_cast<char**>(names),
                                  &size, &seconds) == 0 ||
      (seconds != nullptr && !ToTimeout(seconds, timeout_ns))) {
    return nullptr;
  }
  if (size < 0) return PyErr_SetString(PyExc_ValueError, "a size is at least 0"), nullptr;
  PublisherObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  LoanObject* const loan = NewLoan();
  if (loan == nullptr) return nullptr;
  const zerocp_code code = Loan(self, static_cast<size_t>(size), timeout_ns, loan->right);
  return RightOrFail(loan, code);
}

PyObject* Publish(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"loan", "timeout", nullptr};
  PyObject* loan_object = nullptr;
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "O|O:publish", const_cast<char**>(names),
                                  &loan_object, &seconds) == 0 ||
      !ToTimeout(seconds, timeout_ns)) {
    return nullptr;
  }
  if (!IsLoan(loan_object)) {
    PyErr_SetString(PyExc_TypeError,
                    "publish() takes a Loan of this client; send() copies any bytes");
    return nullptr;
  }
  PublisherObject* const self = Usable(object);
  auto* const loan = reinterpret_cast<LoanObject*>(loan_object);
  if (self == nullptr || !MayGiveAway(loan)) return nullptr;
  const InUse in_use(loan->in_use);
  return PublishRaw(self, loan->right, timeout_ns);
}

// One copy, into the chunk.
PyObject* SendBytes(PublisherObject* self, const Py_buffer& data, const Py_buffer& header,
                    std::int64_t timeout_ns) {
  const std::int64_t start = MonotonicNs();
  zerocp_loan loan{};
  const auto size = static_cast<size_t>(data.len);
  const zerocp_code code = Loan(self, size, timeout_ns, loan);
  if (code != ZEROCP_OK) return Fail(code);
  ClearHeader(loan);
  if (header.buf != nullptr)
    std::memcpy(loan.user_header, header.buf, static_cast<size_t>(header.len));
  {
    const InUse in_use(self->in_use);
    WithoutGil([&] {
      if (size != 0) std::memcpy(loan.data, data.buf, size);
      return ZEROCP_OK;
    });
  }
  if (timeout_ns > 0) timeout_ns = std::max<std::int64_t>(0, timeout_ns - (MonotonicNs() - start));
  PyObject* const result = PublishRaw(self, loan, timeout_ns);
  zerocp_loan_release(&loan);  // nothing if it was published
  return result;
}

PyObject* Send(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"data", "header", "timeout", nullptr};
  PyObject* data_object = nullptr;
  PyObject* header_object = Py_None;
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "O|OO:send", const_cast<char**>(names),
                                  &data_object, &header_object, &seconds) == 0 ||
      !ToTimeout(seconds, timeout_ns)) {
    return nullptr;
  }
  Py_buffer data{};
  Py_buffer header{};
  if (PyObject_GetBuffer(data_object, &data, PyBUF_SIMPLE) != 0) return nullptr;
  PyObject* result = nullptr;
  if (header_object == Py_None || PyObject_GetBuffer(header_object, &header, PyBUF_SIMPLE) == 0) {
    // After what may run the program's code (__buffer__): it may have closed the publisher.
    PublisherObject* const self = Usable(object);
    if (header.len <= ZEROCP_USER_HEADER_BYTES) {
      result = self != nullptr ? SendBytes(self, data, header, timeout_ns) : nullptr;
    } else if (self != nullptr) {
      PyErr_Format(PyExc_ValueError, "the header has %d bytes, and these are %zd",
                   ZEROCP_USER_HEADER_BYTES, header.len);
    }
  }
  PyBuffer_Release(&header);
  PyBuffer_Release(&data);
  return result;
}

PyObject* WaitForSubscribers(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"count", "timeout", nullptr};
  int count = 1;
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "|iO:wait_for_subscribers",
                                  const_cast<char**>(names), &count, &seconds) == 0 ||
      !ToTimeout(seconds, timeout_ns)) {
    return nullptr;
  }
  PublisherObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  std::int32_t present = 0;
  zerocp_code code = ZEROCP_OK;
  {
    const InUse in_use(self->in_use);
    code = WaitWithoutGil(timeout_ns, ZEROCP_TIMEOUT, [&](std::int64_t slice_ns) {
      return zerocp_publisher_wait(self->raw, count, slice_ns, &present);
    });
  }
  return code == ZEROCP_OK ? PyLong_FromLong(present)
                           : Fail(code, "too few subscribers joined in time");
}

PyObject* GetMaxBytes(PyObject* object, void*) {
  const PublisherObject* const self = Usable(object);
  return self != nullptr ? PyLong_FromSize_t(zerocp_publisher_max_bytes(self->raw)) : nullptr;
}

PyCFunction WithKeywords(PyObject* (*function)(PyObject*, PyObject*, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"new_loan", WithKeywords(NewLoanMethod), METH_VARARGS | METH_KEYWORDS,
     "new_loan(size, timeout=0)\n--\n\nLoans a chunk of the channel's pool, to be written in place "
     "and published. Exhausted: none came free in time. TooLarge, HeldLimit."},
    {"publish", WithKeywords(Publish), METH_VARARGS | METH_KEYWORDS,
     "publish(loan, timeout=None)\n--\n\nSends the loan to every subscriber, or to nobody: after "
     "an "
     "exception the loan is as it was. Waits while a subscriber's queue is full (Timeout); lossy "
     "ones, and a channel that drops, lose their oldest message instead. BufferError while views "
     "of "
     "the loan live."},
    {"send", WithKeywords(Send), METH_VARARGS | METH_KEYWORDS,
     "send(data, header=None, timeout=None)\n--\n\nCopies bytes into a loan and publishes it: for "
     "small messages. `timeout` is for both."},
    {"wait_for_subscribers", WithKeywords(WaitForSubscribers), METH_VARARGS | METH_KEYWORDS,
     "wait_for_subscribers(count=1, timeout=None)\n--\n\nWaits until the channel has at least so "
     "many; returns how many it has."},
    {"close", Close, METH_NOARGS,
     "close()\n--\n\nLeaves the channel. What was sent stays deliverable, then its subscribers see "
     "the end of the stream."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", Close, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef attributes[] = {
    {"max_bytes", GetMaxBytes, nullptr, "Largest message that the channel carries.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("See zerocp.Publisher.")},
                       {Py_tp_new, reinterpret_cast<void*>(New)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc)},
                       {Py_tp_methods, methods},
                       {Py_tp_getset, attributes},
                       {0, nullptr}};

PyType_Spec spec = {"zerocp._core.Publisher", sizeof(PublisherObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

PyStructSequence_Field published_fields[] = {
    {"delivered", "Subscribers that will see the message."},
    {"dropped", "Older messages that lossy subscribers lost to make room for it."},
    {nullptr, nullptr}};
PyStructSequence_Desc published_description = {"zerocp.Published", "What came of a publish.",
                                               published_fields, 2};

}  // namespace

bool AddPublisher(PyObject* module) {
  published_type = PyStructSequence_NewType(&published_description);
  return published_type != nullptr && AddType(module, "Publisher", spec) != nullptr &&
         PyModule_AddObjectRef(module, "Published", reinterpret_cast<PyObject*>(published_type)) ==
             0;
}

}  // namespace zerocp::python
