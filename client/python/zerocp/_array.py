"""Arrays: numpy's shape and type in the 64 bytes beside a message, so that any language can read
them.

    0    4   "zcA1"
    4    1   dimensions, at most 6
    5   11   type as numpy's dtype.str ("<f4", "|u1", "<M8[ns]"), then zeros
    16  48   length of each dimension, 64 bits each, little-endian

Elements are in C order. What is read here a peer wrote: it is checked before it is believed.
"""

import math
import struct

import numpy

_HEADER = struct.Struct("<4sB11s6Q")
_MAGIC = b"zcA1"
_MOST_DIMENSIONS = 6
_KINDS = "biufcmMSUV"  # never objects


def pack_header(shape, dtype):
    """Returns the header's bytes and the array's size in bytes. ValueError, TypeError."""
    dtype = numpy.dtype(dtype)
    name = dtype.str.encode()
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if dtype.hasobject:
        raise TypeError(f"an array of {dtype} holds Python objects, which are this process's own")
    if dtype.names or dtype.subdtype or len(name) > 11:
        raise TypeError(f"the message's header has no room for the type {dtype}: send its bytes ('view(\"u1\")')")
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"the message's header has room for {_MOST_DIMENSIONS} dimensions, not for {len(shape)}")
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape has no negative lengths: {shape}")
    padded = shape + (0,) * (_MOST_DIMENSIONS - len(shape))
    return _HEADER.pack(_MAGIC, len(shape), name, *padded), math.prod(shape) * dtype.itemsize


def _layout(header, size):
    """Shape and type for `size` bytes. A message without them is one dimension of bytes."""
    magic, dimensions, name, *shape = _HEADER.unpack(header)
    if magic != _MAGIC:
        return (size,), numpy.dtype("u1")
    try:
        dtype = numpy.dtype(name.rstrip(b"\0").decode("ascii"))
    except (TypeError, UnicodeDecodeError, SyntaxError, ValueError):
        dtype = None
    shape = tuple(shape[:dimensions])
    if dtype is None or dtype.kind not in _KINDS or dtype.names or dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"the message's header names no type and shape that numpy has: {header!r}")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of {shape} {dtype} is not {size} bytes, as the message is")
    return shape, dtype


def array_of(buffer):
    shape, dtype = _layout(buffer.header, buffer.size)
    # frombuffer() keeps a view of the buffer for as long as it lives; ndarray() alone does not.
    return numpy.ndarray(shape, dtype, numpy.frombuffer(buffer, "u1"))


def dlpack_of(buffer, **options):
    return array_of(buffer).__dlpack__(**options)
