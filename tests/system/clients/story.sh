#!/usr/bin/env bash
# An operator's story with grpcurl and jq: create a pool, grow it, apply a configuration that was previewed as a diff, watch,
# find who leaks and who is behind, take it off, clean up, delete.
#
#   story.sh unix:/run/zerocp/admin.sock
#   story.sh HOST:PORT AUTHORITY [CERTIFICATE KEY]
#
# GRPCURL is another grpcurl. Exit status 1: something was refused, or is not as expected; the last line says what.
set -euo pipefail

target=$1
if [[ $target == unix:* ]]; then
  options=(-plaintext -unix)
  target=${target#unix:}
else
  options=(-cacert "$2" ${3:+-cert "$3" -key "$4"})
fi

die() {
  echo "story.sh: $*" >&2
  exit 1
}

# call METHOD [REQUEST]: the answer, or the answers of a stream, as JSON; of an error on standard error.
call() {
  "${GRPCURL:-grpcurl}" "${options[@]}" -max-time 60 -emit-defaults -format-error -d "${2:-}" "$target" "zerocp.v1.$1"
}

# expect FILTER TEXT: the JSON of standard input satisfies the filter.
expect() {
  jq -es "$1" >/dev/null || die "not as expected: $2"
}

# refused REASON METHOD REQUEST
refused() {
  local answer reason
  # Of a stream what came before it does not count.
  if answer=$(call "$2" "$3" 2>&1 >/dev/null); then die "$2 was not refused"; fi
  # A text of grpcurl's own may stand before the error.
  reason=$(sed -n '/^{/,$p' <<<"$answer" | jq -r '.details[0].reason') || reason=''
  [[ $reason == "$1" ]] || die "$2: $answer"
}

channel='.stats.channels[] | select(.channel == "channels/story")'

refused POOL_NOT_FOUND ObserverService/GetPool '{"name": "pools/story"}'

# Create, as a preview and really, and grow.
create='"pool_id": "story", "pool": {"chunk_size_bytes": 4096, "chunk_count": 16}'
call AdminService/CreatePool "{$create, \"validate_only\": true}" | expect '.[0].created | not' "a preview creates nothing"
call AdminService/CreatePool "{$create}" | expect '.[0].created' "the pool is created"
call AdminService/UpdatePool '{"pool": {"name": "pools/story", "chunk_count": 32}}' |
  expect '.[0].pool.chunk_count == "32"' "the pool is grown"

# The configuration as a whole: what is in force, edited; first what would change, then the change.
config=$(call ObserverService/GetConfig)
request=$(jq '{config: (.config
  | (.pools[] | select(.name == "pools/story")).chunk_count = "48"
  | .channels += [{name: "channels/story", pool: "pools/story", when_full: "WHEN_FULL_WAIT", queue_capacity: 4}])}' <<<"$config")
preview=$(call AdminService/ApplyConfig "$(jq '.validate_only = true' <<<"$request")")
jq -r '.changes[] | "\(.action) \(.path): \(.old_value) -> \(.new_value)"' <<<"$preview"
expect '.[0].changes | length == 2 and (.[0] | .action == "ACTION_ADD" and .path == "channels/story") and
  (.[1] | .action == "ACTION_UPDATE" and .path == "pools/story.chunk_count" and .old_value == "32" and .new_value == "48")' \
  "the preview tells both changes" <<<"$preview"
{ echo "$config"; call ObserverService/GetConfig; } | expect '.[0].config == .[1].config' "a preview changes nothing"
{ echo "$preview"; call AdminService/ApplyConfig "$request"; } | expect '.[0].changes == .[1].changes' "what was previewed is done"
call ObserverService/GetConfig | expect '.[0].config | .pools + .channels | any(.name == "pools/story" and .chunk_count == "48")
  and any(.name == "channels/story" and .queue_capacity == 4)' "the configuration is in force"
refused ETAG_MISMATCH AdminService/ApplyConfig "$request" # it was made of one that is in force no more

# Watch until somebody is behind; who is it, and what does it hold?
stalled=$(jq -rn 'first(inputs | select(.kind == "KIND_SUBSCRIBER_STALLED" and (.resource | startswith("channels/story/"))).resource)' \
  < <(call ObserverService/WatchEvents))
subscriber=$(call ObserverService/WatchStats '{"max_updates": 1}' | jq "$channel.subscribers[0]")
session=$(jq -r .session <<<"$subscriber")
jq -r '"\(.client_name) of \(.session) is \(.queued_count) messages behind for \(.stalled_for)"' <<<"$subscriber"
expect ".[0] | .subscriber == \"$stalled\" and .queued_count == \"4\" and .client_name == \"leaky\"" "who is behind" <<<"$subscriber"
held=$(call ObserverService/ListHeldChunks "{\"pool\": \"pools/story\", \"holder\": \"$session\"}")
jq -r '.holders[] | "process \(.peer_pid) keeps \(.chunk_count) chunks in \(.phase)"' <<<"$held"
expect '.[0].holders | any(.phase == "PHASE_WRITING" and .chunk_count == "3" and .client_name == "leaky")' "who leaks" <<<"$held"

# Take it off; the publisher goes on and ends. Then end the one that leaks.
call AdminService/DetachSubscriber "{\"name\": \"$stalled\"}" | expect '.[0].queued_count == "4"' "4 messages waited"
jq -n "first(inputs | $channel | select(.published_count == \"64\" and .publisher_count == 0))" \
  < <(call ObserverService/WatchStats '{"interval": "0.1s"}') | expect 'length == 1' "the publisher goes on"
call AdminService/TerminateSession "{\"name\": \"$session\", \"kill\": true}" |
  expect '.[0].released_chunk_count | tonumber >= 3' "its chunks are free"

# Clean up and delete.
call AdminService/Cleanup '{"kinds": ["KIND_DEAD_SESSION"]}' | expect '.[0].removed_count == 0' "nobody is left behind"
refused POOL_IN_USE AdminService/DeletePool '{"name": "pools/story"}'
call AdminService/DeleteChannel '{"name": "channels/story"}' >/dev/null
call AdminService/DeletePool '{"name": "pools/story", "drain": true}' | expect '.[0].pool.name == "pools/story"' "the pool goes"
refused POOL_NOT_FOUND ObserverService/WatchStats '{"pools": ["pools/story"], "interval": "0.1s"}' # at once, or when it is gone
call AdminService/Audit | expect '.[0] | .violation_count == "0" and .checked_chunk_count != "0"' "no invariant is broken"
echo "story.sh: told with $("${GRPCURL:-grpcurl}" -version 2>&1)"
