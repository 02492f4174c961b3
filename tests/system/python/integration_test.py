"""The examples of client/python/examples, each with the library it is for; torch_loader.py excepted.

Everything waits for what it needs to see: the time limit is ctest's.
"""

import json
import os
import subprocess
import sys
import threading
import unittest

import zerocp
from daemon import Daemon

EXAMPLES = os.environ["ZEROCP_SOURCE_DIR"] + "/client/python/examples/"
WITH_OPENCV = os.environ.get("ZEROCP_TOOLS", "/usr/local/lib/zerocp-tools") + "/python/bin/python"


class IntegrationTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(["frames=1MiBx8", "batches=256KiBx16"], ["camera=frames,queue=4"])
        self.addCleanup(self.daemon.stop)
        os.environ["ZEROCP_RUNTIME_DIR"] = self.daemon.runtime_dir

    def tearDown(self):
        self.daemon.command("audit")

    def run_example(self, python, name, *arguments):
        result = subprocess.run([python, "-B", EXAMPLES + name, *arguments], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout.splitlines()

    def test_opencv_draws_into_the_chunk_and_measures_in_it(self):
        printed = []
        camera = threading.Thread(
            target=lambda: printed.extend(self.run_example(WITH_OPENCV, "opencv_frames.py", "camera", "20"))
        )
        detector = subprocess.Popen([WITH_OPENCV, "-B", EXAMPLES + "opencv_frames.py", "detector"],
                                    stdout=subprocess.PIPE, text=True)  # fmt: skip
        camera.start()
        output, _ = detector.communicate()
        camera.join()
        self.assertEqual(detector.returncode, 0)
        self.assertEqual(output.splitlines(), [f"{n}: {100 + 4 * n},200" for n in range(1, 21)])

    def test_gstreamer_frames_come_row_by_row_without_the_padding(self):
        # 101 pixels of 3 bytes are padded to 304.
        subscriber = zerocp.Client().join_subscriber("camera")
        pipeline = "videotestsrc num-buffers=3 pattern=gradient ! video/x-raw,format=RGB,width=101,height=50"
        sender = subprocess.Popen([sys.executable, "-B", EXAMPLES + "gstreamer_appsink.py", pipeline],
                                  stdout=subprocess.PIPE, text=True)  # fmt: skip
        frames = [sample.array.copy() for sample in subscriber]
        self.assertEqual(sender.communicate()[0], "3 frames\n")
        self.assertEqual([frame.shape for frame in frames], [(50, 101, 3)] * 3)
        for frame in frames:  # every pixel of a row of the gradient is the same
            self.assertTrue((frame == frame[:, :1, :1]).all())
            self.assertLess(frame[0, 0, 0], frame[-1, 0, 0])

    def test_gstreamer_says_why_it_cannot(self):
        subscriber = zerocp.Client().join_subscriber("camera")
        result = subprocess.run(
            [sys.executable, "-B", EXAMPLES + "gstreamer_appsink.py", "filesrc location=/nowhere ! decodebin"],
            capture_output=True, text=True)  # fmt: skip
        self.assertEqual(result.returncode, 1)
        self.assertIn("GStreamer: Resource not found", result.stderr)
        subscriber.close()

    def test_spawned_workers_hand_over_by_handle(self):
        printed = self.run_example(sys.executable, "spawned_workers.py", "40")
        self.assertEqual(printed, ["40 batches, sum of means 780"])
        while self.free_chunks("batches") < 16:  # the workers' come back
            pass

    def test_missing_arguments_are_answered_by_the_usage(self):
        for python, name, usage in (
            (WITH_OPENCV, "opencv_frames.py", "camera COUNT | detector"),
            (sys.executable, "gstreamer_appsink.py", "PIPELINE"),
            (sys.executable, "spawned_workers.py", "COUNT"),
        ):
            result = subprocess.run([python, "-B", EXAMPLES + name], capture_output=True, text=True)
            self.assertEqual((result.returncode, result.stderr), (1, f"usage: {name} {usage}\n"))

    def free_chunks(self, pool):
        stats = json.loads(self.daemon.command("stats", "-o", "json"))["stats"]["pools"]
        return next(int(one["free_chunk_count"]) for one in stats if one["pool"] == "pools/" + pool)


if __name__ == "__main__":
    unittest.main(verbosity=2)
