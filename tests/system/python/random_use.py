"""Random use of the Python package: threads, exceptions, garbage collection, forks, and interpreters
that end with live views; then the daemon's audit must find nothing. ZEROCP_PYTHON_SECONDS (10)
is how long, ZEROCP_PYTHON_SEED repeats the choices of one thread.
"""

import faulthandler
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy
import zerocp
from daemon import Daemon

SECONDS = float(os.environ.get("ZEROCP_PYTHON_SECONDS", "10"))
# GCC 12's AddressSanitizer leaves its allocator's locks as they are in the child of a fork: where other threads
# allocate, the child may wait for ever.
FORKS = "libasan" not in os.environ.get("LD_PRELOAD", "")
THREADS = 4
ENDING = """
import random, sys, threading, numpy, zerocp
client = zerocp.Client(sys.argv[1])
publisher, subscriber = client.join_publisher("drop"), client.join_subscriber("drop")
loan = publisher.new_loan(100, 1)
view, array = memoryview(loan), loan.array
publisher.send(b"x", timeout=1)
sample = subscriber.take(1)
kept = [sample.array, memoryview(sample)]
cycle = [kept]; cycle.append(cycle)
threading.Thread(target=subscriber.take, daemon=True).start()
if random.random() < 0.5: raise SystemExit(7)
"""


class User:
    """One thread's objects, and what it may do with them."""

    def __init__(self, runtime_dir, shared, seed):
        self.runtime_dir, self.shared, self.random = runtime_dir, shared, random.Random(seed)
        self.client = zerocp.Client(runtime_dir)
        self.loans, self.samples, self.views = [], [], []
        self.publishers = [self.client.join_publisher("drop")]
        self.subscribers = [self.client.join_subscriber("drop")]
        self.counts = {}

    def one(self, things):
        return self.random.choice(things) if things else None

    def forget(self, things):
        if things:
            things.pop(self.random.randrange(len(things)))

    def act(self):
        name = self.random.choice([name for name in dir(self) if name.startswith("do_")])
        try:
            getattr(self, name)()
            outcome = "done"
        except (zerocp.Error, BufferError, ValueError, RuntimeError, AttributeError, TypeError) as error:
            outcome = type(error).__name__
        self.counts[name, outcome] = self.counts.get((name, outcome), 0) + 1
        for things, most in ((self.loans, 6), (self.samples, 12), (self.views, 20), (self.publishers, 3), (self.subscribers, 3)):
            while len(things) > most:
                self.forget(things)

    def do_loan(self):
        self.loans.append(self.one(self.publishers).new_loan(self.random.randrange(5000)))

    def do_loan_array(self):
        self.loans.append(self.one(self.publishers).new_array((self.random.randrange(9), 7), self.one(["f4", "u1", "M8[s]", object])))

    def do_pool_loan(self):
        self.loans.append(self.client.new_loan(self.one(["frames", "none"]), 64, timeout=self.one([0, 0.001])))

    def do_publish(self):
        self.one(self.publishers).publish(self.one(self.loans), timeout=0.01)

    def do_send(self):
        self.one(self.publishers).send(self.random.randbytes(self.random.randrange(300)), self.random.randbytes(self.random.randrange(70)), 0.01)

    def do_publish_array(self):
        self.one(self.publishers).publish_array(numpy.arange(self.random.randrange(50)), 0.01)

    def do_take(self):
        self.samples.append(self.one(self.subscribers).take(self.one([0, 0, 0.002])))

    def do_take_array(self):
        self.views.append(self.one(self.subscribers).take_array(0))

    def do_try(self):
        sample = self.one(self.subscribers).try_take()
        self.samples += [sample] if sample is not None else []

    def do_shared_subscriber(self):  # of all threads: RuntimeError when they meet
        self.samples.append(self.shared.take(0.001))

    def do_view(self):
        thing = self.one(self.loans + self.samples)
        self.views.append(self.one([memoryview, lambda it: it.array, lambda it: numpy.frombuffer(it, "u1"), numpy.from_dlpack])(thing))

    def do_write(self):
        view = self.one(self.views)
        view[0:3] = view[1:4]

    def do_read(self):
        sum(bytes(self.one(self.views))[:100])
        (self.one(self.loans + self.samples) or b"").header

    def do_header(self):
        self.one(self.loans).header = self.random.randbytes(self.random.randrange(70))

    def do_size(self):
        self.one(self.loans).size = self.random.randrange(-5, 6000)

    def do_share(self):
        sample = self.one(self.loans).share()
        self.samples.append(sample)
        self.samples.append(self.client.open(sample.handle()))

    def do_open(self):
        self.samples.append(self.client.open((self.random.getrandbits(64), self.random.getrandbits(64))))

    def do_release(self):
        self.one(self.loans + self.samples).release()

    def do_with(self):
        with self.one(self.samples) as sample:
            self.views.append(memoryview(sample))
            raise ValueError("leaves the block")

    def do_forget(self):
        self.forget(self.one([self.loans, self.samples, self.views, self.publishers, self.subscribers]))

    def do_release_view(self):
        self.one(self.views).release()

    def do_cycle(self):
        cycle = [self.one(self.samples), self.one(self.views)]
        cycle.append(cycle)

    def do_collect(self):
        if self.random.random() < 0.1:
            gc.collect()

    def do_join(self):
        if self.random.random() < 0.5:
            self.publishers.append(self.client.join_publisher(self.one(["drop", "none"])))
        else:
            self.subscribers.append(self.client.join_subscriber("drop", lossy=self.one([True, False]), queue_capacity=self.one([0, 1, 99])))

    def do_close(self):
        if self.random.random() < 0.2:
            self.one(self.publishers + self.subscribers).close()
            self.publishers.append(self.client.join_publisher("drop"))
            self.subscribers.append(self.client.join_subscriber("drop"))

    def do_reconnect(self):
        if self.random.random() < 0.05:
            self.client.close()
            self.client = zerocp.Client(self.runtime_dir)

    def do_descriptor(self):
        self.one(self.subscribers).fileno()

    def do_fork(self):
        if not FORKS or self.random.random() > 0.02:
            return
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            status = 1
            try:
                status = self.count_uses_after_fork()
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            os.write(2, b"random_use: a forked child used what is its parent's\n")
            os._exit(1)

    def count_uses_after_fork(self):
        """Uses of what the parent made that went through."""
        through = 0
        for use in (lambda: self.client.new_loan("frames", 1), lambda: memoryview(self.samples[0]),
                    lambda: self.publishers[0].send(b"x"), lambda: self.subscribers[0].take(0)):  # fmt: skip
            try:
                use()
                through += 1
            except (zerocp.Unavailable, IndexError, ValueError, RuntimeError):
                pass
        return through


