"""Grading: whatever is handed in, it is judged where it does not run, and has a row with words."""
import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from answers import COSINE_BODY, MEAN_BODY, NO_CHAIN, Q_BODY, RIGHT, SQUARES
from stand_ins import refused

from exercises import collect, grade, make
from exercises.checks import run, worker
from exercises.checks.kit import Odd, Raised, Wrong

FIRST = NO_CHAIN + "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"
ONLY = ["1", "2", "3"]                               # of 20, 20 and 25 points
WANTED = ["ddpm.py", "schedules.py"]
OF = ("exercise 1 (of 20)", "exercise 2 (of 20)", "exercise 3 (of 25)")


def submit(folder, first=FIRST, cosine=COSINE_BODY, q_sample=Q_BODY, mean=MEAN_BODY, above=""):
    """Write the two files of a submission to exercises 1 to 3."""
    schedules, ddpm = (make.source_of(file) for file in ("schedules.py", "ddpm.py"))
    schedules = make.replace_body(schedules, "linear_beta_schedule", first)
    make.write(folder / "schedules.py",
               make.replace_body(schedules, "cosine_beta_schedule", cosine))
    ddpm = make.replace_body(ddpm, "DDPM.q_sample", q_sample)
    make.write(folder / "ddpm.py", above + make.replace_body(ddpm, "DDPM.posterior_mean", mean))
    return folder


def grades(folder, *flags, only=ONLY, inside=("--inside", "")):
    """Grade folder / "in" and return {submission: {column: cell}}."""
    out = folder / "grades.csv"
    grade.main([str(folder / "in"), "--csv", str(out), "--only", *only, *inside, *flags])
    with open(out, newline="", encoding="utf-8") as f:
        return {row["submission"]: row for row in csv.DictReader(f)}


def points(row):
    return [float(cell) for column, cell in row.items() if column.startswith("exercise")]


# ---- what is taken of a submission: no process is started ----

def taken(files, only=(1, 2, 3), blank=make.source_of):
    return collect.Taken(files, make.choose(only, 0), blank)


def those_of(folder):
    return {name: (folder / name).read_bytes() for name in WANTED}


def test_folders_and_zips_are_read_wherever_the_files_lie_in_them(tmp_path):
    submit(tmp_path / "in" / "ada" / "hw1")
    content = those_of(tmp_path / "in" / "ada" / "hw1")
    with zipfile.ZipFile(tmp_path / "in" / "bea.zip", "w") as z:
        z.writestr("bea/hw1/ddpm.py", content["ddpm.py"])
        z.writestr("__MACOSX/bea/schedules.py", "raise SystemExit")
        z.writestr("../../../../schedules.py", "raise SystemExit")
    (tmp_path / "in" / "dee").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "dee" / "hw1.zip", "w") as z:     # some course systems
        for file in WANTED:
            z.writestr(f"./hw1/{file}", content[file])
    there = collect.submissions(tmp_path / "in", WANTED)
    assert list(there) == ["ada", "bea", "dee"]
    for who in "ada", "dee":
        found = taken(there[who])
        assert found.sources == {file: content[file].decode() for file in WANTED}
        assert found.remarks == []
    found = taken(there["bea"])
    assert list(found.sources) == ["ddpm.py"] and "there is no schedules.py" in found.remarks
    shutil.make_archive(tmp_path / "all", "zip", tmp_path / "in")    # and a zip of all of them
    assert collect.submissions(tmp_path / "all.zip", WANTED) == there
    assert not (tmp_path.parent / "schedules.py").exists()


def test_what_a_handout_brings_along_is_no_remark_and_what_is_packed_otherwise_is_one(tmp_path):
    make.make(make.choose([2, 13], 0), tmp_path / "in" / "ada" / "hw", solutions=True,
              with_notebook=True)
    for name in ("ada/notes.py", "ada/hw/extra.py", "carl.tar.gz"):
        make.write(tmp_path / "in" / name, "x = 1\n")
    (tmp_path / "in" / "dee").mkdir()
    (tmp_path / "in" / "dee" / "ddpm.py").symlink_to(tmp_path / "in" / "ada" / "hw" / "ddpm.py")
    there = collect.submissions(tmp_path / "in", WANTED)
    assert taken(there["ada"], (2, 13)).remarks == ["left alone: hw/extra.py, notes.py"]
    assert any("carl.tar.gz" in remark for remark in taken(there["carl.tar"]).remarks)
    assert "ddpm.py cannot be read: it is a link" in taken(there["dee"]).remarks


