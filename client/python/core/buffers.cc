// Loan and Sample: the rights to write and to read one chunk, as Python buffers.
//
// Views. Each memoryview or array of a loan or a sample counts. Publishing and sharing need that
// there is none; releasing waits for the last one, so that no view ever points to another's bytes.
#include <cstring>

#include "client/python/core/core.h"

namespace zerocp::python {
namespace {

PyTypeObject* loan_type = nullptr;
PyTypeObject* sample_type = nullptr;
PyTypeObject* handle_type = nullptr;

void Release(LoanObject* loan) { zerocp_loan_release(&loan->right); }
void Release(SampleObject* sample) { zerocp_sample_release(&sample->right); }

bool InUseNow(const LoanObject* loan) { return loan->in_use; }
bool InUseNow(const SampleObject*) { return false; }

template <typename Object>
constexpr const char* kName = "loan";
template <>
constexpr const char* kName<SampleObject> = "sample";

template <typename Object>
bool HasRight(Object* self) {
  if (!InThisProcess(self->made_at)) return false;
  if (InUseNow(self)) return FailInUse(kName<Object>), false;
  if (self->right.opaque[0] != nullptr && !self->given_up) return true;
  PyErr_Format(PyExc_ValueError, "this %s was released%s", kName<Object>,
               std::is_same_v<Object, LoanObject> ? ", shared or published" : "");
  return false;
}

template <typename Object>
PyObject* ReleaseMethod(PyObject* object, PyObject*) {
  auto* const self = reinterpret_cast<Object*>(object);
  if (InUseNow(self)) return FailInUse(kName<Object>);
  self->given_up = true;
  if (self->views == 0) Release(self);
  Py_RETURN_NONE;
}

template <typename Object>
void Dealloc(PyObject* object) {
  Release(reinterpret_cast<Object*>(object));  // nobody views it: a view has a reference
  FreeObject(object);
}

template <typename Object>
int GetBuffer(PyObject* object, Py_buffer* view, int flags) {
  auto* const self = reinterpret_cast<Object*>(object);
  view->obj = nullptr;
  if (!HasRight(self)) return -1;
  const int read_only = std::is_same_v<Object, SampleObject> ? 1 : 0;
  const int status = PyBuffer_FillInfo(view, object, const_cast<void*>(self->right.data),
                                       static_cast<Py_ssize_t>(self->right.size), read_only, flags);
  if (status == 0) ++self->views;
  return status;
}

template <typename Object>
void ReleaseBuffer(PyObject* object, Py_buffer*) {
  auto* const self = reinterpret_cast<Object*>(object);
  if (--self->views == 0 && self->given_up) Release(self);
}

template <typename Object>
Py_ssize_t Length(PyObject* object) {
  auto* const self = reinterpret_cast<Object*>(object);
  return HasRight(self) ? static_cast<Py_ssize_t>(self->right.size) : -1;
}

template <typename Object>
PyObject* GetSize(PyObject* object, void*) {
  auto* const self = reinterpret_cast<Object*>(object);
  return HasRight(self) ? PyLong_FromSize_t(self->right.size) : nullptr;
}

template <typename Object>
PyObject* GetHeader(PyObject* object, void*) {
  auto* const self = reinterpret_cast<Object*>(object);
  if (!HasRight(self)) return nullptr;
  return PyBytes_FromStringAndSize(static_cast<const char*>(self->right.user_header),
                                   ZEROCP_USER_HEADER_BYTES);
}

template <typename Object>
PyObject* GetReleased(PyObject* object, void*) {
  auto* const self = reinterpret_cast<Object*>(object);
  return PyBool_FromLong(self->right.opaque[0] == nullptr || self->given_up ||
                         self->made_at != ForkCount());
}

// What zerocp._array has for it: numpy is only imported by those who want it.
PyObject* CallArray(const char* function, PyObject* self, PyObject* keywords) {
  const Ref module(PyImport_ImportModule("zerocp._array"));
  const Ref callable(module ? PyObject_GetAttrString(module.get(), function) : nullptr);
  const Ref arguments(callable ? PyTuple_Pack(1, self) : nullptr);
  return arguments ? PyObject_Call(callable.get(), arguments.get(), keywords) : nullptr;
}

PyObject* GetArray(PyObject* self, void*) { return CallArray("array_of", self, nullptr); }

PyObject* DlPack(PyObject* self, PyObject* positional, PyObject* keywords) {
  if (PyTuple_Size(positional) != 0) {
    PyErr_SetString(PyExc_TypeError, "__dlpack__ takes keyword arguments only");
    return nullptr;
  }
  return CallArray("dlpack_of", self, keywords);
}

PyObject* DlPackDevice(PyObject*, PyObject*) {
  constexpr int kCpu = 1;  // DLPack's kDLCPU
  return Py_BuildValue("(ii)", kCpu, 0);
}

// Loans only.

PyObject* GetCapacity(PyObject* object, void*) {
  auto* const self = reinterpret_cast<LoanObject*>(object);
  return HasRight(self) ? PyLong_FromSize_t(self->right.capacity) : nullptr;
}

int SetSize(PyObject* object, PyObject* value, void*) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "the size cannot be deleted");
    return -1;
  }
  const Py_ssize_t size = PyNumber_AsSsize_t(value, PyExc_OverflowError);  // runs __index__
  if (size == -1 && PyErr_Occurred() != nullptr) return -1;
  auto* const self = reinterpret_cast<LoanObject*>(object);
  if (!HasRight(self)) return -1;
  if (size < 0 || static_cast<size_t>(size) > self->right.capacity) {
    PyErr_Format(PyExc_ValueError, "a size of %zd is not within 0 and the loan's capacity of %zu",
                 size, self->right.capacity);
    return -1;
  }
  self->right.size = static_cast<size_t>(size);
  return 0;
}

