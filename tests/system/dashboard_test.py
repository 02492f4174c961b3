#!/usr/bin/env python3
"""Each query of the Grafana dashboard, and each metric of the alerts, has samples in a real Prometheus that scrapes a
daemon under load; and an exhausted pool fires its alert.

usage: dashboard_test.py [--picture FILE.svg]

With --picture: plays a minute and a half of trouble, and draws some of the dashboard's series.
"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

SOURCE = Path(os.environ["ZEROCP_SOURCE_DIR"])
BIN = Path(os.environ["ZEROCP_BIN_DIR"])
TOOLS = Path(os.environ.get("ZEROCP_TOOLS", "/usr/local/lib/zerocp-tools"))
COLOURS = ["#0b6e4f", "#c8553d", "#3d5a80", "#b08900", "#7b2d8b", "#555555", "#1b9aaa", "#e07a9b"]
DRAWN = ["Chunks in use", "Loans refused because the pool was empty", "Messages published", "Longest queues",
         "Subscribers that take nothing", "Clients"]


class Programs:
    """What this script has started; all of it ends with it."""

    def __init__(self, work):
        self.work = work
        self.run = f"{work}/run"
        self.started = []

    def start(self, *command, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        process = subprocess.Popen([str(word) for word in command], **options)
        self.started.append(process)
        return process

    def zerocp(self, *words):
        command = [BIN / "zerocp", *words, "--runtime-dir", self.run]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def start_until(self, log, pattern, *command):
        """Starts a program that logs, and returns what `pattern` finds there."""
        with open(f"{self.work}/{log}", "w", encoding="utf-8") as file:
            process = self.start(*command, stderr=file)
        while True:
            text = Path(f"{self.work}/{log}").read_text(encoding="utf-8")
            if found := re.search(pattern, text, re.DOTALL):
                return found[1]
            if process.poll() is not None:
                sys.exit(f"dashboard_test: {command[0]} has ended:\n{text}")
            time.sleep(0.02)

    def stop(self):
        for process in self.started:
            process.kill()
        for process in self.started:
            process.wait()


class Prometheus:
    def __init__(self, programs, target):
        rules = (SOURCE / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
        Path(f"{programs.work}/alerts.yml").write_text(re.sub(r"\n +for: \w+", "", rules), encoding="utf-8")
        config = (SOURCE / "deploy/prometheus/zerocp.yml").read_text(encoding="utf-8")
        config = config.replace("127.0.0.1:9400", target).replace("15s", "1s")
        Path(f"{programs.work}/prometheus.yml").write_text(config, encoding="utf-8")
        address = programs.start_until(
            "prometheus.log", r'"Listening on" address=(\S+).*Server is ready', TOOLS / "prometheus",
            f"--config.file={programs.work}/prometheus.yml", f"--storage.tsdb.path={programs.work}/data",
            "--web.listen-address=127.0.0.1:0")
        self.url = f"http://{address}/api/v1/"

    def ask(self, path, **parameters):
        url = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"]["result"]

    def has(self, query):
        return any(math.isfinite(float(series["value"][1])) for series in self.ask("query", query=query))


def panels():
    """(title, unit, query, legend) of each of the dashboard's queries, with its variables filled in."""
    dashboard = json.loads((SOURCE / "deploy/grafana/zerocp.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5s").replace("$instance", ".*")
            unit = panel["fieldConfig"]["defaults"]["unit"]
            yield panel["title"], unit, query, target["legendFormat"]


def start_load(programs):
    """A daemon with a stream through it. Returns where its metrics are."""
    tls = f"{programs.work}/tls"
    subprocess.run([SOURCE / "deploy/tls/make_certificates.sh", "--server", "IP:127.0.0.1", tls], check=True,
                   stdout=subprocess.DEVNULL)
    target = programs.start_until(
        "daemon.log", r"metrics: http://([0-9.:]+)/.*ready:", BIN / "zerocpd", "--runtime-dir", programs.run,
        "--on-stop=unlink", "--metrics-listen", "0", "--pool", "video=64KiBx32", "--pool", "spare=4KiBx32", "--channel",
        "frames=video,queue=8", "--channel", "idle=spare", "--tls-listen", "127.0.0.1:0", "--tls-cert", f"{tls}/server.pem",
        "--tls-key", f"{tls}/server.key", "--tls-ca", f"{tls}/ca.pem", "--tls-admin", "admin.example.org")
    programs.start(BIN / "zerocp", "recv", "frames", "--runtime-dir", programs.run)
    sender = programs.start(BIN / "zerocp", "send", "frames", "--runtime-dir", programs.run, stdin=subprocess.PIPE)

    def feed():
        try:
            while True:
                os.write(sender.stdin.fileno(), bytes(16384))
                time.sleep(0.01)
        except OSError:
            pass  # it has ended

    threading.Thread(target=feed, daemon=True).start()
    return target


def leak(programs, channel="idle", pool="video"):
    return programs.start(BIN / "leaky", programs.run, channel, pool)


def test(programs, prometheus):
    wanted = {query for _, _, query, _ in panels()}
    rules = (SOURCE / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    wanted |= set(re.findall(r"\bzerocp_\w+", rules)) | {'up{job="zerocp"}'}
    wanted.add('ALERTS{alertname="ZerocpPoolExhausted", alertstate="firing", pool="video"}')
    count = len(wanted)
    if count < 25:
        sys.exit(f"dashboard_test: found only {count} queries")
    end = time.monotonic() + 90
    while not prometheus.has("zerocp_pool_exhausted_total == 0") and time.monotonic() < end:
        time.sleep(0.2)  # for what rises from there
    for _ in range(11):
        leak(programs)  # three of 32 chunks each; the last gets less, and ends
    while wanted and time.monotonic() < end:
        programs.zerocp("stats")
        wanted = {query for query in wanted if not prometheus.has(query)}
        time.sleep(0.2)
    if wanted:
        sys.exit("dashboard_test: no samples of\n" + "\n".join(sorted(wanted)))
    if prometheus.has("zerocp_no_such_metric"):
        sys.exit("dashboard_test: there are samples of what does not exist")
    print(f"dashboard_test: OK, {count} queries have samples")


def round_up(value):
    """To a number with one digit: the top of a scale."""
    step = 10 ** math.floor(math.log10(value))
    return math.ceil(value / step) * step


def draw(prometheus, begin, end, file):
    """The series of DRAWN that are ever above 0, as small plots, two in a row."""
    width, height, left, top, plot_width, plot_height = 460, 240, 62, 34, 380, 150
    out = []
    by_title = {title: rest for title, *rest in panels()}
    for number, title in enumerate(DRAWN):
        unit, query, legend = by_title[title]
        series = prometheus.ask("query_range", query=query, start=begin, end=end, step=1)
        series = [one for one in series if any(float(value) > 0 for _, value in one["values"])]
        high = round_up(max(float(value) for one in series for _, value in one["values"]))
        high = 1 if unit == "percentunit" else high
        out.append(f'<g transform="translate({number % 2 * width},{number // 2 * height})">')
        out.append(f'<text x="{left}" y="22" font-size="14">{escape(title)}</text>')
        for part in (0, 0.5, 1):
            y = top + plot_height * (1 - part)
            text = f"{high * part:.0%}" if unit == "percentunit" else f"{high * part:.3g}"
            text += {"ops": "/s", "s": " s"}.get(unit, "")
            out.append(f'<line x1="{left}" x2="{left + plot_width}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            out.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
        for seconds in range(0, int(end - begin) + 1, 30):
            x = left + plot_width * seconds / (end - begin)
            out.append(f'<text x="{x:.0f}" y="{top + plot_height + 16}" text-anchor="middle">{seconds} s</text>')
        for index, one in enumerate(series):
            colour = COLOURS[index % len(COLOURS)]
            points = " ".join(f"{left + plot_width * (at - begin) / (end - begin):.1f},"
                              f"{top + plot_height * (1 - float(value) / high):.1f}" for at, value in one["values"])
            out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            name = re.sub(r"{{(\w+)}}", lambda label, one=one: one["metric"].get(label[1], ""), legend)
            x, y = left + index * 130, top + plot_height + 34
            out.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
                       f'<text x="{x + 15}" y="{y}">{escape(name)}</text>')
        out.append("</g>")
    rows = (len(DRAWN) + 1) // 2
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {rows * height}" '
            'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>')
    Path(file).write_text("\n".join([head, *out, "</svg>"]) + "\n", encoding="utf-8")


def play(programs, prometheus, file):
    begin = time.time()
    time.sleep(12)
    leaks = []
    for _ in range(11):
        leaks.append(leak(programs))
        time.sleep(1.5)
    time.sleep(10)
    for process in leaks:
        process.kill()
    time.sleep(15)
    leak(programs, "frames", "spare")  # takes nothing
    time.sleep(15)
    subscribers = json.loads(programs.zerocp("subscribers", "-o", "json"))
    names = re.findall(r"channels/frames/subscribers/[\d-]+", json.dumps(subscribers))
    programs.zerocp("subscribers", "detach", names[0])
    time.sleep(15)
    draw(prometheus, begin, time.time(), file)


def main():
    with tempfile.TemporaryDirectory(prefix="zerocp-dashboard.") as work:
        programs = Programs(work)
        try:
            prometheus = Prometheus(programs, start_load(programs))
            if sys.argv[1:2] == ["--picture"]:
                play(programs, prometheus, sys.argv[2])
            else:
                test(programs, prometheus)
        finally:
            programs.stop()
            subprocess.run([BIN / "zerocpd", "--cleanup", "--runtime-dir", f"{work}/run"], check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


main()
