"""Grading: whatever is handed in, the checks stay the project's own, and one line says the rest."""
import csv
import json
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from answers import COSINE_BODY, MEAN_BODY, Q_BODY, SQUARES
from stand_ins import refused

from exercises import grade, make
from exercises.checks import ex01, ex03

FIRST = "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"
ONLY = ["1", "2", "3"]                               # 5, 4 and 3 checks
WANTED = ["ddpm.py", "schedules.py"]


def submit(folder, first=FIRST, cosine=COSINE_BODY, q_sample=Q_BODY, mean=MEAN_BODY):
    """Write the two files of a submission to exercises 1 to 3."""
    schedules, ddpm = (make.source_of(file) for file in ("schedules.py", "ddpm.py"))
    schedules = make.replace_body(schedules, "linear_beta_schedule", first)
    make.write(folder / "schedules.py",
               make.replace_body(schedules, "cosine_beta_schedule", cosine))
    ddpm = make.replace_body(ddpm, "DDPM.q_sample", q_sample)
    make.write(folder / "ddpm.py", make.replace_body(ddpm, "DDPM.posterior_mean", mean))
    return folder


def tries(*statements):
    """Write a body that tries each statement, and fails with what became of all of them."""
    return (f"said = []\nfor each in {statements!r}:\n    try:\n        exec(each)\n"
            "        said.append('done: ' + each)\n    except Exception as error:\n"
            "        said.append(str(error))\nraise RuntimeError('; '.join(said))")


def grades(folder, *flags, only=ONLY):
    """Grade folder / "in" and return {submission: {column: cell}}."""
    out = folder / "grades.csv"
    grade.main([str(folder / "in"), "--csv", str(out), "--only", *only, *flags])
    with open(out, newline="", encoding="utf-8") as f:
        return {row["submission"]: row for row in csv.DictReader(f)}


def points(row):
    return [int(cell) for column, cell in row.items() if column.startswith("exercise")]


# ---- what is taken of a submission: no process is started ----

def test_folders_and_zips_are_read_wherever_the_files_lie_in_them(tmp_path):
    submit(tmp_path / "ada" / "hw1")
    with zipfile.ZipFile(tmp_path / "bea.zip", "w") as z:
        z.write(submit(tmp_path / "bea") / "ddpm.py", "bea/hw1/ddpm.py")
        z.writestr("__MACOSX/bea/schedules.py", "raise SystemExit")
        z.writestr("../../../../schedules.py", "raise SystemExit")
    (tmp_path / "dee").mkdir()
    with zipfile.ZipFile(tmp_path / "dee" / "hw1.zip", "w") as z:    # as some course systems do
        for file in WANTED:
            z.write(tmp_path / "ada" / "hw1" / file, f"./hw1/{file}")
    sources = {file: (tmp_path / "ada" / "hw1" / file).read_text(encoding="utf-8")
               for file in WANTED}
    assert grade.take(tmp_path / "ada", WANTED) == (sources, [])
    assert grade.take(tmp_path / "dee", WANTED) == (sources, [])
    found, remarks = grade.take(tmp_path / "bea.zip", WANTED)
    assert found == {"ddpm.py": sources["ddpm.py"]} and "there is no schedules.py" in remarks
    assert not (tmp_path.parent / "schedules.py").exists()


def test_what_cannot_be_read_is_said_and_the_rest_is_taken(tmp_path):
    submit(tmp_path / "fay")
    (tmp_path / "fay" / "schedules.py").write_text("def linear_beta_schedule(:\n")
    make.write(tmp_path / "gil" / "ddpm.py", "x = 1\n" * 300_000)
    (tmp_path / "cy.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "bea.zip", "w") as z:
        z.writestr("ddpm.py", "")
    content = (tmp_path / "bea.zip").read_bytes()                # made by a version 9.9 of zip
    (tmp_path / "bea.zip").write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14",
                                                       b"PK\x01\x02\x14\x03\x63"))
    found, remarks = grade.take(tmp_path / "fay", WANTED)
    assert list(found) == ["ddpm.py"]
    assert "schedules.py cannot be read: invalid syntax" in remarks[0]
    for name, words in (("gil", "ddpm.py cannot be read: it is larger than a megabyte"),
                        ("cy.zip", "cy.zip cannot be read"), ("bea.zip", "bea.zip cannot be read")):
        found, remarks = grade.take(tmp_path / name, WANTED)
        assert found == {} and any(words in remark for remark in remarks)


