"""An operator's story with grpcio: create a pool, grow it, apply a configuration that was previewed as a diff, watch,
find who leaks and who is behind, take it off, clean up, delete.

    pip install grpcio grpcio-tools grpcio-status
    cd PREFIX/share/zerocp/proto && python -m grpc_tools.protoc -I. --python_out=OUT --grpc_python_out=OUT zerocp/v1/*.proto
    PYTHONPATH=OUT python story.py unix:/run/zerocp/admin.sock
    PYTHONPATH=OUT python story.py HOST:PORT AUTHORITY [CERTIFICATE KEY]

Exit status 1: something was refused, or is not as expected; the last line says what.
"""

import json
import sys
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from zerocp.v1 import admin_service_pb2 as admin
from zerocp.v1 import observer_service_pb2 as observer
from zerocp.v1.admin_service_pb2_grpc import AdminServiceStub
from zerocp.v1.observer_service_pb2_grpc import ObserverServiceStub
from zerocp.v1.resources_pb2 import Channel, Config, ConfigChange, HeldChunk, Pool

POOL, CHANNEL = "pools/story", "channels/story"
DEADLINE = json.dumps({"methodConfig": [{"name": [{}], "timeout": "60s"}]})  # of every call and stream


def connect(target, authority=None, certificate=None, key=None):
    """A socket without credentials, or TLS with one's certificate, whose name has a role."""
    options = [("grpc.service_config", DEADLINE)]
    if authority is None:
        return grpc.insecure_channel(target, options)
    files = [Path(file).read_bytes() if file else None for file in (authority, key, certificate)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*files), options)


