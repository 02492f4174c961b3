"""Large buffers from process to process without copies: the client of zerocpd for Python.

    import zerocp
    client = zerocp.Client()
    publisher = client.join_publisher("frames")
    loan = publisher.new_loan(640 * 480)      # a writable buffer in shared memory
    camera.read_into(memoryview(loan))
    publisher.publish(loan)                   # to every subscriber; no copy

    for sample in client.join_subscriber("frames"):
        show(numpy.frombuffer(sample, "u1"))  # the same bytes, read-only

A sample is released when it and all views of it (memoryview, numpy arrays) are gone. Timeouts are
seconds; None waits for ever. Every failure is a subclass of zerocp.Error. A client may be used by
any number of threads at once; a publisher, a subscriber and a loan by one at a time (RuntimeError
otherwise). After a fork the child has none of it: start workers by 'spawn', or connect in them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from . import _core, _errors
from ._core import Handle, Loan, Published, Sample
from ._errors import *  # noqa: F403

if TYPE_CHECKING:
    import numpy
    import numpy.typing

__all__ = ["Client", "Handle", "Loan", "Published", "Publisher", "Sample", "Subscriber", "attach"]
__all__ += _errors.__all__
__version__ = _core.library_version


class Publisher(_core.Publisher):
    """Sends messages to a channel. Made by Client.join_publisher(); a context manager."""

    def new_array(
        self, shape: int | Sequence[int], dtype: numpy.typing.DTypeLike = "u1", timeout: float | None = 0
    ) -> Loan:
        """Loans a chunk for a numpy array: fill `loan.array[...]`, then publish(loan).

        The shape and the type travel in the message's header.
        """
        from . import _array

        header, size = _array.pack_header(shape, dtype)
        loan = self.new_loan(size, timeout)
        loan.header = header
        return loan

    def publish_array(self, array: numpy.ndarray[Any, Any], timeout: float | None = None) -> Published:
        """Copies a numpy array, once, into a chunk, and publishes it; see new_array() for none."""
        end = None if timeout is None else time.monotonic() + timeout
        loan = self.new_array(array.shape, array.dtype, timeout)
        loan.array[...] = array
        return self.publish(loan, None if end is None else max(0, end - time.monotonic()))


class Subscriber(_core.Subscriber):
    """Takes messages of a channel. Made by Client.join_subscriber(); a context manager.

    An iterator of samples, `for` and `async for`: it ends with the stream (EndOfStream); that a
    publisher died instead of closing is an exception, PublisherDied.
    """

    def take_array(self, timeout: float | None = None) -> numpy.ndarray[Any, Any]:
        """The next message as a read-only numpy array in shared memory, released with the array."""
        return self.take(timeout).array

    _waiting: asyncio.Future[None] | None = None  # of take_async

    async def take_async(self) -> Sample:
        """take() for asyncio: other tasks run while no message is there. One task at a time."""
        while True:
            sample = self.try_take()
            if sample is not None:
                return sample
            await self._readable()

    async def _readable(self) -> None:
        if self._waiting is not None:
            raise RuntimeError("another task waits for this subscriber: one at a time")
        loop = asyncio.get_running_loop()
        fd = self.fileno()
        ready = self._waiting = loop.create_future()

        def come() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(fd, come)
        try:
            await ready
        finally:
            if self._waiting is ready:  # close() has not done it
                self._waiting = None
                loop.remove_reader(fd)

    def close(self) -> None:
        """Leaves the channel. What waits in the queue is let go; samples stay."""
        if self._waiting is not None:
            ready, self._waiting = self._waiting, None
            ready.get_loop().remove_reader(self.fileno())
            if not ready.done():
                ready.set_exception(ValueError("this subscriber was closed"))
        super().close()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sample:
        try:
            return await self.take_async()
        except EndOfStream as end:  # noqa: F405
            if isinstance(end, PublisherDied):  # noqa: F405
                raise
            raise StopAsyncIteration from None


class Client(_core.Client):
    """An attachment to a daemon on this machine; a context manager.

    Client(runtime_dir=None, *, name=None, read_only=False): `runtime_dir` is the daemon's directory
    (default: $ZEROCP_RUNTIME_DIR, or where daemons usually are), `name` what operators see.
    Unavailable: no daemon answers; the text lists every path tried. VersionMismatch, Denied, Limit.
    """

    def __new__(cls, runtime_dir: str | os.PathLike[str] | None = None, **options: Any) -> Self:
        return super().__new__(cls, None if runtime_dir is None else os.fspath(runtime_dir), **options)

    def join_publisher(self, channel: str, message_type: str | None = None) -> Publisher:
        """Joins a channel to send. NotFound, TypeMismatch, Limit, Denied (a read-only client)."""
        return Publisher(self, channel, message_type)

    def join_subscriber(
        self, channel: str, *, queue_capacity: int = 0, lossy: bool = False, message_type: str | None = None
    ) -> Subscriber:
        """Joins a channel to take what is published from now on, after its history.

        `queue_capacity`: messages of one publisher that may wait, 1 (the latest only) to the
        channel's; 0: the channel's. `lossy`: on a waiting channel too, lose the oldest messages
        instead of making publishers wait. NotFound, TypeMismatch, Limit, Invalid.
        """
        return Subscriber(self, channel, queue_capacity, lossy, message_type)


def attach(token: bytes, socket: str, name: str | None = None) -> Client:
    """A Client by the token of a CreateSession over gRPC, on the attach socket that it named.

    Denied: the token is wrong, used, or older than 10 s.
    """
    return Client(None, name=name, token=token, socket=socket)
