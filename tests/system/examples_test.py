"""The examples do what they say, built against an installed tree.

examples_test.py BUILD_DIR [COMPILER_OPTION...]

Everything waits for what it needs to see: the time limit is ctest's.
"""

import os
import signal
import subprocess
import sys
import tempfile
import unittest

BUILD, *OPTIONS = sys.argv[1:]
del sys.argv[1:]
EXAMPLES = os.environ["ZEROCP_SOURCE_DIR"] + "/client/examples"


def run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, f"{command}: {result.stdout}"
    return result.stdout


class ExamplesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="zerocp-examples-")
        cls.work = work = cls.folder.name
        cls.addClassCleanup(cls.folder.cleanup)
        run("cmake", "--install", BUILD, "--prefix", work + "/usr")
        flags = " ".join(["-Werror", *OPTIONS])
        run("cmake", "-S", EXAMPLES, "-B", work + "/build", "-DCMAKE_PREFIX_PATH=" + work + "/usr",
            "-DCMAKE_CXX_FLAGS=" + flags, "-DCMAKE_C_FLAGS=" + flags)  # fmt: skip
        run("cmake", "--build", work + "/build")
        os.environ["ZEROCP_RUNTIME_DIR"] = work + "/run"
        cls.daemon = subprocess.Popen(
            [work + "/usr/bin/zerocpd", "--on-stop=unlink"]
            + ["--pool", "frames=512KiBx16", "--channel", "camera=frames,queue=4"]
            + ["--pool", "small=1KiBx256", "--channel", "prices=small,queue=16,history=3"]
            + ["--channel", "words=small,queue=8", "--channel", "imu=small,queue=64", "--pool", "tensors=4MiBx4"],
            stderr=subprocess.PIPE, text=True)  # fmt: skip
        cls.addClassCleanup(cls.stop)
        while "ready:" not in (line := cls.daemon.stderr.readline()):
            assert line, "the daemon has ended"

    @classmethod
    def stop(cls):
        cls.daemon.terminate()
        cls.daemon.communicate()

    def start(self, *command):
        """Starts an example; it is killed when the test ends without waiting for it."""
        process = subprocess.Popen([f"{self.work}/build/{command[0]}", *command[1:]], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdin.close(), process.stdout.close()))
        return process

    def end(self, process):
        """The lines that it prints until it ends in order."""
        output, _ = process.communicate()
        self.assertEqual(process.returncode, 0, output)
        return output.splitlines()

    def tearDown(self):
        run(self.work + "/usr/bin/zerocp", "audit")

    def test_frames_a_viewer_that_stands_still_holds_nobody_up(self):
        viewer = self.start("frames", "viewer")
        self.assertEqual(viewer.stdout.readline(), "viewer: ready\n")
        viewer.send_signal(signal.SIGSTOP)
        detector = self.start("frames", "detector")
        camera = self.end(self.start("frames", "camera", "100"))
        self.assertEqual(camera, ["camera: 100 frames sent, 99 dropped by the viewer"])
        squares = [f"frame {n}: square at {2 * n},{n}" for n in range(1, 101)]
        self.assertEqual(self.end(detector), [*squares, "detector: END_OF_STREAM"])
        viewer.send_signal(signal.SIGCONT)
        self.assertEqual(self.end(viewer), ["viewer: saw 1, missed 99, the last was frame 100"])

    def test_feed_late_readers_get_the_history_and_twelve_get_everything_after(self):
        prices = [f"EURUSD 1.{n:04}" for n in range(1, 41)]
        lines = [f"{number} {price}\n" for number, price in enumerate(prices, 1)]
        early = [self.start("feed", "read") for _ in range(6)]
        writer = self.start("feed", "write")
        writer.stdin.write("\n".join(prices[:20]) + "\n")
        writer.stdin.flush()
        # Who comes while others wait for their first line joins in time for it or for its history.
        for reader in early:
            self.until(reader, lines[19])
        late = [self.start("feed", "read") for _ in range(6)]
        for reader in late:
            self.assertEqual(self.until(reader, lines[19]), lines[17:20])  # the channel keeps three
        writer.stdin.write("\n".join(prices[20:]) + "\n")
        self.assertEqual(self.end(writer), ["sent 40"])
        for reader in early + late:
            rest = self.end(reader)
            self.assertEqual(rest, [line.strip() for line in lines[20:]] + ["END_OF_STREAM"])

    def until(self, reader, last):
        """Its lines up to `last`."""
        got = []
        while not got or got[-1] != last:
            got.append(reader.stdout.readline())
            self.assertTrue(got[-1], got)
        return got

    def test_tensor_goes_by_handle_and_its_chunk_comes_back(self):
        socket = self.work + "/socket"
        consumer = self.start("tensor", "consume", socket)
        self.assertEqual(consumer.stdout.readline(), "consumer: ready\n")
        producer = self.end(self.start("tensor", "produce", socket))
        self.assertEqual(producer, ["producer: the consumer says 1024x1024, sum 524288"])
        self.assertEqual(self.end(consumer), [])

    def test_loaned_messages_reach_the_callback_or_are_counted(self):
        listener = self.start("loaned_message", "listener")
        self.assertEqual(listener.stdout.readline(), "listener: ready\n")
        listener.send_signal(signal.SIGSTOP)
        self.assertEqual(self.end(self.start("loaned_message", "talker", "50")), [])
        listener.send_signal(signal.SIGCONT)
        self.assertEqual(self.end(listener), ["listener: 10 messages, 40 missed, the last of 0.50 s"])

    def test_hello_in_c(self):
        receiver = self.start("hello", "receive")
        self.assertEqual(self.end(self.start("hello", "send", "zero", "copies")), [])
        self.assertEqual(self.end(receiver), ["zero", "copies"])

    def test_what_goes_wrong_is_said(self):
        nowhere = {**os.environ, "ZEROCP_RUNTIME_DIR": self.work + "/nowhere"}
        for program in (("frames", "viewer"), ("feed", "read"), ("hello", "receive"), ("loaned_message", "listener")):
            command = [f"{self.work}/build/{program[0]}", *program[1:]]
            result = subprocess.run(command, capture_output=True, text=True, env=nowhere)
            self.assertEqual(result.returncode, 1)
            self.assertIn("/nowhere/attach.sock does not exist", result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
