"""The Python package zerocp, against a real daemon: rights and views, arrays, waiting, forks, ends."""

import asyncio
import ctypes
import gc
import multiprocessing
import os
import pathlib
import pickle
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import unittest

import numpy
import zerocp
from daemon import BIN, Daemon

POOLS = ("frames=4096x16", "big=1MiBx4")
CHANNELS = ("wait=frames,queue=4", "drop=frames,queue=4,when-full=drop", "typed=frames,queue=4",
            "tight=frames,queue=4,max-held=2", "wide=big,queue=2")  # fmt: skip


class PythonTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(POOLS, CHANNELS)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def setUp(self):
        self.client = zerocp.Client(self.daemon.runtime_dir, name="test")

    def tearDown(self):
        gc.collect()
        self.client.close()
        self.daemon.command("audit")  # fails when it finds something

    def pair(self, channel="wait"):
        return self.client.join_publisher(channel), self.client.join_subscriber(channel)


class Rights(PythonTest):
    def test_what_is_written_in_place_is_read_in_place_without_a_copy(self):
        publisher, subscriber = self.pair()
        loan = publisher.new_loan(1000)
        self.assertEqual((loan.size, loan.capacity, len(loan)), (1000, 1000, 1000))
        with memoryview(loan) as view:
            view[:5] = b"hello"
        written_at = ctypes.addressof(ctypes.c_char.from_buffer(loan))
        gc.collect()
        loan.header = b"h"
        self.assertEqual(publisher.publish(loan), (1, 0))
        self.assertTrue(loan.released)
        sample = subscriber.take(10)
        self.assertEqual(bytes(sample)[:5], b"hello")
        self.assertEqual(sample.header, b"h" + bytes(63))
        self.assertEqual((sample.sequence, sample.missed_before), (1, 0))
        self.assertEqual(numpy.frombuffer(sample, "u1").ctypes.data, written_at)

    def test_regions_say_where_chunks_are(self):
        big = (1 << 20) + 64  # an odd number of cache lines
        epoch, regions = self.client.regions()
        self.assertEqual(sorted((pool, size) for pool, _, size in regions), [("big", 4 * big), ("frames", 16 * (4096 + 64))])
        address = next(address for pool, address, _ in regions if pool == "big")
        loan = self.client.new_loan("big", 100)
        offset = ctypes.addressof(ctypes.c_char.from_buffer(loan)) - address
        self.assertIn(offset, range(0, 4 * big, big))
        self.daemon.command("pools", "create", "more", "4KiB", "4")
        self.assertGreater(self.client.regions()[0], epoch)
        self.daemon.command("pools", "delete", "more")

    def test_a_loan_with_views_is_not_published(self):
        publisher, subscriber = self.pair()
        loan = publisher.new_loan(100)
        array = numpy.frombuffer(loan, "u1")
        with self.assertRaisesRegex(BufferError, "1 views"):
            publisher.publish(loan)
        with self.assertRaises(BufferError):
            loan.share()
        array[:] = 7
        del array
        shaped = loan.array
        with self.assertRaises(BufferError):
            publisher.publish(loan)
        del shaped
        publisher.publish(loan)
        self.assertEqual(bytes(subscriber.take(10)), b"\7" * 100)

    def test_a_sample_is_read_only(self):
        publisher, subscriber = self.pair()
        publisher.send(b"abc")
        sample = subscriber.take(10)
        self.assertTrue(memoryview(sample).readonly)
        with self.assertRaises(TypeError):
            memoryview(sample)[0] = 1
        with self.assertRaises(ValueError):
            numpy.frombuffer(sample, "u1")[0] = 1
        with self.assertRaises(AttributeError):
            sample.header = b"x"

    def test_views_defer_a_release(self):
        publisher, subscriber = self.pair("tight")  # two samples at a time
        for _ in range(4):
            publisher.send(b"abcd")
        with subscriber.take(10) as first:
            view = memoryview(first)
        self.assertTrue(first.released)
        self.assertEqual(bytes(view), b"abcd")  # still ours
        with self.assertRaisesRegex(ValueError, "released"):
            memoryview(first)
        second = subscriber.take(10)
        with self.assertRaises(zerocp.HeldLimit):
            subscriber.take(10)
        view.release()
        third = subscriber.take(10)  # the first is back
        with self.assertRaises(zerocp.HeldLimit):
            subscriber.take(10)
        del second
        self.assertIsNotNone(subscriber.try_take())
        del third

    def test_what_was_given_away_cannot_be_used(self):
        publisher, _subscriber = self.pair()
        loan = publisher.new_loan(10)
        sample = loan.share()
        for use in (lambda: memoryview(loan), lambda: loan.size, lambda: loan.header, lambda: publisher.publish(loan),
                    lambda: loan.share(), lambda: len(loan), lambda: loan.array):  # fmt: skip
            with self.assertRaisesRegex(ValueError, "released, shared or published"):
                use()
        loan.release()  # nothing
        self.assertEqual(sample.size, 10)

    def test_a_handle_opens_the_same_bytes(self):
        with self.client.new_loan("frames", 3) as loan:
            memoryview(loan)[:] = b"xyz"
            sample = loan.share()
        handle = pickle.loads(pickle.dumps(sample.handle()))
        with zerocp.Client(self.daemon.runtime_dir) as other:
            self.assertEqual(bytes(other.open(handle)), b"xyz")
            self.assertEqual(bytes(other.open(tuple(handle))), b"xyz")
            sample.release()
            with self.assertRaises(zerocp.Stale):
                other.open(handle)
            for wrong in (7, (1,), ("a", "b")):
                with self.assertRaises(TypeError):
                    other.open(wrong)
            with self.assertRaises(OverflowError):
                other.open((handle.instance + 2**64, handle.chunk))

    def test_sizes_and_headers_have_bounds(self):
        publisher, subscriber = self.pair()
        loan = publisher.new_loan(100)
        loan.size = 3
        for size in (-1, 101):
            with self.assertRaisesRegex(ValueError, "capacity of 100"):
                loan.size = size
        with self.assertRaisesRegex(ValueError, "64 bytes"):
            loan.header = bytes(65)
        publisher.publish(loan)
        self.assertEqual(subscriber.take(10).size, 3)
        with self.assertRaises(ValueError):
            publisher.new_loan(-1)
        with self.assertRaises(zerocp.TooLarge):
            publisher.new_loan(1 << 40)
        with self.assertRaises(zerocp.NotFound):
            self.client.new_loan("nothing", 1)
        with self.assertRaises(zerocp.NotFound):
            self.client.join_publisher("nothing")

    def test_code_that_runs_in_a_call_cannot_take_the_right_away(self):
        publisher, _subscriber = self.pair()
        loan = publisher.new_loan(100)

        class Index:
            def __index__(self):
                loan.release()
                return 7

        with self.assertRaisesRegex(ValueError, "released"):
            loan.size = Index()
        if sys.version_info >= (3, 12):  # __buffer__

            class Bytes:
                def __init__(self, act):
                    self.act = act

                def __buffer__(self, _flags):
                    self.act()
                    return memoryview(b"stale")

            loan = publisher.new_loan(100)
            with self.assertRaisesRegex(ValueError, "released"):
                loan.header = Bytes(loan.release)
            with self.assertRaisesRegex(ValueError, "closed"):
                publisher.send(Bytes(publisher.close))

    def test_usual_kinds_of_arguments_are_taken(self):
        publisher, _subscriber = self.pair()
        loan = publisher.new_array(numpy.int64(4), "u1")
        loan.size = numpy.int64(2)
        self.assertEqual(loan.size, 2)
        zerocp.Client(pathlib.Path(self.daemon.runtime_dir)).close()
        with self.assertRaises(zerocp.Unavailable):
            zerocp.Client("/tmp/\u00ff/\udcff".encode("utf-8", "replace").decode())

    def test_a_wait_in_vain_is_few_refusals(self):
        publisher = self.client.join_publisher("wide")
        loans = [publisher.new_loan(1) for _ in range(4)]

        def count():
            return int(next(iter(re.findall(r'"exhausted_count": *"?(\d+)', self.daemon.command("stats", "-o", "json")))))

        before = count()
        refused = []

        def wait():
            try:
                publisher.new_loan(1, timeout=0.35)
            except zerocp.Exhausted:
                refused.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        wait()
        self.assertEqual(refused, [True, True])
        self.assertEqual(count(), before + 2)
        del loans

    def test_an_exhausted_pool_says_who_has_it(self):
        publisher = self.client.join_publisher("wide")
        loans = [publisher.new_loan(1) for _ in range(4)]
        with self.assertRaisesRegex(zerocp.Exhausted, "test"):
            publisher.new_loan(1, timeout=0.05)
        del loans
        self.assertEqual(publisher.new_loan(1).size, 1)