int SetHeader(PyObject* object, PyObject* value, void*) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "the header cannot be deleted");
    return -1;
  }
  Py_buffer bytes{};
  if (PyObject_GetBuffer(value, &bytes, PyBUF_SIMPLE) != 0) return -1;
  // After what may run the program's code (__buffer__): it may have released the loan.
  auto* const self = reinterpret_cast<LoanObject*>(object);
  bool done = HasRight(self);
  if (done && bytes.len > ZEROCP_USER_HEADER_BYTES) {
    PyErr_Format(PyExc_ValueError, "the header has %d bytes, and these are %zd",
                 ZEROCP_USER_HEADER_BYTES, bytes.len);
    done = false;
  }
  if (done) {
    ClearHeader(self->right);
    std::memcpy(self->right.user_header, bytes.buf, static_cast<size_t>(bytes.len));
  }
  PyBuffer_Release(&bytes);
  return done ? 0 : -1;
}

PyObject* Share(PyObject* object, PyObject*) {
  auto* const self = reinterpret_cast<LoanObject*>(object);
  if (!MayGiveAway(self)) return nullptr;
  SampleObject* const sample = NewSample();
  if (sample == nullptr) return nullptr;
  const zerocp_code code = zerocp_loan_share(&self->right, &sample->right);
  return RightOrFail(sample, code);
}

// Samples only.

PyObject* GetSequence(PyObject* object, void*) {
  return PyLong_FromUnsignedLongLong(reinterpret_cast<SampleObject*>(object)->right.sequence);
}

PyObject* GetMissedBefore(PyObject* object, void*) {
  return PyLong_FromUnsignedLongLong(reinterpret_cast<SampleObject*>(object)->right.missed_before);
}

PyObject* GetHandle(PyObject* object, PyObject*) {
  auto* const self = reinterpret_cast<SampleObject*>(object);
  if (!HasRight(self)) return nullptr;
  zerocp_handle handle{};
  const zerocp_code code = zerocp_sample_handle(&self->right, &handle);
  if (code != ZEROCP_OK) return Fail(code);
  Ref result(PyStructSequence_New(handle_type));
  if (!result) return nullptr;
  PyStructSequence_SetItem(result.get(), 0, PyLong_FromUnsignedLongLong(handle.instance));
  PyStructSequence_SetItem(result.get(), 1, PyLong_FromUnsignedLongLong(handle.chunk));
  return PyErr_Occurred() == nullptr ? result.release() : nullptr;
}

const char kReleaseDoc[] =
    "release()\n--\n\nGives it back. While views of it (memoryview, numpy arrays) live, the last "
    "of "
    "them does.";
const char kHeaderDoc[] = "64 bytes beside the message; those of arrays have their shape and type.";
const char kArrayDoc[] =
    "A numpy array of the bytes, in place: with the shape and type that came with them, or one "
    "dimension of uint8. It is a view: see release().";
const char kReleasedDoc[] = "True when there is nothing left to read or write.";
const char kDlPackDoc[] =
    "__dlpack__(**options)\n--\n\nThe array, for numpy.from_dlpack and other consumers; by numpy.";

