"""OpenCV draws and reads in shared memory.

usage: opencv_frames.py camera COUNT | detector

A loan's `array` is memory like any other to OpenCV: give it as `dst`, or draw into it. What a
subscriber takes can only be read: copy it (`frame.copy()`) before drawing into it.
"""

import sys

import cv2
import numpy
import zerocp

SHAPE = (480, 640)


def camera(client, count):
    publisher = client.join_publisher("camera")
    publisher.wait_for_subscribers(1)
    colour = numpy.zeros((*SHAPE, 3), "u1")  # stands for what a camera has delivered
    for number in range(1, count + 1):
        colour[...] = 0
        cv2.circle(colour, (100 + 4 * number, 200), 20, (255, 255, 255), thickness=-1)
        loan = publisher.new_array(SHAPE, timeout=None)
        # Written straight into the chunk. If `dst` has another shape or type than the result,
        # OpenCV silently allocates: hence the assert.
        grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY, dst=loan.array)
        assert grey.ctypes.data == loan.array.ctypes.data
        del grey  # a loan with views is not published
        publisher.publish(loan)


def detector(client):
    for sample in client.join_subscriber("camera"):
        frame = sample.array  # no copy
        moments = cv2.moments(frame)
        print(f"{sample.sequence}: {moments['m10'] / moments['m00']:.0f},{moments['m01'] / moments['m00']:.0f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["camera", count]:
            camera(zerocp.Client(name="opencv camera"), int(count))
        case ["detector"]:
            detector(zerocp.Client(name="opencv detector"))
        case _:
            sys.exit("usage: opencv_frames.py camera COUNT | detector")