def reason_of(error):
    """What programs compare, never the text; None for errors that are not the daemon's."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return info.reason if status and status.details[0].Unpack(info) else None


def expect(condition, what):
    if not condition:
        sys.exit(f"story.py: not as expected: {what}")


def refused(reason, call):
    """A call, or a stream in the end, is refused for that reason."""
    try:
        call()
    except grpc.RpcError as error:
        if reason_of(error) != reason:
            raise
    else:
        sys.exit(f"story.py: not refused: {reason}")


def first(stream, condition):
    """The first answer of a stream that is as asked for; the stream is left."""
    found = next((answer for answer in stream if condition(answer)), None)
    stream.cancel()
    return found


def story_of(stats):
    return next(channel for channel in stats.channels if channel.channel == CHANNEL)


def story(channel):
    operator, viewer = AdminServiceStub(channel), ObserverServiceStub(channel)
    refused("POOL_NOT_FOUND", lambda: viewer.GetPool(observer.GetPoolRequest(name=POOL)))

    # Create, as a preview and really, and grow.
    create = admin.CreatePoolRequest(pool_id="story", pool=Pool(chunk_size_bytes=4096, chunk_count=16), validate_only=True)
    expect(not operator.CreatePool(create).created, "a preview creates nothing")
    create.validate_only = False
    expect(operator.CreatePool(create).created, "the pool is created")
    grown = operator.UpdatePool(admin.UpdatePoolRequest(pool=Pool(name=POOL, chunk_count=32)))
    expect(grown.pool.chunk_count == 32, "the pool is grown")

    # The configuration as a whole: what is in force, edited; first what would change, then the change.
    config = viewer.GetConfig(observer.GetConfigRequest()).config
    apply = admin.ApplyConfigRequest(config=config, validate_only=True)
    next(pool for pool in apply.config.pools if pool.name == POOL).chunk_count = 48
    apply.config.channels.add(name=CHANNEL, pool=POOL, when_full=Channel.WHEN_FULL_WAIT, queue_capacity=4)
    preview = operator.ApplyConfig(apply).changes
    for change in preview:
        print(f"{ConfigChange.Action.Name(change.action)} {change.path}: {change.old_value} -> {change.new_value}")
    added, updated = preview
    expect((added.action, added.path) == (ConfigChange.ACTION_ADD, CHANNEL), added)
    expect(
        updated == ConfigChange(action=ConfigChange.ACTION_UPDATE, path=f"{POOL}.chunk_count", old_value="32", new_value="48"),
        updated,
    )
    expect(viewer.GetConfig(observer.GetConfigRequest()).config == config, "a preview changes nothing")
    apply.validate_only = False
    expect(operator.ApplyConfig(apply).changes == preview, "what was previewed is done")
    config = viewer.GetConfig(observer.GetConfigRequest()).config
    expect([pool.chunk_count for pool in config.pools if pool.name == POOL] == [48], "the pool is as configured")
    expect([one.queue_capacity for one in config.channels if one.name == CHANNEL] == [4], "the channel is there")
    refused("ETAG_MISMATCH", lambda: operator.ApplyConfig(apply))  # it was made of one that is in force no more

    # Watch until somebody is behind; who is it, and what does it hold?
    stall = observer.WatchEventsResponse.KIND_SUBSCRIBER_STALLED
    events = viewer.WatchEvents(observer.WatchEventsRequest())
    stalled = first(events, lambda event: event.kind == stall and event.resource.startswith(f"{CHANNEL}/")).resource
    (update,) = viewer.WatchStats(observer.WatchStatsRequest(max_updates=1))
    slow = story_of(update.stats).subscribers[0]  # the longest queue comes first
    print(f"{slow.client_name} of {slow.session} is {slow.queued_count} messages behind")
    expect((slow.subscriber, slow.queued_count, slow.client_name) == (stalled, 4, "leaky"), slow)
    holders = viewer.ListHeldChunks(observer.ListHeldChunksRequest(pool=POOL, holder=slow.session)).holders
    for holder in holders:
        print(f"process {holder.peer_pid} keeps {holder.chunk_count} chunks in {HeldChunk.Phase.Name(holder.phase)}")
    expect([one.chunk_count for one in holders if one.phase == HeldChunk.PHASE_WRITING] == [3], "who leaks")

    # Take it off; the publisher goes on and ends. Then end the one that leaks.
    expect(operator.DetachSubscriber(admin.DetachSubscriberRequest(name=stalled)).queued_count == 4, "4 messages waited")
    numbers = viewer.WatchStats(observer.WatchStatsRequest(interval=Duration(nanos=100_000_000)))
    done = lambda one: one.published_count == 64 and one.publisher_count == 0
    expect(first(numbers, lambda update: done(story_of(update.stats))), "the publisher goes on")
    ended = operator.TerminateSession(admin.TerminateSessionRequest(name=slow.session, kill=True))
    expect(ended.released_chunk_count >= 3, "its chunks are free")

    # Clean up and delete.
    left = operator.Cleanup(admin.CleanupRequest(kinds=[admin.CleanupRequest.KIND_DEAD_SESSION]))
    expect(left.removed_count == 0, "nobody is left behind")
    refused("POOL_IN_USE", lambda: operator.DeletePool(admin.DeletePoolRequest(name=POOL)))
    operator.DeleteChannel(admin.DeleteChannelRequest(name=CHANNEL))
    operator.DeletePool(admin.DeletePoolRequest(name=POOL, drain=True))
    numbers = viewer.WatchStats(observer.WatchStatsRequest(pools=[POOL]))
    refused("POOL_NOT_FOUND", lambda: list(numbers))  # at once, or when it is gone
    audit = operator.Audit(admin.AuditRequest())
    expect(audit.checked_chunk_count > 0 and not audit.violations, "no invariant is broken")


if __name__ == "__main__":
    try:
        with connect(*sys.argv[1:]) as channel:
            story(channel)
    except grpc.RpcError as error:
        sys.exit(f"story.py: {error.code().name} {reason_of(error) or ''}: {error.details()}")
    print(f"story.py: told with grpcio {grpc.__version__}")
