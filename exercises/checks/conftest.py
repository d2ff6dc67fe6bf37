"""An exercise at a time: pytest stops at the first that is not done, and says what to do next."""
import ast
import textwrap
from collections import defaultdict
from pathlib import Path

from checks import run
from exercises.answer import ROOT, functions, locate
from exercises.hint import exercises

EXERCISES, SAID = exercises(), defaultdict(dict)     # {number: {check: what is wrong, or None}}
VARIANT, _ = run.handed_out(Path(run.__file__).parent)
SHOWN = {}                                           # {number: points}


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of the numbers that the checks draw")
    parser.addoption("--all", action="store_true", help="go on after what is not done")


def pytest_runtest_protocol(item):
    """Show each exercise once the next begins; leave out what follows one that is not done."""
    if getattr(item, "callspec", None) and item.callspec.params["number"] not in SAID:
        show(item.config)
        undone = any(any(said.values()) for said in SAID.values())
        return True if undone and not item.config.getoption("all") else None


def pytest_runtest_logreport(report):
    if "test_exercise[" in report.nodeid and (report.when == "call" or report.failed):
        number, check = report.nodeid.split("[", 1)[1].rstrip("]").split(": ", 1)
        SAID[int(number)][check] = None if report.passed else report.longreprtext


def pytest_report_teststatus():
    return "", "", ""                                # no dots, and no list of failures


def pytest_sessionfinish(session):
    show(session.config)


def show(config):
    """Write a line for each exercise that was checked, and what is wrong with it."""
    write = config.pluginmanager.get_plugin("terminalreporter").write_line
    for number in SAID.keys() - SHOWN.keys():
        wrong = {check: text for check, text in SAID[number].items() if text}
        passed, n = len(SAID[number]) - len(wrong), len(run.names(number, VARIANT))
        exercise, SHOWN[number] = EXERCISES[number], run.score(
            EXERCISES[number].minutes, passed, n)
        write(f"{number:>2}. {exercise.title}: " + ("done, " if passed == n else
              f"{passed} of {n} checks, ") + f"{SHOWN[number]} of {exercise.minutes} points")
        for check, text in wrong.items():
            if not text.startswith(run.UNWRITTEN):
                write(textwrap.fill(f"- {check}: {text}", 100, initial_indent="    ",
                                    subsequent_indent="      "))


def unwritten(exercise):
    """Yield "DDPM.q_sample (ddpm.py, line 127)" for each blank that still is one."""
    for file, name in map(locate, exercise.blanks):
        node = functions((ROOT / f"{file}.py").read_text(encoding="utf-8")).get(name)
        if node and any(isinstance(each, ast.Raise) and "'NotImplementedError'" in ast.dump(each)
                        for each in node.body):
            yield f"{name} ({file}.py, line {node.lineno})"


def pytest_terminal_summary(terminalreporter, config):
    write, points = terminalreporter.write_line, round(sum(SHOWN.values()), 1)
    undone = next((number for number in SAID if any(SAID[number].values())), None)
    if undone:
        files = ", ".join(EXERCISES[undone].files)
        try:
            todo = ", then ".join(unwritten(EXERCISES[undone]))
        except SyntaxError as error:
            files, todo = f"line {error.lineno} of {files}: {error.msg}", ""
        write(textwrap.fill(f"Next: write {todo}" if todo else f"Next: mend {files}", 100))
        write(f"A hint: python -m exercises.hint {undone}. This one alone: pytest -k {undone:02}:")
    left = ", ".join(str(number) for number in EXERCISES if number not in SAID)
    write(f"in all: {points:g} of {sum(each.minutes for each in EXERCISES.values())} points"
          + (f"; not looked at: {left} (pytest --all)" if left else ""))
    if not undone and not left:
        files = sorted({file for exercise in EXERCISES.values() for file in exercise.files})
        write(f"All is done. Hand in {', '.join(files)}, and your answers in writing, ANSWERS.md.")
