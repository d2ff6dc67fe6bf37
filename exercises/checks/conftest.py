"""Scores: a line for each exercise and one for all; --json for Gradescope."""
import json
from collections import defaultdict
from pathlib import Path

SCORES = defaultdict(list)                           # {exercise: [(check, passed, message)]}


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of the numbers that the checks draw")
    parser.addoption("--json", help="write the scores to this file, as Gradescope reads them")


def pytest_runtest_logreport(report):
    if "test_exercise[" in report.nodeid and (report.when == "call" or report.failed):
        number, check = report.nodeid.split("[", 1)[1].rstrip("]").split(": ", 1)
        SCORES[int(number)].append((check, report.passed, report.longreprtext))


def pytest_terminal_summary(terminalreporter, config):
    tests = []
    for number, checks in sorted(SCORES.items()):
        good = sum(passed for _, passed, _ in checks)
        terminalreporter.write_line(f"exercise {number:>2}: {good} of {len(checks)} checks pass")
        tests += [{"name": f"{number}: {check}", "score": float(passed), "max_score": 1.0,
                   "output": message} for check, passed, message in checks]
    good = sum(test["score"] for test in tests)
    terminalreporter.write_line(f"in all: {good:.0f} of {len(tests)}")
    if config.getoption("json"):
        content = {"score": good, "tests": tests}
        Path(config.getoption("json")).write_text(json.dumps(content, indent=1))
