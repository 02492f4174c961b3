"""A zerocpd for the tests of the Python package."""

import os
import subprocess
import tempfile
import time

import zerocp

BIN = os.environ["ZEROCP_BIN_DIR"]


class Daemon:
    """A zerocpd of its own, in a directory of its own."""

    def __init__(self, pools, channels):
        self.folder = tempfile.TemporaryDirectory(prefix="zerocp-python-")
        options = [option for pool in pools for option in ("--pool", pool)]
        options += [option for channel in channels for option in ("--channel", channel)]
        self.runtime_dir = self.folder.name + "/run"
        self.log = open(self.folder.name + "/log", "w")
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.process = subprocess.Popen([BIN + "/zerocpd", "--runtime-dir", self.runtime_dir, "--on-stop=unlink", *options],
                                        stderr=self.log, stdout=self.log, env=environment)  # fmt: skip
        while True:
            try:
                zerocp.Client(self.runtime_dir).close()
                return
            except zerocp.Unavailable:
                if self.process.poll() is not None:
                    raise RuntimeError(open(self.folder.name + "/log").read()) from None
                time.sleep(0.01)

    def command(self, *words):
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        return subprocess.run([BIN + "/zerocp", words[0], "--runtime-dir", self.runtime_dir, *words[1:]],
                              capture_output=True, text=True, env=environment, check=True).stdout  # fmt: skip

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()