def test_the_names_that_course_systems_give_are_read(tmp_path):
    content = those_of(submit(tmp_path / "one"))
    names = {"doejane_12345_ddpm.py": "doejane_12345", "roe_LATE_23_456_ddpm-1.py": "roe_23",
             "roe_23_457_schedules.py": "roe_23", "kim.py": "kim", "Poe, Max - ddpm (2).py":
             "Poe, Max", "ddpm_lee.py": "ddpm_lee",
             "sue.ipynb": "sue", "roe_23_exercises.ipynb": "roe_23", "essay.pdf": "essay",
             "hw1_mia_attempt_2026-01-02_schedules.py": "hw1_mia_attempt_2026-01-02"}
    (tmp_path / "in" / "empty").mkdir(parents=True)
    for name in names:
        (tmp_path / "in" / name).write_bytes(
            content["schedules.py" if "schedules" in name else "ddpm.py"])
    (tmp_path / "in" / ".DS_Store").write_bytes(b"")
    there = collect.submissions(tmp_path / "in", WANTED)
    assert set(there) == {*names.values(), "empty"}
    for who in there:
        found, has = taken(there[who]), {name for name, by in names.items() if by == who}
        files = {file for file in WANTED for name in has if file[:4] in name or file == "ddpm.py"
                 and name in ("kim.py",)}
        assert set(found.sources) == files, (who, found.remarks)
        assert {f"there is no {file}" for file in set(WANTED) - files} <= set(found.remarks)


def test_a_path_may_be_one_submission(tmp_path):
    submit(tmp_path / "ada")
    assert list(collect.submissions(tmp_path / "ada", WANTED)) == ["ada"]
    assert list(collect.submissions(tmp_path / "ada" / "ddpm.py", WANTED)) == ["ddpm"]
    submit(tmp_path / "submission" / "hw1")
    there = collect.submissions(tmp_path / "submission", WANTED, one=True)
    assert list(there) == ["submission"] and len(taken(there["submission"]).sources) == 2


def test_what_cannot_be_read_is_said_and_the_rest_is_taken(tmp_path):
    submit(tmp_path / "in" / "fay")
    (tmp_path / "in" / "fay" / "schedules.py").write_text("def linear_beta_schedule(:\n")
    make.write(tmp_path / "in" / "gil" / "ddpm.py", "x = 1\n" * 300_000)
    make.write(tmp_path / "in" / "hal" / "hw1.ipynb", "{")
    make.write(tmp_path / "in" / "ida" / "ddpm.py", "(" * 5000)
    (tmp_path / "in" / "cy.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "in" / "bea.zip", "w") as z:
        z.writestr("ddpm.py", "")
    content = (tmp_path / "in" / "bea.zip").read_bytes()         # made by a version 9.9 of zip
    (tmp_path / "in" / "bea.zip").write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14",
                                                              b"PK\x01\x02\x14\x03\x63"))
    there = collect.submissions(tmp_path / "in", WANTED)
    found = taken(there["fay"])
    assert list(found.sources) == ["ddpm.py"]
    assert "schedules.py cannot be read: invalid syntax" in found.remarks[0]
    for who, words in (("gil", "ddpm.py cannot be read: it has more than 1,048,576 bytes"),
                       ("cy", "cannot be read"), ("bea", "cannot be read"),
                       ("hal", "hw1.ipynb cannot be read"), ("ida", "ddpm.py cannot be read")):
        found = taken(there[who])
        assert found.sources == {} and any(words in remark for remark in found.remarks), who


def test_a_notebook_is_read_where_there_is_no_file_that_has_the_answer(tmp_path):
    make.make(make.choose([2, 3], 0), tmp_path / "hw", with_notebook=True)
    q_sample, mean = (f"def {head}:\n" + "\n".join(f"    {line}" for line in body.splitlines())
                      for head, body in (("q_sample(self, x_0, t, eps)", Q_BODY),
                                         ("posterior_mean(self, x_0, x_t, t)", MEAN_BODY)))
    notebook = json.loads((tmp_path / "hw" / "exercises.ipynb").read_text())
    for cell in notebook["cells"]:
        if "".join(cell["source"]).startswith("%%answer ddpm.DDPM.q_sample"):
            cell["source"] = f"%%answer ddpm.DDPM.q_sample\n{q_sample}"
        if cell["metadata"].get("question") == 2:
            cell["source"] = [*cell["source"], "Variances ", "add."]
    notebook["cells"].append({"cell_type": "code", "metadata": {}, "source": mean})
    files = {"roe.ipynb": json.dumps(notebook).encode()}
    found = taken(files, (2, 3), lambda file: (tmp_path / "hw" / file).read_text())
    assert found.remarks == [] and found.answers == {2: "Variances add."}
    for function, body in (("DDPM.q_sample", Q_BODY), ("DDPM.posterior_mean", MEAN_BODY)):
        node = make.functions(found.sources["ddpm.py"])[function]
        assert ast.unparse(node.body[1:]) == ast.unparse(ast.parse(body))
    notebook["cells"].append({"source": mean.replace("return ", "return 2 * ")})     # ran last
    again = taken({"roe.ipynb": json.dumps(notebook).encode()}, (2, 3),
                  lambda file: (tmp_path / "hw" / file).read_text())
    assert again.sources["ddpm.py"].count("return 2 * ") == 1
    files["ddpm.py"] = make.source_of("ddpm.py").encode()        # which has what it has
    assert taken(files, (2, 3)).sources["ddpm.py"] == make.source_of("ddpm.py")


