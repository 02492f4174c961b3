"""1 GiB of numpy arrays from Python to C++ and to Python again, without a copy: a chunk comes back
under the address at which it was written."""

import os
import struct
import subprocess
import sys
import unittest

import numpy
import zerocp
from daemon import Daemon

ARRAYS, BYTES = 16, 64 << 20


class RelayTest(unittest.TestCase):
    def test_a_gibibyte_goes_around_without_a_copy(self):
        daemon = Daemon([f"arrays={BYTES}x{ARRAYS}", "handles=64x64"], [f"there=arrays,queue={ARRAYS}", "back=handles,queue=32"])
        relay = subprocess.Popen([os.environ["ZEROCP_BIN_DIR"] + "/relay", daemon.runtime_dir])
        try:
            client = zerocp.Client(daemon.runtime_dir)
            there, back = client.join_publisher("there"), client.join_subscriber("back")
            there.wait_for_subscribers()
            written = []
            for number in range(ARRAYS):
                loan = there.new_array((1024, 1024, 16), "f4")
                loan.array[number] = number  # a part: memory that nobody touches costs nothing
                written.append(loan.array.ctypes.data)
                there.publish(loan)
            returned = []
            for number in range(ARRAYS):
                array = client.open(struct.unpack("QQ", back.take(60))).array
                self.assertEqual((array.shape, array.dtype, array.nbytes), ((1024, 1024, 16), numpy.float32, BYTES))
                numpy.testing.assert_array_equal(array[number], numpy.float32(number))
                returned.append(array.ctypes.data)
            self.assertEqual(returned, written)
            self.assertEqual(len(set(returned)), ARRAYS)
            there.close()
            self.assertEqual(relay.wait(), 0)
            del array
            client.close()
            daemon.command("audit")
        finally:
            relay.kill()
            relay.wait()
            daemon.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