class Streams(PythonTest):
    def test_an_iteration_ends_with_the_stream(self):
        publisher, subscriber = self.pair()
        for number in range(3):
            publisher.send(bytes([number]))
        publisher.close()
        self.assertEqual([bytes(sample) for sample in subscriber], [b"\0", b"\1", b"\2"])

    def test_a_publisher_that_dies_is_an_exception(self):
        subscriber = self.client.join_subscriber("wait")
        code = f"import zerocp, os; c = zerocp.Client({self.daemon.runtime_dir!r}); p = c.join_publisher('wait'); p.send(b'1'); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", code])
        self.assertEqual(bytes(subscriber.take(10)), b"1")
        with self.assertRaises(zerocp.PublisherDied):
            subscriber.take(10)

    def test_waiting_ends_in_time_and_lets_other_threads_run(self):
        publisher, subscriber = self.pair()
        self.assertIsNone(subscriber.try_take())
        with self.assertRaises(TimeoutError):
            subscriber.take(0.01)
        for wrong in (-1, float("nan")):
            with self.assertRaisesRegex(ValueError, "at least 0"):
                subscriber.take(wrong)
        taken = []
        thread = threading.Thread(target=lambda: taken.append(bytes(subscriber.take())))
        thread.start()
        publisher.send(b"late")
        thread.join()
        self.assertEqual(taken, [b"late"])

    def test_a_full_queue_keeps_the_loan(self):
        publisher, subscriber = self.pair()
        for _ in range(4):
            publisher.send(b"x")
        loan = publisher.new_loan(1)
        with self.assertRaisesRegex(zerocp.Timeout, "queue stayed full"):
            publisher.publish(loan, timeout=0.01)
        self.assertFalse(loan.released)
        subscriber.take(10).release()
        publisher.publish(loan, timeout=10)

    def test_a_signal_ends_a_wait(self):
        code = f"import zerocp; zerocp.Client({self.daemon.runtime_dir!r}).join_subscriber('wait').take()"
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        publisher = self.client.join_publisher("wait")
        publisher.wait_for_subscribers(timeout=60)
        process.send_signal(signal.SIGINT)
        self.assertIn("KeyboardInterrupt", process.communicate()[1])

    def test_one_thread_at_a_time_is_enforced(self):
        _publisher, subscriber = self.pair()
        stop = []

        def take():
            try:
                subscriber.take()
            except zerocp.EndOfStream:
                stop.append(True)

        thread = threading.Thread(target=take)
        thread.start()
        while True:  # until the thread is in its call
            try:
                subscriber.try_take()
            except RuntimeError as error:
                self.assertIn("one at a time", str(error))
                break
        with self.assertRaises(RuntimeError):
            subscriber.close()
        _publisher.close()
        thread.join()
        self.assertEqual(stop, [True])

    def test_a_descriptor_serves_select_and_asyncio(self):
        publisher, subscriber = self.pair()
        publisher.send(b"1")
        self.assertEqual(select.select([subscriber], [], [], 10)[0], [subscriber])
        self.assertEqual(bytes(subscriber.try_take()), b"1")

        async def reader():
            return [bytes(sample) async for sample in subscriber]

        async def run():
            task = asyncio.create_task(reader())
            for number in range(10):
                await asyncio.to_thread(publisher.send, bytes([number]))
            publisher.close()
            return await task

        self.assertEqual(asyncio.run(run()), [bytes([number]) for number in range(10)])

    def test_one_task_at_a_time_waits_and_a_close_wakes_it(self):
        _publisher, subscriber = self.pair()

        async def run():
            first = asyncio.create_task(subscriber.take_async())
            await asyncio.sleep(0)
            with self.assertRaisesRegex(RuntimeError, "one at a time"):
                await subscriber.take_async()
            subscriber.close()
            with self.assertRaisesRegex(ValueError, "closed"):
                await first

        asyncio.run(run())

    def test_a_daemon_that_hangs_does_not_stop_other_threads(self):
        daemon = Daemon(POOLS, CHANNELS)
        client = zerocp.Client(daemon.runtime_dir)
        publisher = client.join_publisher("wait")
        daemon.process.send_signal(signal.SIGSTOP)
        while open(f"/proc/{daemon.process.pid}/stat").read().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.001)
        closing = threading.Event()

        def close():
            nonlocal publisher
            closing.set()
            publisher = None  # waits for the daemon

        thread = threading.Thread(target=close)
        thread.start()
        closing.wait()
        ticks = 0
        while thread.is_alive() and ticks < 100:
            ticks += 1
            time.sleep(0.001)
        daemon.process.send_signal(signal.SIGCONT)
        thread.join()
        client.close()
        daemon.stop()
        self.assertEqual(ticks, 100)

    def test_types_are_compared(self):
        self.client.join_publisher("wait", message_type="a")  # the channel has none
        self.assertRaises(zerocp.Invalid, self.client.join_subscriber, "wait", queue_capacity=99)
        lossy = self.client.join_subscriber("wait", queue_capacity=1, lossy=True)
        publisher = self.client.join_publisher("wait")
        publisher.send(b"1")
        self.assertEqual(publisher.send(b"2").dropped, 1)
        self.assertEqual(lossy.take(10).missed_before, 1)

    def test_errors_have_codes_and_names(self):
        for name in zerocp._errors.__all__:
            self.assertEqual(getattr(zerocp, name).__module__, "zerocp")
        with self.assertRaises(zerocp.Unavailable) as caught:
            zerocp.Client("/nonexistent")
        self.assertEqual((caught.exception.code, isinstance(caught.exception, ConnectionError)), (15, True))
        with self.assertRaisesRegex(ValueError, "32 bytes"):
            zerocp.attach(b"short", "/x")
        with self.assertRaises(zerocp.Error):
            zerocp.attach(bytes(32), self.daemon.runtime_dir + "/attach.sock")
        self.client.close()
        with self.assertRaisesRegex(ValueError, "closed"):
            self.client.join_publisher("wait")