PyMethodDef loan_methods[] = {
    {"release", ReleaseMethod<LoanObject>, METH_NOARGS, kReleaseDoc},
    {"share", Share, METH_NOARGS,
     "share()\n--\n\nGives up the right to write; returns the Sample, which can be named by its "
     "handle(). BufferError while views live."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", ReleaseMethod<LoanObject>, METH_VARARGS, nullptr},
    {"__dlpack__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(DlPack)),
     METH_VARARGS | METH_KEYWORDS, kDlPackDoc},
    {"__dlpack_device__", DlPackDevice, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef loan_attributes[] = {
    {"size", GetSize<LoanObject>, SetSize,
     "Bytes that will be published: at first all that were asked for. Views keep theirs.", nullptr},
    {"capacity", GetCapacity, nullptr, "Bytes that were asked for.", nullptr},
    {"header", GetHeader<LoanObject>, SetHeader, kHeaderDoc, nullptr},
    {"array", GetArray, nullptr, kArrayDoc, nullptr},
    {"released", GetReleased<LoanObject>, nullptr, kReleasedDoc, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot loan_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "The right to write one chunk: a writable buffer, not cleared. Publishing or "
                    "sharing it ends the right. Belongs to one thread at a time.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc<LoanObject>)},
    {Py_tp_methods, loan_methods},
    {Py_tp_getset, loan_attributes},
    {Py_sq_length, reinterpret_cast<void*>(Length<LoanObject>)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(GetBuffer<LoanObject>)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(ReleaseBuffer<LoanObject>)},
    {0, nullptr}};

PyMethodDef sample_methods[] = {
    {"release", ReleaseMethod<SampleObject>, METH_NOARGS, kReleaseDoc},
    {"handle", GetHandle, METH_NOARGS,
     "handle()\n--\n\nNames the chunk in any process of the instance, for Client.open(). Keep the "
     "sample until the receiver has opened it."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", ReleaseMethod<SampleObject>, METH_VARARGS, nullptr},
    {"__dlpack__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(DlPack)),
     METH_VARARGS | METH_KEYWORDS, kDlPackDoc},
    {"__dlpack_device__", DlPackDevice, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef sample_attributes[] = {
    {"size", GetSize<SampleObject>, nullptr, "Bytes of the message.", nullptr},
    {"header", GetHeader<SampleObject>, nullptr, kHeaderDoc, nullptr},
    {"sequence", GetSequence, nullptr,
     "The message's number, counted per publisher from 1; 0: it was not published.", nullptr},
    {"missed_before", GetMissedBefore, nullptr,
     "Messages that the subscriber lost between its last sample and this.", nullptr},
    {"array", GetArray, nullptr, kArrayDoc, nullptr},
    {"released", GetReleased<SampleObject>, nullptr, kReleasedDoc, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot sample_slots[] = {
    {Py_tp_doc,
     const_cast<char*>("The right to read one chunk: a read-only buffer. Others may read the same "
                       "bytes. Without references, and without views, it is released.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc<SampleObject>)},
    {Py_tp_methods, sample_methods},
    {Py_tp_getset, sample_attributes},
    {Py_sq_length, reinterpret_cast<void*>(Length<SampleObject>)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(GetBuffer<SampleObject>)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(ReleaseBuffer<SampleObject>)},
    {0, nullptr}};

constexpr unsigned kFlags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
PyType_Spec loan_spec = {"zerocp.Loan", sizeof(LoanObject), 0, kFlags, loan_slots};
PyType_Spec sample_spec = {"zerocp.Sample", sizeof(SampleObject), 0, kFlags, sample_slots};

PyStructSequence_Field handle_fields[] = {{"instance", "The daemon's segments."},
                                          {"chunk", "The chunk and its use."},
                                          {nullptr, nullptr}};
PyStructSequence_Desc handle_description = {
    "zerocp.Handle",
    "Names a shared chunk in any process of the instance. Not a secret; send it by any means.",
    handle_fields, 2};

template <typename Object>
PyObject* OrFail(Object* object, zerocp_code code) {
  auto* const result = reinterpret_cast<PyObject*>(object);
  if (code == ZEROCP_OK) return result;
  Py_DECREF(result);
  return Fail(code);
}

template <typename Object>
Object* New(PyTypeObject* type) {
  auto* const object = reinterpret_cast<Object*>(PyType_GenericAlloc(type, 0));
  if (object != nullptr) object->made_at = ForkCount();  // the rest is zero: no right
  return object;
}

}  // namespace

LoanObject* NewLoan() { return New<LoanObject>(loan_type); }
SampleObject* NewSample() { return New<SampleObject>(sample_type); }

PyObject* RightOrFail(LoanObject* loan, zerocp_code code) {
  if (code == ZEROCP_OK) ClearHeader(loan->right);
  return OrFail(loan, code);
}
PyObject* RightOrFail(SampleObject* sample, zerocp_code code) { return OrFail(sample, code); }

bool IsLoan(PyObject* object) { return Py_IS_TYPE(object, loan_type) != 0; }

bool MayGiveAway(LoanObject* loan) {
  if (!HasRight(loan)) return false;
  if (loan->views == 0) return true;
  PyErr_Format(PyExc_BufferError,
               "%zd views of this loan live (memoryview or numpy array): they could write to what "
               "others read. Delete or release them first",
               loan->views);
  return false;
}

bool AddBuffers(PyObject* module) {
  loan_type = AddType(module, "Loan", loan_spec);
  sample_type = AddType(module, "Sample", sample_spec);
  handle_type = PyStructSequence_NewType(&handle_description);
  return loan_type != nullptr && sample_type != nullptr && handle_type != nullptr &&
         PyModule_AddObjectRef(module, "Handle", reinterpret_cast<PyObject*>(handle_type)) == 0;
}

}  // namespace zerocp::python
