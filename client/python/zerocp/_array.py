"""Arrays: numpy's shape and type in the 64 bytes beside a message, so that any language can read
them.

    0    4   "zcA1"
    4    1   dimensions, at most 6
    5   11   type as numpy's dtype.str ("<f4", "|u1", "<M8[ns]"), then zeros
    16  48   length of each dimension, 64 bits each, little-endian

Elements are in C order. What is read here a peer wrote: it is checked before it is believed.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy
import numpy.typing

from ._core import Loan, Sample

_HEADER = struct.Struct("<4sB11s6Q")
_MAGIC = b"zcA1"
_MOST_DIMENSIONS = 6
# What numpy.dtype() is given of a peer's bytes: it believes more than it should ("m8[s/0]").
_NAME = re.compile(rb"[<>|](?:[biufcSUV][1-9][0-9]{0,8}|[mM]8(?:\[[1-9]?[0-9]{0,3}[a-zA-Z]{1,2}\])?)")


def pack_header(shape: int | Sequence[int], dtype: numpy.typing.DTypeLike) -> tuple[bytes, int]:
    """Returns the header's bytes and the array's size in bytes. ValueError, TypeError."""
    dtype = numpy.dtype(dtype)
    name = dtype.str.encode()
    lengths: tuple[int, ...]
    try:
        lengths = (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        lengths = tuple(operator.index(length) for length in shape)  # type: ignore[union-attr]
    if dtype.hasobject:
        raise TypeError(f"an array of {dtype} holds Python objects, which are this process's own")
    if dtype.names or dtype.subdtype or len(name) > 11:
        raise TypeError(
            f"the message's header has no room for the type {dtype}: send(array) sends the bytes, and "
            "numpy.frombuffer(sample, dtype) is the array again"
        )
    if len(lengths) > _MOST_DIMENSIONS:
        raise ValueError(f"the message's header has room for {_MOST_DIMENSIONS} dimensions, not for {len(lengths)}")
    if any(not 0 <= length < 1 << 63 for length in lengths):
        raise ValueError(f"a shape has lengths of 0 to 63 bits: {lengths}")
    padded = lengths + (0,) * (_MOST_DIMENSIONS - len(lengths))
    return _HEADER.pack(_MAGIC, len(lengths), name, *padded), math.prod(lengths) * dtype.itemsize


def _layout(header: bytes, size: int) -> tuple[tuple[int, ...], numpy.dtype[Any]]:
    """Shape and type for `size` bytes. A message without them is one dimension of bytes."""
    magic, dimensions, name, *lengths = _HEADER.unpack(header)
    if magic != _MAGIC:
        return (size,), numpy.dtype("u1")
    name, dtype = name.rstrip(b"\0"), None
    if _NAME.fullmatch(name):
        try:
            dtype = numpy.dtype(name.decode())
        except (TypeError, ValueError, OverflowError):
            pass
    if dtype is None or dtype.str.encode() != name or dtype.itemsize < 1 or dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"the message's header names no type and shape that numpy has: {header!r}")
    shape = tuple(lengths[:dimensions])
    if math.prod(shape) * dtype.itemsize != size or max(shape, default=0) >= 1 << 63:
        raise ValueError(f"an array of {shape} {dtype} is not {size} bytes, as the message is")
    return shape, dtype


def array_of(buffer: Loan | Sample) -> numpy.ndarray[Any, Any]:
    shape, dtype = _layout(buffer.header, buffer.size)
    # frombuffer() keeps a view of the buffer for as long as it lives; ndarray() alone does not.
    return numpy.ndarray(shape, dtype, numpy.frombuffer(cast(Any, buffer), "u1"))


def dlpack_of(buffer: Loan | Sample, **options: Any) -> Any:
    return array_of(buffer).__dlpack__(**options)
