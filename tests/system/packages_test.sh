#!/usr/bin/env bash
# The Debian packages in a clean Debian: they install, do what the quickstart does, build a user's program, and leave
# nothing when they are purged. Needs root and a Debian mirror.
# The commands are those of deploy/README.md.
#   packages_test.sh DIRECTORY_OF_THE_PACKAGES
set -euo pipefail
fail() {
  echo "packages_test: $*" >&2
  exit 1
}
# Mounts and processes are those of a namespace of its own, and go with it.
if [[ ${ZEROCP_IN_NAMESPACE:-} != yes ]]; then
  [[ $EUID -eq 0 ]] || fail "needs root: debootstrap and chroot do"
  for program in debootstrap unshare; do
    command -v "$program" >/dev/null || fail "there is no $program: deploy/setup.sh installs it"
  done
  ZEROCP_IN_NAMESPACE=yes exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
packages=$(realpath "$1")
tests=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
guide=$tests/../../deploy/README.md
root=$(mktemp -d /tmp/zerocp-packages.XXXXXX)
work=$(mktemp -d /tmp/zerocp-packages-work.XXXXXX)
chmod 0755 "$root" # every user's /
init='' # of the machine that is booted
clean_up() {
  [[ -z $init ]] || kill -KILL "$init" || true
  wait
  umount --lazy "$root/proc" "$root/dev/shm" 2>/dev/null || true
  rm -rf --one-file-system "$root" "$work"
}
trap clean_up EXIT

# shellcheck disable=SC2016 # apt expands it
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sort -u | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}
start=$SECONDS
say() { echo "packages_test: $((SECONDS - start)) s: $*"; }
say "a clean Debian 12 from $mirror"
debootstrap --variant=minbase --include=systemd bookworm "$root" "$mirror" >"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  fail "debootstrap cannot make a clean Debian from $mirror (above): is the mirror in reach?"
}
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=256m,mode=1777 tmpfs "$root/dev/shm"

# in_root [VARIABLE=VALUE...] COMMAND...
in_root() {
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
# logged WHAT COMMAND...: its output is shown if it fails.
logged() {
  "${@:2}" >"$work/log" 2>&1 </dev/null || {
    tail -n 20 "$work/log" >&2
    fail "$1 failed (above)"
  }
}
# blocks TAG: the commands of the guide's blocks ```sh TAG.
blocks() {
  sed -n "/^\`\`\`sh $1\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" "$guide" >"$root/packages/commands"
  [[ -s $root/packages/commands ]] || fail "deploy/README.md has no block '$1'"
}
# guide TAG: runs them where the packages are.
guide() {
  blocks "$1"
  logged "a command of deploy/README.md, '$1'," in_root SUDO_USER=games sh -c 'cd /packages && exec bash -euxo pipefail ./commands'
}
# All files, but what apt and dpkg themselves, and the tools below, write; the users and groups.
files() {
  (cd "$root" && find . -xdev \( -path ./proc -o -path ./tmp -o -path ./packages -o -path ./old -o -path ./var/log/journal -o -path ./var/lib/apt -o -path ./var/lib/dpkg -o -path ./var/cache \
    -o -path ./var/log/apt \) -prune -o -print | sort)
}
users() { (cd "$root/etc" && sort passwd group shadow gshadow); }

echo 'APT::Install-Recommends "false";' >"$root/etc/apt/apt.conf.d/packages_test"
logged "apt-get update" in_root apt-get update -q
mkdir "$root/packages"
cp "$packages"/*.deb "$root/packages"
files >"$work/files_before"
users >"$work/users_before"

say "installs daemon, command and library"
guide install
cp "$tests/packages_test_job.sh" "$root/packages"
in_root bash -euo pipefail /packages/packages_test_job.sh || fail "the job failed (above)"

say "builds a program with find_package(zerocp)"
guide develop
cp -r "$tests/packages_test_user" "$root/packages/user"
logged "a user's build" in_root sh -c 'cmake -S /packages/user -B /packages/user/build && cmake --build /packages/user/build'
in_root bash -euo pipefail /packages/packages_test_job.sh /packages/user/build/user || fail "the program failed (above)"

say "an upgrade keeps the administrator's configuration"
echo '# mine' >>"$root/etc/zerocp/zerocpd.yaml"
logged "dpkg --install" in_root sh -c 'dpkg --install /packages/zerocpd_*.deb'
grep -q '^# mine' "$root/etc/zerocp/zerocpd.yaml" || fail "an upgrade lost the administrator's configuration"

say "boots, reloads, hangs, is killed and started again"
unshare --mount --pid --fork --kill-child --uts --ipc --cgroup "$tests/packages_test_boot.sh" "$root" >"$work/boot" 2>&1 </dev/null &
machine=$!
until init=$(pgrep --parent "$machine" --exact systemd); do
  kill -0 "$machine" || fail "systemd does not start: $(cat "$work/boot")"
  sleep 0.1
done
cp "$tests/packages_test_systemd.sh" "$root/packages"
blocks systemd
nsenter --target "$init" --mount --pid --uts --ipc --cgroup /usr/bin/env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 \
  /packages/packages_test_systemd.sh /packages/commands || fail "under systemd (above)"
kill -KILL "$init"
wait "$machine" || true
init=''
in_root rm -r /etc/zerocp/desk.yaml /etc/systemd/system/zerocpd.service.d # the administrator's own

say "purges"
guide purge
# What is new and no other package's.
files | comm -13 "$work/files_before" - | sed 's/^\.//' >"$work/new"
sort -u "$root"/var/lib/dpkg/info/*.list >"$work/owned"
# Merged /usr: a package may say /lib, and scripts of other packages make links and caches.
left=$(sed 's#^/usr/\(lib\|bin\|sbin\)/#/\1/#' "$work/new" | sort -u |
  comm -23 - <(sed 's#^/usr/\(lib\|bin\|sbin\)/#/\1/#' "$work/owned" | sort -u) | grep -i zerocp || true)
[[ -z $left ]] || fail "left after the purge: ${left//$'\n'/ }"
[[ -z $(ls "$root/dev/shm") ]] || fail "left in /dev/shm: $(ls "$root/dev/shm")"
users | diff "$work/users_before" - >"$work/log" || fail "users and groups are not what they were: $(cat "$work/log")"
say "OK: installed, used, built against, and nothing is left"
