#!/usr/bin/env python3
"""Proves from the #include lines that the layers hold.

Low to high: shm < client, server; proto < server, client/cli. client and server never see each
other. gRPC stays in the services, the server's listener, the command and one test helper; shm and
the client library include nothing but the system, so that libzerocp drags nothing in.

usage: layers.py [--self-test]
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".h", ".hpp", ".c", ".cc", ".cpp", ".inc"}

# Angle-bracket includes that count as the system: the standard library and POSIX (no folder), the
# kernel and the C library's folders.
SYSTEM = re.compile(r"^([a-z0-9_]+(\.h)?|(sys|linux|asm|netinet|arpa|net)/[a-z0-9_/]+\.h)$")
NOT_SYSTEM = {"zerocp.h"}
GRPC = re.compile(r"^(grpc|grpcpp|grpc\+\+)/|\.grpc\.pb\.h$")
PUBLIC = re.compile(r"^zerocp\.h$|^zerocp/(?!v1/)")

MAY_INCLUDE_GRPC = re.compile(
    r"^(server/(.*/)?[a-z_0-9]*_service\.(h|cc)|server/grpc_[a-z_0-9]*\.(h|cc)"
    r"|client/cli/.*|tests/(.*/)?grpc_[a-z_0-9]*\.(h|cc))$"
)


def is_system(header):
    return bool(SYSTEM.match(header)) and header not in NOT_SYSTEM


def rule(path):
    """Returns the layer's name and a predicate (header, quoted) for what it may include."""
    if path.startswith("shm/"):
        return "shm", lambda h, q: h.startswith("shm/") if q else is_system(h)
    if path.startswith("client/cli/"):
        return "client/cli", lambda h, q: not re.match(r"(server|tests)/", h)
    if path.startswith(("client/include/", "client/examples/")):
        return "a public header or example", lambda h, q: bool(PUBLIC.match(h)) or (not q and is_system(h))
    if path.startswith("client/python/"):
        return "the Python package", lambda h, q: (
            h.startswith("client/python/") if q else h in ("Python.h", "zerocp.h") or is_system(h)
        )
    if path.startswith("client/"):
        return "client", lambda h, q: (
            bool(PUBLIC.match(h)) or (bool(re.match(r"(shm|client)/(?!cli/)", h)) if q else is_system(h))
        )
    if path.startswith("server/"):
        return "server", lambda h, q: not PUBLIC.match(h) and not re.match(r"(client|tests)/", h)
    if path.startswith("tests/"):
        return "tests", lambda h, q: True
    return "", lambda h, q: not re.match(r"tests/", h)


def violations(root, paths):
    found = []
    for path in paths:
        layer, allowed = rule(path)
        for number, line in enumerate((root / path).read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, header = match[1] == '"', match[2]
            why = ""
            if GRPC.search(header) and not MAY_INCLUDE_GRPC.match(path):
                why = "gRPC belongs in *_service, server/grpc_*, client/cli and tests/**/grpc_*"
            elif quoted and ("../" in header or "/" not in header and header != "zerocp.h"):
                why = "includes are written from the root"
            elif not allowed(header, quoted):
                why = f"{layer} must not include this"
            if why:
                found.append(f"{path}:{number}: {line.strip()}: {why}")
    return found


def source_paths(root):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    return sorted(p for p in listed if Path(p).suffix in SOURCES and (root / p).is_file())


# (file that gets the line, the line): each must be refused.
SEEDS = [
    ("shm/layout.h", '#include "server/core.h"'),
    ("shm/layout.h", '#include "client/internal/seed.h"'),
    ("shm/layout.h", '#include "zerocp/v1/resources.pb.h"'),
    ("shm/layout.h", "#include <absl/status/status.h>"),
    ("shm/layout.h", '#include "absl/status/status.h"'),
    ("shm/layout.h", "  #  include <grpcpp/grpcpp.h>"),
    ("shm/layout.h", "#include <zerocp.h>"),
    ("shm/layout.h", '#include "../server/core.h"'),
    ("shm/layout.h", '#include "status.h"'),
    ("client/internal/seed.cc", '#include "server/core.h"'),
    ("client/python/core/core.h", '#include "shm/layout.h"'),
    ("client/internal/seed.cc", '#include "client/cli/seed.h"'),
    ("client/internal/seed.cc", "#include <grpcpp/grpcpp.h>"),
    ("client/internal/seed.cc", '#include "absl/status/status.h"'),
    ("client/internal/seed.cc", '#include "zerocp/v1/resources.pb.h"'),
    ("client/internal/seed.cc", "#include <google/protobuf/message.h>"),
    ("client/include/zerocp/seed.h", '#include "shm/layout.h"'),
    ("client/cli/seed.cc", '#include "server/core.h"'),
    ("server/seed.cc", '#include "client/internal/seed.h"'),
    ("server/seed.cc", '#include "zerocp/publisher.h"'),
    ("server/seed.cc", '#include "zerocp/v1/session_service.grpc.pb.h"'),
    ("server/seed.cc", "#include <grpcpp/server.h>"),
    ("server/seed.cc", '#include "tests/unit/seed.h"'),
    ("tests/unit/seed_test.cc", "#include <grpcpp/grpcpp.h>"),
]
# These must be accepted.
GOOD = [
    ("shm/layout.h", "#include <linux/futex.h>"),
    ("shm/layout.h", '#include "shm/status.h"'),
    ("client/internal/seed.cc", '#include "shm/layout.h"'),
    ("client/internal/seed.cc", '#include "zerocp/publisher.h"'),
    ("client/include/zerocp/seed.h", "#include <zerocp.h>"),
    ("client/cli/seed.cc", "#include <grpcpp/grpcpp.h>"),
    ("server/seed_service.cc", '#include "zerocp/v1/session_service.grpc.pb.h"'),
    ("server/grpc_seed.cc", "#include <grpcpp/server.h>"),
    ("server/seed.cc", '#include "absl/status/status.h"'),
    ("server/seed.cc", "#include <spdlog/spdlog.h>"),
    ("tests/unit/grpc_seed.h", "#include <grpcpp/grpcpp.h>"),
]


def self_test(root, paths):
    """Seeds one include after the other into a copy of the tree and checks what is said of it."""
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for path in paths:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy / path)
        for seeds, refused in ((SEEDS, True), (GOOD, False)):
            for path, line in seeds:
                file = copy / path
                before = file.read_bytes() if file.exists() else None
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes((before or b"") + b"\n" + line.encode() + b"\n")
                reports = [v for v in violations(copy, [path]) if line.strip() in v]
                if bool(reports) != refused:
                    wrong.append(f"{path}: {line}: {'not refused' if refused else reports[0]}")
                if before is None:
                    file.unlink()
                else:
                    file.write_bytes(before)
    print("\n".join(wrong) or f"layers: self-test: {len(SEEDS)} bad includes refused, {len(GOOD)} good ones accepted")
    return not wrong


def main():
    if sys.argv[1:] not in ([], ["--self-test"]):
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    paths = source_paths(root)
    if sys.argv[1:]:
        return 0 if self_test(root, paths) else 1
    if not paths:
        print("layers: no sources found", file=sys.stderr)
        return 1
    found = violations(root, paths)
    print("\n".join(found) or f"layers: {len(paths)} files, includes point down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
