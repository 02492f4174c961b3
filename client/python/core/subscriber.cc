// Subscriber: joined to a channel, takes samples.
#include "client/python/core/core.h"

namespace zerocp::python {
namespace {

struct SubscriberObject {
  PyObject_HEAD zerocp_subscriber* raw;
  bool in_use;
};

// The open subscriber that no other thread uses; nullptr with an exception.
SubscriberObject* Usable(PyObject* object) {
  auto* const self = reinterpret_cast<SubscriberObject*>(object);
  if (self->in_use) return FailInUse("subscriber"), nullptr;
  if (self->raw != nullptr) return self;
  PyErr_SetString(PyExc_ValueError, "this subscriber was closed");
  return nullptr;
}

PyObject* New(PyTypeObject* type, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"client", "channel",      "queue_capacity",
                                      "lossy",  "message_type", nullptr};
  PyObject* client = nullptr;
  const char* channel = nullptr;
  int queue_capacity = 0;
  int lossy = 0;
  const char* message_type = nullptr;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "Os|ipz:Subscriber",
                                  const_cast<char**>(names), &client, &channel, &queue_capacity,
                                  &lossy, &message_type) == 0) {
    return nullptr;
  }
  ClientObject* const from = OpenClient(client);
  PyObject* const self = from != nullptr ? PyType_GenericAlloc(type, 0) : nullptr;
  if (self == nullptr) return nullptr;
  const zerocp_join_options options{sizeof(options), message_type, queue_capacity, lossy, 0, 0};
  zerocp_subscriber** const raw = &reinterpret_cast<SubscriberObject*>(self)->raw;
  const Calling calling(from);
  const zerocp_code code =
      WithoutGil([&] { return zerocp_join_subscriber(from->raw, channel, &options, raw); });
  if (code == ZEROCP_OK) return self;
  Py_DECREF(self);
  return Fail(code);
}

void Dealloc(PyObject* object) {
  CloseWithoutGil(reinterpret_cast<SubscriberObject*>(object)->raw, zerocp_subscriber_close);
  FreeObject(object);
}

PyObject* Close(PyObject* object, PyObject*) {
  auto* const self = reinterpret_cast<SubscriberObject*>(object);
  if (self->in_use) return FailInUse("subscriber");
  zerocp_subscriber* const raw = self->raw;
  self->raw = nullptr;
  CloseWithoutGil(raw, zerocp_subscriber_close);
  Py_RETURN_NONE;
}

// Takes the next message; nullptr with a code, or with an exception (kInterrupted).
PyObject* TakeRaw(SubscriberObject* self, std::int64_t timeout_ns, zerocp_code& code) {
  SampleObject* const sample = NewSample();
  code = kInterrupted;
  if (sample == nullptr) return nullptr;
  {
    const InUse in_use(self->in_use);
    code = WaitWithoutGil(timeout_ns, ZEROCP_TIMEOUT, [&](std::int64_t slice_ns) {
      return zerocp_subscriber_take(self->raw, slice_ns, &sample->right);
    });
  }
  if (code == ZEROCP_OK) return reinterpret_cast<PyObject*>(sample);
  Py_DECREF(reinterpret_cast<PyObject*>(sample));
  return nullptr;
}

PyObject* Take(PyObject* object, PyObject* positional, PyObject* keywords) {
  static const char* const names[] = {"timeout", nullptr};
  PyObject* seconds = nullptr;
  std::int64_t timeout_ns = 0;
  if (PyArg_ParseTupleAndKeywords(positional, keywords, "|O:take", const_cast<char**>(names),
                                  &seconds) == 0 ||
      !ToTimeout(seconds, timeout_ns)) {
    return nullptr;
  }
  SubscriberObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  zerocp_code code = ZEROCP_OK;
  PyObject* const sample = TakeRaw(self, timeout_ns, code);
  return sample != nullptr ? sample : Fail(code, "no message came in time");
}

PyObject* TryTake(PyObject* object, PyObject*) {
  SubscriberObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  zerocp_code code = ZEROCP_OK;
  PyObject* const sample = TakeRaw(self, 0, code);
  if (sample != nullptr) return sample;
  if (code == ZEROCP_TIMEOUT) Py_RETURN_NONE;
  return Fail(code);
}

PyObject* Next(PyObject* object) {
  SubscriberObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  zerocp_code code = ZEROCP_OK;
  PyObject* const sample = TakeRaw(self, ZEROCP_FOREVER, code);
  if (sample != nullptr || code == ZEROCP_END_OF_STREAM) return sample;  // the end: no exception
  return Fail(code);
}

PyObject* FileNo(PyObject* object, PyObject*) {
  SubscriberObject* const self = Usable(object);
  if (self == nullptr) return nullptr;
  std::int32_t fd = -1;
  const zerocp_code code = zerocp_subscriber_fd(self->raw, &fd);
  return code == ZEROCP_OK ? PyLong_FromLong(fd) : Fail(code);
}

PyMethodDef methods[] = {
    {"take", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(Take)),
     METH_VARARGS | METH_KEYWORDS,
     "take(timeout=None)\n--\n\nThe next message as a Sample. Timeout: none came. EndOfStream, "
     "PublisherDied: every publisher that was there is gone and nothing is left; said once, then "
     "the call waits for the next publisher. HeldLimit: as many samples as may be are held. "
     "Detached, ChannelDeleted, Damaged."},
    {"try_take", TryTake, METH_NOARGS,
     "try_take()\n--\n\nThe same without waiting: None if there is no message."},
    {"fileno", FileNo, METH_NOARGS,
     "fileno()\n--\n\nA descriptor for select and event loops: readable when try_take() would not "
     "return None; take until it does, then wait again. The subscriber's: never read or close "
     "it."},
    {"close", Close, METH_NOARGS,
     "close()\n--\n\nLeaves the channel. What waits in the queue is let go; samples stay."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", Close, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("See zerocp.Subscriber.")},
                       {Py_tp_new, reinterpret_cast<void*>(New)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc)},
                       {Py_tp_methods, methods},
                       {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
                       {Py_tp_iternext, reinterpret_cast<void*>(Next)},
                       {0, nullptr}};

PyType_Spec spec = {"zerocp._core.Subscriber", sizeof(SubscriberObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

}  // namespace

bool AddSubscriber(PyObject* module) { return AddType(module, "Subscriber", spec) != nullptr; }

}  // namespace zerocp::python
