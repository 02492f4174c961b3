#!/usr/bin/python3
"""deploy/container and deploy/kubernetes, as far as they can be checked without an engine: they fit each other, the image
has what the programs are linked to, and a daemon starts and answers the way they say."""
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SOURCE = Path(os.environ["ZEROCP_SOURCE_DIR"]) / "deploy"
BIN = Path(os.environ["ZEROCP_BIN_DIR"])
IN_EVERY_IMAGE = {"libc6", "libgcc-s1", "libstdc++6"}
HARDENED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def check(holds, what):
    if not holds:
        sys.exit(f"kubernetes_test: {what}")


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def package_of(library):
    """The Debian package of a shared library of this machine."""
    path = re.search(rf"^\s*{re.escape(library)} .*=> (\S+)$", run("/sbin/ldconfig", "-p"), re.MULTILINE)[1]
    for name in (os.path.realpath(path), os.path.realpath(path).removeprefix("/usr")):
        found = subprocess.run(["dpkg", "-S", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    return sys.exit(f"kubernetes_test: {library} ({path}) is of no package")


def check_image(text):
    """Returns the arguments of its entry point, and the ids of its user's groups."""
    listed = set(re.search(r"install -y --no-install-recommends \\\n(.*?) &&", text, re.DOTALL)[1].replace("\\", "").split())
    needed = set()
    for program in (BIN / "zerocpd", BIN / "zerocp", BIN / "../lib/libzerocp.so"):
        needed |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", program)))
    needed = {library for library in needed if not library.startswith(("libzerocp", "ld-linux"))}
    packages = {package_of(library) for library in needed} - IN_EVERY_IMAGE
    check(listed == packages, f"packages of the image: superfluous {listed - packages}, missing {packages - listed}")
    check("RUN deploy/setup.sh --build " in text, "the image is built with more than the programs need")
    groups = {name: int(number) for number, name in re.findall(r"groupadd --gid (\d+) (\S+)", text)}
    check(f"USER {groups['zerocp']}\n" in text and f"useradd --uid {groups['zerocp']} " in text,
          "the image does not run as its own user")
    return re.findall(r'"([^"]*)"', re.search(r"^ENTRYPOINT \[(.*)\]$", text, re.MULTILINE)[1]), groups


def check_pod(pod, what):
    """What a pod of the daemon and one of a client have in common. Returns its only container, and path -> volume."""
    check(pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0, f"{what} runs as root")
    check("hostIPC" not in pod and "hostNetwork" not in pod, f"{what} has more of the host than it needs")
    check(len(pod["containers"]) == 1, f"{what} has several containers")
    container = pod["containers"][0]
    check(container["securityContext"] == HARDENED, f"{what} is not hardened")
    check("memory" in container["resources"]["limits"], f"{what} has no memory limit")
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    every = [mount["name"] for one in [*pod["containers"], *pod.get("initContainers", [])] for mount in one["volumeMounts"]]
    check(set(every) == set(volumes), f"{what}: a volume is not used")
    return container, mounted


def check_start(command, probe, client):
    """A daemon with the image's and the DaemonSet's arguments, but for where its files, groups and ports are."""
    with tempfile.TemporaryDirectory(prefix="zerocp-kubernetes.") as work:
        here = {"/run/zerocp": f"{work}/run", "0.0.0.0:9400": "127.0.0.1:0"}
        command = [BIN / "zerocpd", *(here.get(word, word) for word in command[1:])]
        group = run("id", "-gn").strip()
        options = ["--socket-group", group, "--admin-group", group, "--on-stop", "unlink"]
        with subprocess.Popen([*command, *options]) as daemon:
            try:
                asked = [BIN / "zerocp", *(here.get(word, word) for word in probe[1:])]
                while subprocess.run(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
                    check(daemon.poll() is None, "the daemon does not start")
                    time.sleep(0.05)
                channels = run(BIN / "zerocp", "channels", "--runtime-dir", f"{work}/run")
                check(re.search(rf"^{client[2]}\b", channels, re.MULTILINE), f"the client's channel {client[2]} is not there")
            finally:
                daemon.terminate()
            check(daemon.wait() == 0, "the daemon does not stop in order")


def main():
    entry, groups = check_image((SOURCE / "container/Containerfile").read_text(encoding="utf-8"))
    daemon_set = yaml.safe_load((SOURCE / "kubernetes/daemonset.yaml").read_text(encoding="utf-8"))
    client_pod = yaml.safe_load((SOURCE / "kubernetes/client-pod.yaml").read_text(encoding="utf-8"))
    template = daemon_set["spec"]["template"]
    check(daemon_set["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"], "the selector has other labels")
    pod = template["spec"]
    daemon, mounted = check_pod(pod, "the daemon")
    check(pod["hostPID"] is True, "the daemon cannot see its clients' processes")
    check(mounted == {"/run/zerocp": "/run/zerocp", "/dev/shm": "/dev/shm"}, f"the daemon's directories: {mounted}")
    security = pod["securityContext"]
    check([security["runAsUser"], security["runAsGroup"], *security["supplementalGroups"]] ==
          [groups["zerocp"], groups["zerocp"], groups["zerocp-admin"]], "the daemon's ids are not the image's")
    first = pod["initContainers"][0]
    owner = first["command"]
    check(owner[:6] == ["install", "-d", "-o", str(groups["zerocp"]), "-g", str(groups["zerocp"])] and
          owner[-1:] == [mount["mountPath"] for mount in first["volumeMounts"]], "the runtime directory is not the daemon's")
    check({volume["hostPath"]["path"] for volume in pod["volumes"]} == set(mounted.values()), "more of the host is mounted than the daemon needs")

    client, mounted = check_pod(client_pod["spec"], "the client")
    check("hostPID" not in client_pod["spec"], "the client has the host's processes")
    check(mounted == {"/run/zerocp": "/run/zerocp"}, f"the client's directories: {mounted}")
    check(client_pod["spec"]["securityContext"]["supplementalGroups"] == [groups["zerocp"]], "the client may not open the sockets")
    images = {container["image"] for container in (daemon, client, *pod["initContainers"])}
    check(len(images) == 1, f"several images: {images}")
    check(daemon["startupProbe"]["exec"] == daemon["livenessProbe"]["exec"], "two probes ask for different things")
    check_start([*entry, *daemon["args"]], daemon["livenessProbe"]["exec"]["command"], client["command"])
    print("kubernetes_test: OK")


main()