class Arrays(PythonTest):
    def test_shape_and_type_travel_with_the_bytes(self):
        publisher, subscriber = self.pair()
        arrays = [numpy.arange(24, dtype="f4").reshape(2, 3, 4), numpy.array(7, "i8"), numpy.zeros((0, 5), "c16"),
                  numpy.array(["a", "bc"]), numpy.array(["2026-01-01"], "M8[ns]"), numpy.eye(3, dtype="?")[::2, ::-1]]  # fmt: skip
        for array in arrays:
            publisher.publish_array(array)
            got = subscriber.take_array(10)
            self.assertEqual((got.shape, got.dtype), (array.shape, array.dtype))
            numpy.testing.assert_array_equal(got, array)
            self.assertFalse(got.flags.writeable)

    def test_an_array_is_filled_in_place(self):
        publisher, subscriber = self.pair("wide")
        loan = publisher.new_array((256, 256, 4), "f4")
        written_at = loan.array.ctypes.data
        loan.array[...] = 1.5
        publisher.publish(loan)
        array = subscriber.take_array(10)
        self.assertEqual((array.ctypes.data, array.shape, float(array[255, 255, 3])), (written_at, (256, 256, 4), 1.5))

    def test_an_array_holds_its_sample(self):
        publisher, subscriber = self.pair("tight")
        for number in range(4):
            publisher.publish_array(numpy.full(3, number))
        first, second = subscriber.take_array(10), subscriber.take_array(10)
        with self.assertRaises(zerocp.HeldLimit):
            subscriber.take_array(10)
        row = first[1:]
        del first
        self.assertEqual(list(row), [0, 0])
        del row
        self.assertEqual(subscriber.take_array(10)[0], 2)
        del second

    def test_a_message_that_is_no_array_is_bytes(self):
        publisher, subscriber = self.pair()
        publisher.send(b"\1\2\3")
        self.assertEqual(subscriber.take_array(10).tolist(), [1, 2, 3])

    def test_a_new_loan_has_an_empty_header(self):
        publisher = self.client.join_publisher("wide")
        for _ in range(8):  # each of the four chunks again
            loan = publisher.new_loan(8)
            self.assertEqual((loan.header, loan.array.dtype), (bytes(64), numpy.uint8))
            loan.header = b"\xff" * 64

    def test_a_forged_header_is_not_believed(self):
        from zerocp import _array

        publisher, subscriber = self.pair()
        good, _size = _array.pack_header((4, 4), "u1")
        for at, value in ((4, 7), (4, 200), (5, ord("@")), (6, ord("O")), (7, ord("9")), (16, 5), (23, 255), (7, 0xff)):
            header = bytearray(good)
            header[at] = value
            publisher.send(bytes(16), header)
            with self.assertRaisesRegex(ValueError, "the message"):
                subscriber.take_array(10)
        # numpy 1.24 ends the process on the first of these.
        for name in (b"<m8[s/0]", b"|V0", b"<U999999999", b"3i4", b"(2,)i4", b"<M8[0s]", b"|O", b"<i3", b"<f1", b"=i4", b"<i4,<i4"):
            for dimensions, shape in ((1, 2**62), (1, 0), (0, 0), (1, 16)):
                header = b"zcA1" + bytes([dimensions]) + name[:11].ljust(11, b"\0") + struct.pack("<6Q", shape, 0, 0, 0, 0, 0)
                publisher.send(bytes(16), header)
                with self.assertRaisesRegex(ValueError, "the message"):
                    subscriber.take_array(10)
        for dtype in (object, [("x", "i4")], "(2,)i4"):
            with self.assertRaises(TypeError):
                publisher.new_array(3, dtype)
        with self.assertRaises(ValueError):
            publisher.new_array((1,) * 7)
        for shape in ((-1,), 2**70, (2**63,)):
            with self.assertRaises(ValueError):
                publisher.new_array(shape)

    def test_records_go_as_bytes_as_the_refusal_says(self):
        publisher, subscriber = self.pair()
        record = numpy.dtype([("x", "f4"), ("label", "i4")])
        for array in (numpy.array((1.5, 7), record), numpy.array([(1, 2), (3, 4)], record)):
            with self.assertRaisesRegex(TypeError, r"send\(array\).*numpy.frombuffer\(sample, dtype\)"):
                publisher.publish_array(array)
            publisher.send(array)
            self.assertEqual(numpy.frombuffer(subscriber.take(10), record).tolist(), array.reshape(-1).tolist())

    def test_dlpack_exports_what_may_be_written(self):
        publisher, subscriber = self.pair()
        loan = publisher.new_array((2, 2), "f8")
        self.assertEqual(loan.__dlpack_device__(), (1, 0))
        foreign = numpy.from_dlpack(loan)
        with self.assertRaises(BufferError):
            publisher.publish(loan)
        del foreign
        publisher.publish(loan)
        sample = subscriber.take(10)
        if numpy.__version__ < "2.1":  # its DLPack cannot say that something is read-only
            with self.assertRaises(BufferError):
                numpy.from_dlpack(sample)
        else:
            self.assertFalse(numpy.from_dlpack(sample).flags.writeable)