def test_what_a_teacher_should_read_is_named(tmp_path):
    above = "import sys, torch\nimport checks.ex02\ntorch.allclose = lambda *a, **k: True\n"
    submit(tmp_path, above=above, mean="f = sys._getframe()\nreturn torch.from_file('x', True, 1)")
    remark, = taken(those_of(tmp_path)).remarks
    assert all(name in remark for name in ("read ddpm.py", "torch.allclose = ...", "checks",
                                           "_getframe", "from_file"))
    for bodies in (bodies for number, bodies in RIGHT if number in (1, 2, 3)):
        files = {file: make.source_of(file) for file in WANTED}
        for name, body in bodies.items():
            file, function = make.locate(name)
            files[f"{file}.py"] = make.replace_body(files[f"{file}.py"], function, body)
        assert taken({name: text.encode() for name, text in files.items()}).remarks == []


# ---- what is asked and answered ----

def test_data_come_through_the_wire_as_they_are():
    g = torch.Generator().manual_seed(0)
    data = [torch.randn(3, 2, generator=g), torch.randn(2, dtype=torch.float64, generator=g).t(),
            torch.arange(3), torch.zeros(0, 3), torch.tensor(2.5, dtype=torch.bfloat16),
            torch.tensor([True, False]), torch.tensor([float("nan"), float("inf")]), None, True, 7,
            1e-320, float("inf"), "a\n\ud800", [1, [2]], {"x": torch.ones(1), "odd": 1}, Odd("set")]
    back = worker.decode(json.loads(json.dumps(worker.encode(data))))
    for one, two in zip(data, back, strict=True):
        assert type(one) is type(two)
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype and torch.equal(one.nan_to_num(), two.nan_to_num())
        else:
            assert one == two


HERE = run.Student


class Wire(run.Student):
    """A student whose questions and answers go through what goes through the pipe."""

    def ask(self, probe, args):
        there = object.__new__(HERE)                 # the same student, in the process asked
        vars(there).update(vars(self))
        question = json.dumps([probe.__name__, worker.encode(args)])
        said = json.loads(json.dumps(worker.reply(there, sys.modules[probe.__module__], question)))
        if "got" in said:
            return worker.decode(said["got"])
        raise Raised(*said["raised"]) if "raised" in said else Wrong(said["wrong"])


@pytest.mark.parametrize("number", [number for number in make.exercises() if number != 9])
def test_every_check_can_ask_through_a_pipe(number, monkeypatch):
    import answers
    monkeypatch.setattr(answers.run, "Student", Wire)
    assert answers.failures(number) == {}
    blanks = make.exercises()[number].blanks
    if not make.exercises()[number]["edit"]:
        said = answers.failures(number, {name: "raise KeyError('here')" for name in blanks})
        assert said and all("KeyError: 'here'" in text for text in said.values())


def test_the_grader_never_takes_the_projects_own_modules_for_a_students():
    student = object.__new__(grade.Remote)           # as it is before it has a process
    for name in run.PLACES:
        with pytest.raises(AttributeError, match="another process"):
            getattr(student, name)


# ---- what happens to it ----

