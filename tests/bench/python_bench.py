#!/usr/bin/env python3
"""What a message costs in Python, from one process to another: zerocp beside multiprocessing.shared_memory and pyzmq.

usage: python_bench.py [--quick | --write]

Without options: prints the table. --write: puts it in client/python/README.md. --quick: two sizes and fewer rounds; fails
where zerocp is not GOAL / 2 times as fast as pyzmq. Needs zerocp and pyzmq, ZEROCP_BIN_DIR and ZEROCP_SOURCE_DIR.

Two processes send a message to and fro; a message's time is half of that. Rounds of all subjects take turns; the median
counts. `handed over`: what is sent is there already, and the receiver looks at its first and last byte. `filled and read`:
the sender writes every byte first, in the buffer that it sends, and the receiver reads every one.
"""

import argparse
import contextlib
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import zlib
from multiprocessing import connection, shared_memory
from pathlib import Path
from statistics import median

sys.path.insert(0, os.environ["ZEROCP_SOURCE_DIR"] + "/tests/system/python")

import zerocp
import zmq
from daemon import Daemon

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 32 * KIB, MIB, 8 * MIB, 32 * MIB)
MOST = max(SIZES)
GOAL, GOAL_FROM = 5, MIB  # times as fast as pyzmq, from this size on
ROUND_SECONDS = 0.03
WATCHDOG = 60


class Zerocp:
    name = "zerocp"

    def __init__(self, address, is_echo):
        client = zerocp.Client(address)
        here, there = ("pong", "ping") if is_echo else ("ping", "pong")
        self.publisher, self.subscriber = client.join_publisher(here), client.join_subscriber(there)
        self.publisher.wait_for_subscribers(1, WATCHDOG)

    def send(self, size, content):
        loan = self.publisher.new_loan(size, WATCHDOG)
        if content:
            with memoryview(loan) as view:
                view[:] = content
        self.publisher.publish(loan, WATCHDOG)

    def receive(self):
        return memoryview(self.subscriber.take(WATCHDOG))

    def close(self):
        self.publisher.close()


class SharedMemory:
    """A block for each direction, and a pipe to say that something is there."""

    name = "shared_memory"

    def __init__(self, address, is_echo):
        if is_echo:
            self.pipe = connection.Client(address)
            self.theirs, self.own = (shared_memory.SharedMemory(name) for name in self.pipe.recv())
            self.made = []
        else:
            self.own, self.theirs = (shared_memory.SharedMemory(create=True, size=MOST) for _ in range(2))
            self.made = [self.own, self.theirs]
            with connection.Listener(address) as listener:
                self.pipe = listener.accept()
            self.pipe.send([block.name for block in self.made])

    def send(self, size, content):
        if content:
            self.own.buf[:size] = content
        self.pipe.send_bytes(size.to_bytes(8, "little"))

    def receive(self):
        return self.theirs.buf[: int.from_bytes(self.pipe.recv_bytes(), "little")]

    def close(self):
        for block in (self.own, self.theirs):
            block.close()
        for block in self.made:
            block.unlink()


class Pyzmq:
    """PAIR sockets over ipc, told not to copy."""

    name = "pyzmq"

    def __init__(self, address, is_echo):
        self.socket = zmq.Context.instance().socket(zmq.PAIR)
        (self.socket.connect if is_echo else self.socket.bind)("ipc://" + address)
        self.buffer = bytearray(MOST)

    def send(self, size, content):
        if content:
            self.buffer[:size] = content
        self.socket.send(memoryview(self.buffer)[:size], copy=False)

    def receive(self):
        return self.socket.recv(copy=False).buffer

    def close(self):
        self.socket.close()


SUBJECTS = {subject.name: subject for subject in (Zerocp, SharedMemory, Pyzmq)}


def look(view, is_read):
    return zlib.crc32(view) if is_read else view[0] + view[-1]