def main():
    faulthandler.dump_traceback_later(SECONDS + 90, exit=True)  # where each thread stands still
    seed = int(os.environ.get("ZEROCP_PYTHON_SEED", random.getrandbits(32)))
    print(f"ZEROCP_PYTHON_SEED={seed}", flush=True)
    daemon = Daemon(["frames=4096x64"], ["drop=frames,queue=4,when-full=drop"])
    ends = 0
    try:
        with zerocp.Client(daemon.runtime_dir) as client, client.join_subscriber("drop") as shared:
            users = [User(daemon.runtime_dir, shared, seed + number) for number in range(THREADS)]
            end = time.monotonic() + SECONDS
            failed = []

            def run(user):
                try:
                    while time.monotonic() < end and not failed:
                        user.act()
                except BaseException as error:  # noqa: BLE001: the main thread raises it
                    failed.append(error)

            threads = [threading.Thread(target=run, args=(user,)) for user in users]
            for thread in threads:
                thread.start()
            while time.monotonic() < end and not failed:
                code = subprocess.run([sys.executable, "-c", ENDING, daemon.runtime_dir], capture_output=True, text=True)
                # The last: a user's array that was made smaller (do_size).
                reasons = ("zerocp.Exhausted:", "zerocp.Timeout:", "zerocp.Limit:", "bytes, as the message is")
                if code.returncode not in (0, 7) and not any(reason in code.stderr for reason in reasons):
                    failed.append(RuntimeError(f"an interpreter that ended: {code.returncode}: {code.stderr}"))
                ends += 1
            for thread in threads:
                thread.join()
            if failed:
                raise failed[0]
            counts = {}
            for user in users:
                for key, count in user.counts.items():
                    counts[key] = counts.get(key, 0) + count
            print(sum(counts.values()), "operations,", ends, "interpreters that ended")
            always_raise = {"do_open", "do_with"}
            never = {name for name in dir(User) if name.startswith("do_")} - always_raise - {name for name, outcome in counts if outcome == "done"}
            if never:
                sys.exit(f"random_use: never went well: {sorted(never)}")
            users.clear()
            del user
            gc.collect()
        print(daemon.command("audit"))
    finally:
        daemon.stop()


if __name__ == "__main__":
    main()
