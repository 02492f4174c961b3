"""The operator's story, as any Python program can do it with grpcio: create, grow, watch, find who
holds what and who is behind, take it off, clean up, delete.

usage: story.py PROTO_DIR RUNTIME_DIR BIN_DIR
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc


def generate(proto_dir, out):
    """Imports the modules that protoc makes of the installed .proto files."""
    names = ["resources", "admin_service", "observer_service", "session_service"]
    files = [f"zerocp/v1/{name}.proto" for name in names]
    include = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    arguments = ["protoc", f"-I{proto_dir}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, out)
    return {name: importlib.import_module(f"zerocp.v1.{name}_pb2") for name in names} | {
        "grpc_" + name: importlib.import_module(f"zerocp.v1.{name}_pb2_grpc") for name in names
    }


def must(condition, what):
    if not condition:
        sys.exit(f"story.py: {what}")


def until(condition, what):
    """What the condition returns, once that is true."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    sys.exit(f"story.py: not within a minute: {what}")


def reason_of(error):
    """The reason in the ErrorInfo; from_call checks that code and text agree with the details."""
    status = rpc_status.from_call(error)
    must(status is not None, f"no details in {error}")
    info = error_details_pb2.ErrorInfo()
    must(status.details[0].Unpack(info), "no ErrorInfo")
    return info.reason, dict(info.metadata)


def subscribers_of(stats):
    return [s for c in stats.channels if c.channel == "channels/story" for s in c.subscribers]


def story(v1, runtime_dir, bin_dir):
    channel = grpc.insecure_channel(f"unix:{runtime_dir}/admin.sock")
    admin = v1["grpc_admin_service"].AdminServiceStub(channel)
    observer = v1["grpc_observer_service"].ObserverServiceStub(channel)
    a, o, r = v1["admin_service"], v1["observer_service"], v1["resources"]

    try:
        observer.GetPool(o.GetPoolRequest(name="pools/story"))
        sys.exit("story.py: the pool is there already")
    except grpc.RpcError as error:
        must(error.code() == grpc.StatusCode.NOT_FOUND, error)
        must(reason_of(error) == ("POOL_NOT_FOUND", {"resource": "pools/story"}), reason_of(error))

    pool = r.Pool(chunk_size_bytes=4096, chunk_count=16)
    preview = admin.CreatePool(a.CreatePoolRequest(pool_id="story", pool=pool, validate_only=True))
    must(not preview.created, "a preview creates nothing")
    must(admin.CreatePool(a.CreatePoolRequest(pool_id="story", pool=pool)).created, "pool created")
    admin.CreateChannel(
        a.CreateChannelRequest(
            channel_id="story", channel=r.Channel(pool="pools/story", when_full=r.Channel.WHEN_FULL_WAIT, queue_capacity=4)
        )
    )
    grown = admin.UpdatePool(a.UpdatePoolRequest(pool=r.Pool(name="pools/story", chunk_count=32)))
    must(grown.pool.chunk_count == 32, "pool grown")

    watch = observer.WatchEvents(o.WatchEventsRequest())
    must(any(event.resource == "channels/story" for event in watch), "the watch tells of the channel")
    watch.cancel()

    command = [f"{bin_dir}/zerocp", "recv", "story", "-o", "/dev/null", "--runtime-dir", runtime_dir]
    slow = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: subscribers_of(observer.GetStats(o.GetStatsRequest()).stats), "it subscribes")
    slow.send_signal(signal.SIGSTOP)
    sender = subprocess.Popen(
        [f"{bin_dir}/zerocp", "send", "story", "--no-wait", "--runtime-dir", runtime_dir], stdin=subprocess.PIPE
    )
    sender.stdin.write(bytes(64 * 4096))
    sender.stdin.close()

    def stalled():
        for update in observer.WatchStats(o.WatchStatsRequest(max_updates=1)):
            for subscriber in subscribers_of(update.stats):
                if subscriber.queued_count == 4 and subscriber.stalled_for.ToMilliseconds() > 0:
                    return subscriber
        return None

    subscriber = until(stalled, "the slow one is seen")
    held = observer.ListHeldChunks(o.ListHeldChunksRequest(pool="pools/story"))
    must(
        any(h.peer_pid == slow.pid and h.chunk_count >= 4 for h in held.holders),
        f"ListHeldChunks names process {slow.pid}: {held.holders}",
    )
    admin.DetachSubscriber(a.DetachSubscriberRequest(name=subscriber.subscriber))
    must(sender.wait(60) == 0, "the sender goes on without it")
    session = subscriber.session
    admin.TerminateSession(a.TerminateSessionRequest(name=session, kill=True))
    must(slow.wait(60) == -signal.SIGKILL, "the slow one is gone")

    must(admin.Cleanup(a.CleanupRequest(kinds=[a.CleanupRequest.KIND_DEAD_SESSION])).removed_count == 0, "all is clean")
    try:
        admin.DeletePool(a.DeletePoolRequest(name="pools/story"))
        sys.exit("story.py: a pool with a channel was deleted")
    except grpc.RpcError as error:
        must(reason_of(error)[0] == "POOL_IN_USE", reason_of(error))
    admin.DeleteChannel(a.DeleteChannelRequest(name="channels/story", even_if_in_use=True))

    def deleted():
        try:
            return admin.DeletePool(a.DeletePoolRequest(name="pools/story", drain=True)).pool
        except grpc.RpcError as error:  # members of the channel have not left yet
            must(reason_of(error)[0] == "POOL_IN_USE", reason_of(error))

    until(deleted, "the pool is deleted")
    names = lambda: [pool.name for pool in observer.ListPools(o.ListPoolsRequest()).pools]
    until(lambda: "pools/story" not in names(), "the pool is gone")
    must(not admin.Audit(a.AuditRequest()).violations, "the audit finds nothing")


def main():
    proto_dir, runtime_dir, bin_dir = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        story(generate(proto_dir, out), runtime_dir, bin_dir)
    print(f"story.py: told with grpcio {grpc.__version__}")


if __name__ == "__main__":
    main()
