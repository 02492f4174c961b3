#!/usr/bin/env bash
# Becomes systemd, as the first process of a machine whose root is ROOT. In namespaces of its own: mount, pid, cgroup.
#   packages_test_boot.sh ROOT
set -euo pipefail
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
for dir in run dev; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777,size=256m tmpfs dev/shm
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for node in null zero full random urandom tty; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
if ! mount -t cgroup2 cgroup2 sys/fs/cgroup || [[ ! -s sys/fs/cgroup/cgroup.controllers ]]; then
  # The controllers are with cgroups of version 1, or nowhere: systemd needs its own hierarchy, at least.
  umount sys/fs/cgroup || true
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd systemd sys/fs/cgroup/systemd
fi
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --show-status=0