# ---- what happens to it ----

@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Grade three submissions to variant 1, once for all tests: a process starts in seconds.

    ada is right, wherever her files lie, and brings others along that would end everything.  eve
    does what is forbidden.  dan's first answer is one to variant 0, his next hangs, his last dies
    after it has forged a result.
    """
    tmp = tmp_path_factory.mktemp("grade")
    (tmp / "mine.txt").write_text("not yours")
    ada = submit(tmp / "one" / "in" / "ada" / "hw1", first=SQUARES)
    for name in ("checks/ex02.py", "checks/kit.py", "checks/run.py", "conftest.py", "torch.py",
                 "checks/worker.py", "sitecustomize.py", "sample.py", "data.py"):
        make.write(ada / name, "import os\nos._exit(0)\n")
    secret, mine, root = str(ada / "ddpm.py"), str(tmp / "mine.txt"), str(make.ROOT)
    submit(tmp / "one" / "in" / "eve",
           first=tries("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
                       "import subprocess\nsubprocess.run(['true'])", "import os\nos.fork()"),
           cosine=tries(f"open({secret!r}).read()", f"open({root!r} + '/schedules.py')"),
           q_sample=tries(f"open({mine!r}, 'w')", f"import os\nos.remove({mine!r})",
                          f"import pathlib\npathlib.Path({root!r}, 'new.py').write_text('')",
                          "torch.ones(2 ** 30)"),                        # 4 GB
           mean='raise ValueError("\\ud800" + "x" * 10 ** 6)')
    forged = json.dumps(["", 3, "check_at_t_1_it_is_x_0", None])
    noise = forged.encode() + b"\n[]\n7\n\xff\n"
    submit(tmp / "two" / "in" / "dan", q_sample="while True:\n    pass",
           mean=f"print({forged!r}, flush=True)\nimport os\nfor fd in range(3, 20):\n    try:\n"
           f"        os.write(fd, {noise!r})\n    except OSError:\n        pass\nos._exit(0)")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp)                             # given by a relative path, as README has it
        for others in (ex01, ex03):                  # a second is for what hangs anyway: nothing
            patch.setattr(others, "SECONDS", 600, raising=False)     # depends on a machine's speed
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(lambda flags: grades(Path(flags[0]), *flags[1:], "--variant", "1"),
                                (("one", "--seed", "3", "--memory", "1"),
                                 ("two", "--time-limit", "1")))
    return tmp, one | two


def test_a_row_has_the_points_of_each_exercise_their_sum_and_remarks(graded):
    tmp, rows = graded
    assert list(rows) == ["ada", "eve", "dan"]
    assert rows["ada"] == {"submission": "ada", "exercise 1 (of 5)": "5", "exercise 2 (of 4)": "4",
                           "exercise 3 (of 3)": "3", "total (of 12)": "12", "remarks": ""}


def test_a_submission_brings_no_checks_and_no_modules(graded):
    assert points(graded[1]["ada"]) == [5, 4, 3]     # nothing else of what lies there was run


def test_a_variant_is_graded_against_what_was_asked_in_it(graded):
    assert points(graded[1]["dan"])[0] == 3          # the values of variant 0, and not their roots
    assert "not their square roots" in graded[1]["dan"]["remarks"]


def test_what_a_submission_may_not_do_fails_with_its_reason(graded):
    tmp, rows = graded
    assert points(rows["eve"]) == [0, 0, 0]
    assert "done: " not in rows["eve"]["remarks"].replace("done: torch.ones", "")
    secret = tmp / "one" / "in" / "ada" / "hw1" / "ddpm.py"
    for words in ("socket.", "subprocess.Popen", "os.fork", "writing to", f"reading {secret}",
                  f"reading {make.ROOT}"):
        assert f"not while it is graded: {words}" in rows["eve"]["remarks"]
    assert (tmp / "mine.txt").read_text() == "not yours" and not (make.ROOT / "new.py").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is there on Linux only")
def test_memory_has_a_limit(graded):
    assert "memory" in graded[1]["eve"]["remarks"]


def test_a_submission_that_hangs_dies_or_lies_loses_that_exercise_only(graded):
    assert points(graded[1]["dan"])[1:] == [0, 0]
    assert "2: it took longer than 1 seconds" in graded[1]["dan"]["remarks"]
    assert "3: the process was ended" in graded[1]["dan"]["remarks"]     # of a second process


def test_a_remark_is_cut_and_written_whatever_is_in_it(graded):
    remarks = graded[1]["eve"]["remarks"]
    assert "ValueError: \\ud800xxx" in remarks and len(remarks) < 20_000


def test_no_submission_ends_the_grading_of_the_others(tmp_path, monkeypatch, capsys):
    for name in ("ada", "bea"):
        submit(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not a submission")

    def check(staged, todo, *rest):
        if not tried:
            tried.append(staged)
            raise OSError("no room")
        return dict.fromkeys(todo)                   # all pass

    tried = []

    monkeypatch.setattr(grade, "check", check)
    rows = grades(tmp_path)
    assert rows["ada"]["total (of 12)"] == "" and "not graded: OSError: no room" in rows["ada"][
        "remarks"]
    assert points(rows["bea"]) == [5, 4, 3]
    said = capsys.readouterr().out
    assert "bea: 12 of 12" in said and "notes.txt is neither" in said


@pytest.mark.thorough
def test_the_bug_hunt_is_graded_against_what_was_handed_out(tmp_path):
    make.make(make.choose([1, 13], 1), tmp_path / "in" / "key", solutions=True, variant=1)
    make.make(make.choose([1, 13], 0), tmp_path / "in" / "old", solutions=True, variant=0)
    rows = grades(tmp_path, "--variant", "1", only=["1", "13"])
    assert points(rows["key"]) == [5, 16]
    assert points(rows["old"]) == [3, 8]             # mended, but named after another defect


@pytest.mark.thorough
def test_after_a_process_that_dies_another_goes_on_and_exit_ends_nothing(tmp_path):
    submit(tmp_path / "in" / "die", first="import os\nos._exit(0)")
    submit(tmp_path / "in" / "exit", first="import sys\nsys.exit(0)")
    with zipfile.ZipFile(tmp_path / "in" / "zip.zip", "w") as z:
        z.write(submit(tmp_path / "zip") / "ddpm.py", "zip/hw1/ddpm.py")
    rows = grades(tmp_path, "--jobs", "2")
    assert list(rows) == ["die", "exit", "zip"]      # in order, whoever is graded first
    assert points(rows["die"]) == [0, 4, 3] and "process was ended" in rows["die"]["remarks"]
    assert points(rows["exit"]) == [2, 4, 3] and "SystemExit" in rows["exit"]["remarks"]
    assert points(rows["zip"]) == [0, 4, 3] and "no schedules.py" in rows["zip"]["remarks"]


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, [tmp_path], "no folders and no zips", main=grade.main)
    refused(capsys, [tmp_path / "none"], "none", code=1, main=grade.main)
    refused(capsys, [tmp_path, "--only", "99"], "no exercise 99", main=grade.main)
    refused(capsys, [tmp_path, "--csv", "grades.txt"], ".csv", main=grade.main)


def test_what_a_student_wrote_is_no_formula():
    assert grade.safe("=HYPERLINK()") == "'=HYPERLINK()" and grade.safe("ada") == "ada"
    assert grade.safe(-1) == -1