FORGED = json.dumps({"got": None}) + "\n[]\n7\n\xff\n"
SUBMISSIONS = {                                      # each with its points, and words of a remark
    "ada": ({"first": SQUARES}, [20, 20, 25], ""),
    "bob": ({"above": "import torch\nfor name in 'allclose', 'equal', 'isclose':\n"
                      "    setattr(torch, name, lambda *a, **k: True)\n"
                      "torch.Tensor.__eq__ = torch.Tensor.all = lambda *a, **k: True\n"
                      "import checks.kit, checks.ex02, checks.ex03, checks.run\n"
                      "for m in checks.ex02, checks.ex03:\n"
                      "    m.expect = m.demand = lambda *a, **k: None\n"
                      "    for n in dir(m):\n"
                      "        if n.startswith('check_'):\n"
                      "            setattr(m, n, lambda student: None)\n"
                      "checks.run.run = lambda *a: None\n",
              "q_sample": "return x_0", "mean": "return x_t"}, [0, 0, 0], "read ddpm.py"),
    "dan": ({"q_sample": "while True:\n    pass",
             "mean": f"import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, "
                     f"{FORGED.encode()!r})\n    except OSError:\n        pass\nos._exit(0)"},
            [0, 0, 0], "2: it took longer than"),
    "eve": ({"q_sample": "torch.ones(2 ** 30)",      # 4 GB
             "mean": 'raise ValueError("\\ud800" + "x" * 10 ** 6)'}, [0, 0, 0], "memory"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Grade submissions to variant 1, once for all tests: a process starts in seconds.

    ada is right, wherever her files lie, and brings others along that would end everything.  bob
    takes what compares and checks in his process for something else; dan hangs, dies and forges
    an answer; eve wants too much memory, and shouts.
    """
    tmp = tmp_path_factory.mktemp("grade")
    for who, (bodies, _, _) in SUBMISSIONS.items():
        submit(tmp / "in" / who / "hw1", **bodies)
        if who != "ada":                             # one exercise less to wait for
            (tmp / "in" / who / "hw1" / "schedules.py").unlink()
    for name in ("checks/ex02.py", "checks/kit.py", "checks/run.py", "conftest.py", "torch.py",
                 "checks/worker.py", "sitecustomize.py", "sample.py", "data.py"):
        make.write(tmp / "in" / "ada" / "hw1" / name, "import os\nos._exit(0)\n")
    make.write(tmp / "in" / "ada" / "hw1" / "ANSWERS.md",
               "# Answers\n\n## 2. Noising\n\n> Why?\n\nYour answer:\n\n=Because.\n")
    (tmp / "in" / "notes.txt").write_text("not a submission")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp)                             # given by a relative path, as README has it
        rows = grades(tmp.relative_to(tmp), "--variant", "1", "--seed", "3", "--memory", "1",
                      "--jobs", "2", "--time-limit", "3")
    return tmp, rows


def test_a_row_has_the_points_of_each_exercise_their_sum_and_remarks(graded):
    tmp, rows = graded
    assert list(rows) == ["ada", "bob", "dan", "eve", "notes"]
    assert rows["ada"] == {
        "submission": "ada", **dict(zip(OF, ("20", "20", "25"), strict=True)), "total (of 65)":
        "65", "remarks": "left alone: hw1/sitecustomize.py, hw1/torch.py",
        **{f"answer {n}": "" for n in (1, 3)}, "answer 2": "'=Because.",
        **{f"points of answer {n}": "" for n in (1, 2, 3)}}
    assert points(rows["notes"]) == [0, 0, 0] and "no ddpm.py" in rows["notes"]["remarks"]


@pytest.mark.parametrize("who", SUBMISSIONS)
def test_nobody_gets_points_but_for_right_answers(graded, who):
    if who == "eve" and sys.platform != "linux":
        pytest.skip("memory has a limit on Linux only")
    row, (_, right, words) = graded[1][who], SUBMISSIONS[who]
    assert points(row) == right, row["remarks"]
    assert words in row["remarks"]


def test_a_remark_is_cut_and_written_whatever_is_in_it(graded):
    remarks = graded[1]["eve"]["remarks"]
    assert "ValueError: \\ud800xxx" in remarks and len(remarks) < 20_000


def test_no_submission_ends_the_grading_of_the_others(tmp_path, monkeypatch, capsys):
    for name in ("ada", "bea"):
        submit(tmp_path / "in" / name)

    def checked(exercise, sources, folder, args):
        if not tried:
            tried.append(folder)
            raise OSError("no room")
        return [("check_it", None)]

    tried = []
    monkeypatch.setattr(grade, "checked", checked)
    rows = grades(tmp_path)
    assert rows["ada"]["total (of 65)"] == "" and "not graded: OSError: no room" in rows["ada"][
        "remarks"]
    assert points(rows["bea"]) == [20, 20, 25]
    assert "bea: 65 of 65" in capsys.readouterr().out


def test_json_is_of_one_submission_by_the_same_road(tmp_path, monkeypatch):
    submit(tmp_path / "submission" / "hw1")
    said = {1: [("check_a", None), ("check_b", "no")], 2: [("check_c", None)], 3: []}
    monkeypatch.setattr(grade, "checked", lambda exercise, *_: said[exercise.number])
    grade.main([str(tmp_path / "submission"), "--json", str(tmp_path / "r.json"), "--only", "1",
                "2", "--inside", ""])
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["score"] == 30
    assert results["tests"] == [
        {"name": "1: a", "score": 10, "max_score": 10, "output": ""},
        {"name": "1: b", "score": 0, "max_score": 10, "output": "no"},
        {"name": "2: c", "score": 20, "max_score": 20, "output": ""}]


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("setpriv") or not hasattr(os, "geteuid") or os.geteuid() != 0,
                    reason="nobody can become another user")
def test_gradescopes_script_runs_as_it_stands(tmp_path):
    text = (make.ROOT / "exercises" / "gradescope" / "run_autograder").read_text()
    home = tmp_path / "autograder"
    (home / "results").mkdir(parents=True)
    (home / "source").symlink_to(make.ROOT)
    submit(home / "submission", q_sample=f"open({str(home / 'results' / 'results.json')!r}, 'w')")
    script = text.replace("/autograder", str(home)).replace("python3", sys.executable)
    for folder in tmp_path.parents:                  # for nobody, who may not look below 0700
        assert str(folder) == "/" or os.access(folder, os.X_OK)
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8")
    results = json.loads((home / "results" / "results.json").read_text())
    assert done.returncode == 0 and re.search("PermissionError|FileNotFoundError",
                                               results["output"])
    assert results["score"] == 20 + 25 + 30          # of exercises 1, 3 and 6, and none of 2


@pytest.mark.thorough
def test_the_bug_hunt_is_graded_against_what_was_handed_out(tmp_path):
    make.make(make.choose([1, 13], 1), tmp_path / "in" / "key", solutions=True, variant=1)
    make.make(make.choose([1, 13], 0), tmp_path / "in" / "old", solutions=True, variant=0)
    rows = grades(tmp_path, "--variant", "1", only=["1", "13"])
    assert points(rows["key"]) == [20, 45]
    assert points(rows["old"])[1] == 22.5            # mended, but named after another defect


@pytest.mark.thorough
def test_every_exercise_is_graded_in_processes(tmp_path):
    make.make(make.choose(None, 0), tmp_path / "in" / "key", solutions=True)
    row = grades(tmp_path, only=[str(number) for number in make.exercises()])["key"]
    assert row["remarks"] == "" and sum(points(row)) == sum(
        exercise.minutes for exercise in make.exercises().values())


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, [tmp_path], "nothing was handed in", main=grade.main)
    refused(capsys, [tmp_path / "none"], "none", code=1, main=grade.main)
    refused(capsys, [tmp_path, "--only", "99"], "no exercise 99", main=grade.main)
    refused(capsys, [tmp_path, "--csv", "grades.txt"], ".csv", main=grade.main)
    refused(capsys, [tmp_path, "--json", "grades.txt"], ".json", main=grade.main)


def test_what_a_student_wrote_is_no_formula():
    assert grade.safe("=HYPERLINK()") == "'=HYPERLINK()" and grade.safe("ada") == "ada"
    assert grade.safe(-1) == -1


def works(*command):
    try:
        return not subprocess.run(command, capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.thorough
@pytest.mark.skipif(not works("bwrap", "--ro-bind", "/", "/", "--unshare-all", "--", "true"),
                    reason="bubblewrap is not installed, or may not run")
def test_in_bubblewrap_a_submission_sees_nothing_and_writes_nowhere(tmp_path):
    home = tmp_path / "in" / "ada" / "ddpm.py"
    tries = (f"open({str(home)!r})", f"open({str(make.ROOT / 'ddpm.py')!r})",
             "__import__('socket').create_connection(('1.1.1.1', 80), 2)",
             "open(__import__('os').path.expanduser('~/mine'), 'w')")
    body = f"""for each in {tries!r}:
    try:
        eval(each)
    except OSError:
        continue
    return x_0
open("mine", "w")
raise KeyError"""
    submit(tmp_path / "in" / "ada")
    submit(tmp_path / "in" / "eve", q_sample=body)
    rows = grades(tmp_path, only=["2"], inside=())
    assert points(rows["ada"]) == [20]
    assert "KeyError" in rows["eve"]["remarks"] and "returned" not in rows["eve"]["remarks"]
