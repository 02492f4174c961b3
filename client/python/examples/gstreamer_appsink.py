"""Video of a GStreamer pipeline goes into a channel: one copy, out of the appsink's buffer.

usage: gstreamer_appsink.py PIPELINE

PIPELINE ends in grey or colour frames, such as "videotestsrc num-buffers=10 ! video/x-raw,format=RGB".
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
import numpy
import zerocp
from gi.repository import Gst, GstApp

CHANNELS = {"GRAY8": 1, "RGB": 3, "BGR": 3, "RGBA": 4}


def samples(pipeline):
    """What its appsink gets, until the end of the stream."""
    sink, bus = pipeline.get_by_name("sink"), pipeline.get_bus()
    pipeline.set_state(Gst.State.PLAYING)
    try:
        while not sink.is_eos():
            if (pulled := sink.try_pull_sample(Gst.SECOND // 10)) is not None:
                yield pulled
            elif (error := bus.pop_filtered(Gst.MessageType.ERROR)) is not None:
                sys.exit(f"GStreamer: {error.parse_error()[0].message}")
    finally:
        pipeline.set_state(Gst.State.NULL)


def main(description):
    Gst.init(None)
    pipeline = Gst.parse_launch(f"{description} ! appsink name=sink sync=false")
    publisher = zerocp.Client(name="appsink").join_publisher("camera")
    publisher.wait_for_subscribers(1)
    sent = 0
    for pulled in samples(pipeline):
        caps, buffer = pulled.get_caps().get_structure(0), pulled.get_buffer()
        height, width = caps.get_value("height"), caps.get_value("width")
        channels = CHANNELS[caps.get_value("format")]
        loan = publisher.new_array((height, width, channels), timeout=None)
        with buffer.map(Gst.MapFlags.READ) as mapped:  # a memoryview, by python3-gst-1.0
            # GStreamer pads each row to a multiple of 4 bytes.
            rows = numpy.frombuffer(mapped.data, "u1").reshape(height, -1)
            loan.array[...] = rows[:, : width * channels].reshape(height, width, channels)
            del rows
        publisher.publish(loan)
        sent += 1
    print(f"{sent} frames")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: gstreamer_appsink.py PIPELINE")
    main(sys.argv[1])
