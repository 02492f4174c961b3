"""Worker processes make arrays in shared memory, and the main process gets them without a copy.

usage: spawned_workers.py COUNT

What travels through multiprocessing's queues is a handle of 16 bytes. The same class goes through
the queues of a PyTorch DataLoader: torch_loader.py. How to run both: client/python/README.md.
"""

import collections
import multiprocessing
import sys

import numpy
import zerocp

IN_FLIGHT = 4  # batches that are asked for, and that the main process has not received


class Process:
    """What this process has: a client of its own, which does not survive a fork."""

    client = None
    kept = collections.deque(maxlen=IN_FLIGHT + 1)

    @classmethod
    def connect(cls):
        if cls.client is None:
            cls.client = zerocp.Client(name="batches")
        return cls.client


class Batch:
    """An array that is pickled as the handle of its chunk, and opened where it is unpickled.

    A handle keeps nothing alive: a worker keeps as many of its last batches as can be on the way.
    """

    def __init__(self, source):
        array = numpy.asarray(source)
        loan = Process.connect().new_loan("batches", array.nbytes, timeout=None)
        numpy.frombuffer(loan, array.dtype).reshape(array.shape)[...] = array
        self.layout = array.shape, array.dtype.str
        self.sample = loan.share()

    def __reduce__(self):
        Process.kept.append(self.sample)
        return Batch.open, (tuple(self.sample.handle()), self.layout)

    @classmethod
    def open(cls, handle, layout):
        batch = cls.__new__(cls)
        batch.sample, batch.layout = Process.connect().open(handle), layout
        return batch

    @property
    def array(self):
        """Read-only, and good for as long as somebody has it."""
        shape, dtype = self.layout
        return numpy.frombuffer(self.sample, dtype).reshape(shape)


def make(number):
    return Batch(numpy.full((256, 256), number, "f4"))


def main(count):
    asked, total = collections.deque(), 0.0
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number in range(count + IN_FLIGHT):
            if number < count:
                asked.append(pool.apply_async(make, (number,)))
            if number >= IN_FLIGHT:
                total += float(asked.popleft().get().array.mean())
    print(f"{count} batches, sum of means {total:g}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: spawned_workers.py COUNT")
    main(int(sys.argv[1]))