def echo(name, address):
    """The other process: what it gets it sends back, filled or not as it came; a message of one byte ends it."""
    subject = SUBJECTS[name](address, True)
    content = bytes(MOST)
    while True:
        view = subject.receive()
        size, is_filled = len(view), view[0] != 0
        if size > 1:
            look(view, is_filled)
        view.release()
        if size == 1:
            return subject.close()
        subject.send(size, memoryview(content)[:size] if is_filled else None)


class Pair:
    """A subject in this process, and the echo."""

    def __init__(self, name, address):
        self.name = name
        self.echo = multiprocessing.get_context("spawn").Process(target=echo, args=(name, address), daemon=True)
        self.echo.start()
        self.subject = SUBJECTS[name](address, False)

    def exchange(self, size, content):
        self.subject.send(size, content)
        with self.subject.receive() as view:
            assert len(view) == size
            look(view, content is not None)

    def round(self, size, content, count):
        begin = time.perf_counter()
        for _ in range(count):
            self.exchange(size, content)
        return (time.perf_counter() - begin) / count / 2

    def end(self):
        self.subject.send(1, None)
        self.echo.join(WATCHDOG)
        assert self.echo.exitcode == 0
        self.subject.close()


def measure(pairs, sizes, rounds):
    """{(is_filled, size): {name: seconds}}."""
    results = {}
    content = bytearray(b"\1") * MOST
    for is_filled in (False, True):
        for size in sizes:
            sent = memoryview(content)[:size] if is_filled else None
            counts = {pair: max(1, int(ROUND_SECONDS / pair.round(size, sent, 3) / 2)) for pair in pairs}
            times = {pair: [] for pair in pairs}
            for _ in range(rounds):
                for pair in pairs:
                    times[pair].append(pair.round(size, sent, counts[pair]))
            results[is_filled, size] = {pair.name: median(times[pair]) for pair in pairs}
    return results


def nice(seconds):
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def nice_size(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def table(results):
    lines = [f"| {' | '.join(['', *SUBJECTS, 'times as fast as pyzmq'])} |", "|---" * (len(SUBJECTS) + 2) + "|"]
    for (is_filled, size), seconds in results.items():
        ratio = seconds["pyzmq"] / seconds["zerocp"]
        what = f"{nice_size(size)}, {'filled and read' if is_filled else 'handed over'}"
        lines.append(f"| {' | '.join([what, *(nice(seconds[name]) for name in SUBJECTS), f'{ratio:,.1f}' if ratio < 10 else f'{ratio:,.0f}'])} |")
    return "\n".join(lines) + "\n"


def run(sizes, rounds):
    with contextlib.ExitStack() as stack:
        daemon = Daemon([f"bench={MOST}x6"], ["ping=bench,queue=2", "pong=bench,queue=2"])
        stack.callback(daemon.stop)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zerocp-bench-"))
        pairs = [Pair(name, daemon.runtime_dir if name == "zerocp" else f"{folder}/{name}") for name in SUBJECTS]
        results = measure(pairs, sizes, rounds)
        for pair in pairs:
            pair.end()
    return results


def write(text):
    page = Path(os.environ["ZEROCP_SOURCE_DIR"]) / "client/python/README.md"
    before, rest = page.read_text().split("<!-- measured -->\n")
    _, after = rest.split("<!-- end -->\n")
    cpu = next(line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    where = f"{os.cpu_count()} processors ({cpu}), Python {platform.python_version()}, pyzmq {zmq.__version__}"
    page.write_text(f"{before}<!-- measured -->\n{text}\nOn {where}.\n<!-- end -->\n{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    results = run((GOAL_FROM, MOST), 7) if options.quick else run(SIZES, 25)
    text = table(results)
    print(text)
    if options.write:
        write(text)
    for (is_filled, size), seconds in results.items():
        ratio = seconds["pyzmq"] / seconds["zerocp"]
        if options.quick and not is_filled and size >= GOAL_FROM and ratio < GOAL / 2:
            sys.exit(f"python_bench: {nice_size(size)} handed over are {ratio:.2f} times as fast as with pyzmq, "
                     f"not {GOAL / 2}")  # fmt: skip


if __name__ == "__main__":
    main()
