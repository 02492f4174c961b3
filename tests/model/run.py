#!/usr/bin/env python3
"""Checks the models: each row of runs.txt must hold, or be refuted, as the row says.

usage: tests/model/run.py [--long] [-j JOBS] [MODEL...]

  --long   the rows with larger bounds instead (minutes, and up to 12 GiB of memory each)
  -j JOBS  runs at a time (default: all processors; 1 with --long)
  MODEL    only the rows of these models

Prints a line per run: what was explored, how long it took, and the result. A search that was not
complete (a bound of the checker was reached) is a failure, whatever the row says.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parent
SPIN_DEPTH = 2_000_000
MEMORY_MIB = {"ci": 2000, "long": 12000}


class Row:
    def __init__(self, line):
        columns = [column.strip() for column in line.split("|")]
        if len(columns) != 4 or columns[0] not in MEMORY_MIB or columns[3] not in ("holds", "refuted"):
            sys.exit(f"runs.txt: a row is 'ci or long | model | switches | holds or refuted', not: {line}")
        self.length, self.model, self.switches, self.expected = columns


def call(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def run_spin(row, folder):
    """Returns (explored, result); result is holds, refuted or what went wrong."""
    spin = ["spin", "-a", *(f"-D{switch}" for switch in row.switches.split()), str(FOLDER / f"{row.model}.pml")]
    status, out = call(spin, folder)
    if status != 0 or not (folder / "pan.c").exists():
        return "", f"spin cannot read the model: {out.strip()}"
    optimize = "-O2" if row.length == "long" else "-O0"  # compiling takes longer than a short search
    status, out = call(["gcc", optimize, "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048",
                        f"-DMEMLIM={MEMORY_MIB[row.length]}", "-o", "pan", "pan.c"], folder)
    if status != 0:
        return "", f"the checker cannot be compiled: {out.strip()}"
    hash_bits = 26 if row.length == "long" else 20
    status, out = call(["./pan", f"-m{SPIN_DEPTH}", "-n", f"-w{hash_bits}"], folder)
    found = re.search(r"depth reached (\d+), errors: (\d+)\n\s*(\d+) states, stored", out)
    if found is None:
        return "", f"the checker ended with {status}: {out.strip()[-500:]}"
    depth, errors, states = (int(number) for number in found.groups())
    explored = f"{states:>10} states, depth {depth:>5}"
    if errors > 0:
        wrong = re.search(r"pan:\d+: (assertion violated|invalid end state)", out)
        return explored, "refuted" if wrong else f"stopped: {out.strip()[:300]}"
    complete = not re.search(r"max search depth too small|out of memory|Search not completed|memory limit", out)
    return explored, "holds" if complete else "the search was not complete"


def run_relacy(row, folder, binaries):
    """The same for a C++ model, which is compiled once; its switches are arguments."""
    status, out = call([str(binaries[row.model]), *row.switches.split()], folder)
    found = re.search(r"^(\d+) executions: (holds|refuted)$", out, re.M)
    if found is None:
        return "", f"ended with {status}: {out.strip()[-500:]}"
    return f"{found.group(1):>10} executions", found.group(2)


def compile_relacy(model, folder):
    binary = folder / model
    status, out = call(["g++", "-std=c++17", "-O1", "-w", "-o", str(binary), str(FOLDER / f"{model}.cc")], folder)
    if status != 0:
        sys.exit(f"run.py: {model}.cc cannot be compiled (is relacy-dev installed?):\n{out}")
    return binary


def run(row, binaries):
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zerocp-model-") as folder:
        if row.model in binaries:
            explored, result = run_relacy(row, pathlib.Path(folder), binaries)
        else:
            explored, result = run_spin(row, pathlib.Path(folder))
    right = result == row.expected
    verdict = result if right else f"WRONG: {result} (must be: {row.expected})"
    print(f"{row.model:<14} {row.switches:<76} {explored:<32} {time.monotonic() - start:6.1f} s  {verdict}", flush=True)
    return right


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("-j", type=int, dest="jobs")
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    rows = [Row(line) for line in (FOLDER / "runs.txt").read_text().splitlines() if line and line[0] != "#"]
    known = {row.model for row in rows}
    for path in FOLDER.glob("*.pml"):
        if "proctype" in path.read_text() and "init {" in path.read_text() and path.stem not in known:
            sys.exit(f"run.py: runs.txt does not run {path.name}")
    for model in known:
        expected = {row.expected for row in rows if row.model == model and row.length == "ci"}
        if expected != {"holds", "refuted"} and not model.startswith("refuted_"):
            sys.exit(f"run.py: {model} needs a row in runs.txt that holds and one that is refuted")
    unknown = set(options.models) - known
    if unknown:
        sys.exit(f"run.py: runs.txt has no model {', '.join(sorted(unknown))}")
    length = "long" if options.long else "ci"
    rows = [row for row in rows if row.length == length and (not options.models or row.model in options.models)]
    jobs = options.jobs or (1 if options.long else os.cpu_count())
    with tempfile.TemporaryDirectory(prefix="zerocp-model-") as folder, \
            concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        sources = sorted({row.model for row in rows if (FOLDER / f"{row.model}.cc").exists()})
        compiled = pool.map(lambda model: compile_relacy(model, pathlib.Path(folder)), sources)
        binaries = dict(zip(sources, compiled))
        right = list(pool.map(lambda row: run(row, binaries), rows))
    print(f"model: {len(rows)} runs, {len(rows) - sum(right)} wrong")
    return 0 if right and all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
