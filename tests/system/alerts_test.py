#!/usr/bin/python3
"""The alerts of deploy/prometheus are what their tests say, and those notice any other threshold or duration."""
import copy
import os
import re
import subprocess
import sys
import tempfile

import yaml

SOURCE = os.path.join(os.environ["ZEROCP_SOURCE_DIR"], "deploy/prometheus")
PROMTOOL = os.path.join(os.environ.get("ZEROCP_TOOLS", "/usr/local/lib/zerocp-tools"), "promtool")
SECONDS = {"s": 1, "m": 60, "h": 3600}
# A number, or a duration, outside names and strings.
NUMBER = re.compile(r'"[^"]*"|[A-Za-z_:][\w:]*|(?P<number>\d+(?:\.\d+)?)(?P<unit>[smh])?')


def promtool(*arguments):
    return subprocess.run([PROMTOOL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def others(number, unit):
    """Other numbers than this one, near enough that a test has to look closely."""
    if unit:
        return [f"{int(int(number) * SECONDS[unit] * factor)}s" for factor in (0.5, 2)]
    if float(number) == 0:
        return ["5"]
    return [str(float(number) * factor) for factor in (0.6, 1.6)]


def changed(rules):
    """(name of the rule, its new text, rules) with one number changed."""
    for index, rule in enumerate(rules["groups"][0]["rules"]):
        name = rule.get("alert") or rule["record"]
        places = [("expr", match) for match in NUMBER.finditer(rule["expr"]) if match["number"]]
        places += [("for", match) for match in NUMBER.finditer(rule.get("for", ""))]
        for key, match in places:
            for other in others(match["number"], match["unit"]):
                copied = copy.deepcopy(rules)
                text = rule[key][: match.start()] + other + rule[key][match.end() :]
                copied["groups"][0]["rules"][index][key] = text
                yield name, f"{key}: {text.strip()}", copied


def main():
    for check in (("check", "config", f"{SOURCE}/zerocp.yml"), ("test", "rules", f"{SOURCE}/alerts_test.yml")):
        done = promtool(*check)
        if done.returncode != 0:
            sys.exit(f"promtool {' '.join(check)}:\n{done.stdout}")
    with open(f"{SOURCE}/alerts.yml", encoding="utf-8") as file:
        rules = yaml.safe_load(file)
    with open(f"{SOURCE}/alerts_test.yml", encoding="utf-8") as file:
        tests = yaml.safe_load(file)
    missed = []
    count = 0
    with tempfile.TemporaryDirectory(prefix="zerocp-alerts.") as work:
        for name, text, other in changed(rules):
            # Those of the alert; a recorded series is in several.
            with open(f"{work}/alerts_test.yml", "w", encoding="utf-8") as file:
                own = [test for test in tests["tests"] if test["alert_rule_test"][0]["alertname"] == name]
                yaml.safe_dump({**tests, "tests": own or tests["tests"]}, file)
            with open(f"{work}/alerts.yml", "w", encoding="utf-8") as file:
                yaml.safe_dump(other, file)
            done = promtool("test", "rules", f"{work}/alerts_test.yml")
            if "FAILED" not in done.stdout or "exp:[" not in done.stdout:
                missed.append(f"{name}: {text}\n{done.stdout if done.returncode else ''}")
            count += 1
    if count < 30 or missed:
        sys.exit(f"of {count} changed numbers the tests do not notice:\n" + "\n".join(missed))
    print(f"alerts_test: OK, {count} changed numbers were noticed")


main()