def open_in_child(inherited, queue):
    sample, client, publisher, subscriber, runtime_dir = inherited
    answers = []
    for use in (lambda: memoryview(sample), lambda: sample.header, lambda: client.new_loan("frames", 1),
                lambda: publisher.new_loan(1), lambda: subscriber.try_take(), lambda: client.join_publisher("wait")):  # fmt: skip
        try:
            use()
            answers.append("went through")
        except zerocp.Unavailable as error:
            answers.append(str(error))
    sample.release()
    with zerocp.Client(runtime_dir) as own:
        own.join_publisher("wide").send(b"child")
    queue.put(answers)


class Processes(PythonTest):
    def test_a_forked_child_gets_errors_and_may_connect_again(self):
        publisher, subscriber = self.pair()
        publisher.send(b"parent's")
        sample = subscriber.take(10)
        queue = multiprocessing.get_context("fork").Queue()
        inherited = (sample, self.client, publisher, subscriber, self.daemon.runtime_dir)
        child = multiprocessing.get_context("fork").Process(target=open_in_child, args=(inherited, queue))
        child.start()
        answers = queue.get()
        child.join()
        self.assertEqual(child.exitcode, 0)
        self.assertEqual(len(answers), 6)
        for answer in answers:
            self.assertIn("fork", answer)
        self.assertEqual(bytes(sample), b"parent's")  # the child released nothing of ours

    def test_an_interpreter_ends_with_live_views(self):
        code = f"""
import zerocp, numpy
c = zerocp.Client({self.daemon.runtime_dir!r})
p, s = c.join_publisher('wait'), c.join_subscriber('wait')
l = p.new_loan(10); a = numpy.frombuffer(l, 'u1'); p.send(b'1'); b = s.take_array(); v = memoryview(l)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_an_interpreter_ends_while_a_thread_is_in_a_call(self):
        for call in ("zerocp.Client(DIR).close()", "c.join_publisher('drop').close()", "c.join_subscriber('drop').close()"):
            code = f"""
import threading, time, zerocp
DIR = {self.daemon.runtime_dir!r}
c = zerocp.Client(DIR)
begun = threading.Event()
def loop():
    while True:
        {call}
        begun.set()
threading.Thread(target=loop, daemon=True).start()
begun.wait()
"""
            for _ in range(5):
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""), call)

    def test_it_lives_beside_grpc(self):
        code = f"""
import grpc, google.protobuf, zerocp
with grpc.insecure_channel('unix:{self.daemon.runtime_dir}/client.sock') as channel:
    grpc.channel_ready_future(channel).result(timeout=60)
    client = zerocp.Client({self.daemon.runtime_dir!r})
    client.join_publisher('wait').send(b'1')
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    del PythonTest  # a base, not a test
    unittest.main(verbosity=2)
