#!/usr/bin/env bash
# Does zerocp_bench measure what others measure? iceoryx's own benchmark, iceperf, has to agree with its round trip of 1 KiB
# over iceoryx within 25 %.
#
# usage: tests/bench/second_opinion.sh [TURNS]     (5; a minute)
#
# Not part of tests/run.sh: no package has iceperf. Its source comes from a Debian mirror, of the version that Debian 12 has,
# and is built against the installed library. The two take turns, as there is one iox-roudi per machine. iceperf tells means,
# of which those that were interrupted are wrong by far: it is believed in the median over its sizes, none of which it touches.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

turns=${1:-5}
source=http://deb.debian.org/debian/pool/main/i/iceoryx/iceoryx_2.0.3+dfsg.orig.tar.xz
sha256=04bafa04fab3d16931874e2cc28ffedc23de87353d154a75eb21d41b1979cd80
bench=${ZEROCP_BIN_DIR:-build/release/bin}/zerocp_bench
halves_us=2000 # of what iceperf tells, half a round trip in microseconds, to nanoseconds of a round trip

die() { printf 'second_opinion: %s\n' "$1" >&2; exit 1; }
[[ -x $bench ]] || die "no $bench: cmake --preset release && cmake --build --preset release --target zerocp_bench zerocpd"
bench=$(realpath "$bench")
[[ -x /usr/bin/iox-roudi && -d /usr/include/iceoryx/v2.0.3 ]] || die "Debian's packages iceoryx and libiceoryx-posh-dev are needed, 2.0.3"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

/usr/lib/apt/apt-helper download-file "$source" source.tar.xz "SHA256:$sha256" >log 2>&1 || die "no source from $source: $(tail -n 1 log)"
apt-get download libiceoryx-binding-c-dev libiceoryx-binding-c2 >log 2>&1 || die "no packages of its C interface: $(tail -n 1 log)"
for package in *.deb; do dpkg -x "$package" root; done
tar -xf source.tar.xz --strip-components=2 --wildcards '*/iceoryx_examples/iceperf'
# Without the last message that its publishers keep for who joins late, which costs a quarter more, and zerocp_bench has not.
sed -i 's/PublisherOptions{1U}/PublisherOptions{0U}/; s/SubscriberOptions{1U, 1U}/SubscriberOptions{1U, 0U}/' iceperf/iceoryx.cpp
[[ $(grep -cE 'PublisherOptions\{0U}|SubscriberOptions\{1U, 0U}' iceperf/iceoryx.cpp) == 2 ]] || die "iceperf has other options than it had"
include=/usr/include/iceoryx/v2.0.3
lib=$work/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
for file in iceperf/{main_leader,iceperf_leader,main_follower,iceperf_follower,base,iceoryx,iceoryx_c,uds,mq}.cpp; do
  g++ -std=c++17 -O2 -DNDEBUG -I"$include" -I"root$include" -c "$file" >log 2>&1 || die "iceperf does not build: $(grep -m 1 error log)"
done
for end in leader follower; do
  g++ {main_$end,iceperf_$end,base,iceoryx,iceoryx_c,uds,mq}.o -o $end -L"$lib" -Wl,-rpath,"$lib" \
    -liceoryx_binding_c -liceoryx_posh -liceoryx_hoofs -liceoryx_platform -pthread -lrt >log 2>&1 || die "iceperf does not link: $(tail -n 1 log)"
done

cat >pools.toml <<'POOLS'
[general]
version = 1
[[segment]]
[[segment.mempool]]
size = 1024
count = 1000
[[segment.mempool]]
size = 4194304
count = 10
POOLS

median() { sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

# Nanoseconds of a round trip, each by one of them.
by_iceperf() (
  : >roudi.log
  iox-roudi --config-file pools.toml --monitoring-mode off >roudi.log 2>&1 &
  roudi=$!
  trap 'kill "$roudi" 2>/dev/null || true; wait "$roudi" || true' EXIT
  until grep -q 'RouDi is ready' roudi.log; do
    kill -0 "$roudi" 2>/dev/null || die "iox-roudi ended (does another one run on this machine?): $(tail -n 1 roudi.log)"
    sleep 0.05
  done
  taskset -c 1 timeout 60 ./follower >follower.log 2>&1 &
  follower=$!
  taskset -c 0 timeout 60 ./leader --technology iceoryx-cpp-api -n 100 >leader.log 2>&1 || die "iceperf failed: $(tail -n 1 leader.log)"
  wait "$follower" || die "iceperf's follower failed: $(tail -n 1 follower.log)"
  awk -F'|' -v unit="$halves_us" '$2 ~ /^ +[0-9]+ $/ { print $3 * unit }' leader.log | median
)
by_zerocp_bench() {
  "$bench" --work ping_pong/1KiB --peers iceoryx --json ours.json >bench.log 2>&1 || die "zerocp_bench failed: $(tail -n 1 bench.log)"
  jq '.results[] | select(.subject == "iceoryx") | .median_ns' ours.json
}

for ((turn = 0; turn < turns; ++turn)); do
  printf '%s %s\n' "$(by_zerocp_bench)" "$(by_iceperf)"
done | tee figures | awk '{ printf "zerocp_bench %5d ns, iceperf %5d ns, ratio %.2f\n", $1, $2, $1 / $2 }'
[[ $(grep -cE '^[0-9.]+ [0-9.]+$' figures) == "$turns" ]] || die "not every turn has two figures"
ratio=$(awk '{ print $1 / $2 }' figures | median)
awk -v ratio="$ratio" 'BEGIN { exit !(ratio >= 0.8 && ratio <= 1.25) }' ||
  die "they do not agree: the median of the ratios is $ratio, not from 0.8 to 1.25"
echo "second_opinion: OK, the median of the ratios is $ratio"
