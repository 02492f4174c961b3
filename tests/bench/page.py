#!/usr/bin/env python3
"""Measures zerocp beside its peers and writes the page that tells of it: tests/bench/README.md and its plots.

usage: tests/bench/page.py [JSON...]

Without arguments: builds the preset release, runs zerocp_bench and recovery_bench there (some minutes; leave
the machine alone), and writes the page. With files that they wrote (--json): only writes the page.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COLOURS = ["#0b6e4f", "#c8553d", "#3d5a80", "#b08900", "#7b2d8b", "#555555", "#1b9aaa", "#e07a9b"]


def measure():
    """Returns the files that the two programs wrote."""
    subprocess.run(["cmake", "--preset", "release"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    targets = ["zerocp_bench", "recovery_bench", "zerocpd"]
    subprocess.run(["cmake", "--build", "--preset", "release", "--target", *targets], cwd=ROOT, check=True)
    work = Path(tempfile.mkdtemp())
    for program in targets[:2]:
        path = work / f"{program}.json"
        subprocess.run([ROOT / "build/release/bin" / program, "--json", path], check=True, stdout=subprocess.DEVNULL)
        yield path


def load(paths):
    report = {"machine": {}, "peers": [], "results": [], "ratios": [], "memory": []}
    for path in paths:
        for key, value in json.loads(Path(path).read_text()).items():
            report[key] = report[key] or value if key == "machine" else report[key] + value
    return report


def nice_ns(ns):
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns")):
        if ns >= factor or unit == "ns":
            return f"{ns / factor:.3g} {unit}"
    return ""


def svg(title, series, x_name, x_labels, file):
    """Lines of (name, [ns or None, as many as x_labels]) over a logarithmic scale of time."""
    import math

    values = [v for _, points in series for v in points if v]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    width, height, left, top = 760, 400, 70, 40
    plot_width, plot_height = 500, 300
    x = lambda i: left + plot_width * (i + 0.5) / len(x_labels)
    y = lambda v: top + plot_height * (high - math.log10(v)) / (high - low)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="22" font-size="15">{title}</text>',
    ]
    for power in range(low, high + 1):
        out.append(f'<line x1="{left}" x2="{left + plot_width}" y1="{y(10**power)}" y2="{y(10**power)}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(10**power) + 4}" text-anchor="end">{nice_ns(10**power)}</text>')
    for i, label in enumerate(x_labels):
        out.append(f'<text x="{x(i)}" y="{top + plot_height + 18}" text-anchor="middle">{label}</text>')
    out.append(f'<text x="{left + plot_width / 2}" y="{top + plot_height + 40}" text-anchor="middle">{x_name}</text>')
    for number, (name, points) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        there = [(x(i), y(v)) for i, v in enumerate(points) if v]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in there)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in there]
        line = top + 10 + 20 * number
        out.append(f'<rect x="{left + plot_width + 15}" y="{line - 9}" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{left + plot_width + 33}" y="{line + 2}">{name}</text>')
    (HERE / file).write_text("\n".join(out) + "\n</svg>\n")


def over_works(report, works, key="median_ns"):
    """One line for each subject, one point for each work."""
    found = {}
    for result in report["results"]:
        if result["work"] in works and key in result:
            found.setdefault(result["subject"], {})[result["work"]] = result[key]
    return [(name, [points.get(work) for work in works]) for name, points in found.items()]


def distribution(report, works):
    names = {0.05: 1, 0.25: 5, 0.5: 10, 0.75: 15, 0.95: 19, 0.99: 20, 0.999: 21}
    lines = []
    for result in report["results"]:
        if result["work"] in works and "quantiles_ns" in result:
            name = result["subject"] if len(works) == 1 else f'{result["work"].split("/")[1]}, {result["subject"]}'
            lines.append((name, [result["quantiles_ns"][i] for i in names.values()]))
    return lines, [f"p{100 * fraction:g}" for fraction in names]


def plots(report):
    """Writes those for which there are results; returns their titles and files."""
    written = []

    def plot(title, series, x_name, labels, file):
        if any(value for _, points in series for value in points):
            svg(title, series, x_name, labels, file)
            written.append((title, file))

    sizes = ["1KiB", "64KiB", "1MiB", "25MB"]
    works = [f"ping_pong/{size}" for size in sizes]
    plot("Round trip between two processes, polling: median", over_works(report, works), "message", sizes, "latency.svg")
    sizes = ["1KiB", "64KiB", "1MiB", "32MiB"]
    for suffix, what, file in (("", "untouched", "stream.svg"), ("/filled", "filled and read", "stream_filled.svg")):
        works = [f"stream/{size}{suffix}" for size in sizes]
        plot(f"Stream, time per message, {what}: median", over_works(report, works), "message", sizes, file)
    counts = [1, 2, 4, 8, 16]
    works = [f"fan_out/{count}" for count in counts]
    plot("A message to N subscribers: median", over_works(report, works), "subscribers", counts, "fan_out.svg")
    members = [f"{p}/{s}" for p, s in ((1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4), (4, 16))]
    for kind in ("waiting", "dropping"):
        works = ["{}/publishers={}/subscribers={}".format(kind, *pair.split("/")) for pair in members]
        title = f"Publishers, {kind}, time per message of all: median"
        plot(title, over_works(report, works), "publishers/subscribers", members, f"{kind}.svg")
    lines, labels = distribution(report, ["ping_pong/1KiB"])
    plot("Round trip of 1 KiB, polling: distribution", lines, "quantile", labels, "distribution.svg")
    lines, labels = distribution(report, [f"client_killed/{work}" for work in ("loan_release", "ping_pong", "stream")])
    plot("While a client is killed every 100 ms: distribution", lines, "quantile", labels, "killed.svg")
    return written


def page(report):
    machine = report["machine"]
    yield "# zerocp beside its peers"
    yield ""
    yield "Written by [page.py](page.py) from what `zerocp_bench` and `recovery_bench` measured; to reproduce it, on Debian 12:"
    yield ""
    yield "    deploy/setup.sh && tests/bench/page.py"
    yield ""
    yield f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}; load average"
    yield f"{machine['load']:.1f} at the end. The subjects of a work take turns, round by round, and a ratio is the median of"
    yield "the ratios of neighbours in time: quote ratios, not times, which depend on the machine and on who else works on it."
    yield "Two processes run on two processors; who polls has one of them for itself only if nobody else wants it."
    yield ""
    for title, file in plots(report):
        yield f"![{title}]({file})"
        yield ""
    yield "## Goals"
    yield ""
    yield "The time that zerocp takes, divided by that of the other: small is good."
    yield ""
    yield "| work | against | ratio | quartiles | goal | holds |"
    yield "|---|---|---:|---:|---:|---|"
    for ratio in report["ratios"]:
        goal = f"{ratio['goal']:.3g} | {'yes' if ratio['holds'] else '**no**'}" if "goal" in ratio else "- | "
        quartiles = f"{ratio['lower_quartile']:.3g} to {ratio['upper_quartile']:.3g}"
        yield f"| {ratio['work']} | {ratio['against']} | {ratio['ratio']:.3g} | {quartiles} | {goal} |"
    yield ""
    yield "## Times"
    yield ""
    yield "| work | subject | processes | bytes | median | p99 | p99.9 |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for result in report["results"]:
        start = f"| {result['work']} | {result['subject']} | {result['processes']} | {result['bytes']} |"
        if "missing" in result:
            yield f"{start} missing: {result['missing']} | | |"
        else:
            times = " | ".join(nice_ns(result[key]) for key in ("median_ns", "p99_ns", "p999_ns"))
            yield f"{start} {times} |"
    yield ""
    yield "A time is that of a batch, divided by its operations, but for round trips, each of which is one. `zerocp_bench --list`"
    yield "says what each work is. Who sleeps is asleep before he is woken: each end thinks for 20 us before it answers, which is"
    yield "not counted."
    yield ""
    yield from memory(report["memory"])
    yield "## Peers"
    yield ""
    for peer in report["peers"]:
        yield f"- {peer['name']}: {'missing: ' + peer['missing'] if peer['missing'] else peer['configuration']}"


def memory(rows):
    if not rows:
        return
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    found = {(row["what"], row["subject"]): f"{row['bytes']:,}" for row in rows}
    yield "## Memory"
    yield ""
    yield f"| bytes | {' | '.join(subjects)} |"
    yield f"|---|{'---:|' * len(subjects)}"
    for what in sorted({what for what, _ in found}):
        yield f"| {what} | {' | '.join(found.get((what, subject), '') for subject in subjects)} |"
    yield ""
    yield "A client's is what a process has more once it publishes and subscribes on so many channels and has sent itself a message on"
    yield "each; a proportional share counts a page of several processes in part. What a daemon has of the chunks themselves is left"
    yield "out: their number is its configuration's. iceoryx2 has no daemon, and pools of its own for each publisher."
    yield ""


def main(arguments):
    if arguments[:1] in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    report = load(arguments or measure())
    (HERE / "README.md").write_text("\n".join(page(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
