"""Grading: whatever is handed in, the checks stay the project's own, and one line says the rest."""
import csv
import json
import sys
import zipfile
from pathlib import Path

import pytest
from answers import COSINE_BODY, MEAN_BODY, Q_BODY
from test_train import refused

from exercises import grade, make

FIRST = "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"
ONLY = ["1", "2", "3"]                               # 5, 4 and 3 checks


def submit(folder, first=FIRST, cosine=COSINE_BODY, q_sample=Q_BODY, mean=MEAN_BODY):
    """Write the two files of a submission to exercises 1 to 3."""
    schedules, ddpm = (make.source_of(file) for file in ("schedules.py", "ddpm.py"))
    schedules = make.replace_body(schedules, "linear_beta_schedule", first)
    make.write(folder / "schedules.py",
               make.replace_body(schedules, "cosine_beta_schedule", cosine))
    ddpm = make.replace_body(ddpm, "DDPM.q_sample", q_sample)
    make.write(folder / "ddpm.py", make.replace_body(ddpm, "DDPM.posterior_mean", mean))
    return folder


def grades(tmp_path, *flags, only=ONLY):
    """Grade tmp_path / "in" and return {submission: {column: cell}}."""
    out = tmp_path / "grades.csv"
    grade.main([str(tmp_path / "in"), "--csv", str(out), "--only", *only, *flags])
    with open(out, newline="", encoding="utf-8") as f:
        return {row["submission"]: row for row in csv.DictReader(f)}


def points(row):
    return [int(cell) for column, cell in row.items() if column.startswith("exercise")]


def test_folders_and_zips_are_graded_wherever_the_files_lie_in_them(tmp_path, capsys):
    submit(tmp_path / "in" / "ada" / "hw1")
    with zipfile.ZipFile(tmp_path / "in" / "bea.zip", "w") as z:
        z.write(submit(tmp_path / "bea") / "ddpm.py", "bea/hw1/ddpm.py")
        z.writestr("__MACOSX/bea/schedules.py", "raise SystemExit")
        z.writestr("../../../../schedules.py", "raise SystemExit")
    (tmp_path / "in" / "cy.zip").write_bytes(b"PK no zip")
    (tmp_path / "in" / "notes.txt").write_text("not a submission")
    deep = tmp_path / "in" / "dee"
    deep.mkdir()
    with zipfile.ZipFile(deep / "hw1.zip", "w") as z:            # as some course systems pack them
        for file in ("ddpm.py", "schedules.py"):
            z.write(tmp_path / "in" / "ada" / "hw1" / file, f"./hw1/{file}")
    rows = grades(tmp_path)
    assert list(rows) == ["ada", "bea", "cy", "dee"] and points(rows["dee"]) == [5, 4, 3]
    assert points(rows["ada"]) == [5, 4, 3] and rows["ada"]["remarks"] == ""
    assert rows["ada"]["total (of 12)"] == "12"
    assert points(rows["bea"]) == [0, 4, 3]
    assert "there is no schedules.py" in rows["bea"]["remarks"]
    assert points(rows["cy"]) == [0, 0, 0] and "cannot be read" in rows["cy"]["remarks"]
    said = capsys.readouterr().out
    assert "ada: 12 of 12" in said and "notes.txt is neither" in said
    assert not (tmp_path.parent / "schedules.py").exists()


def test_a_submission_brings_no_checks_and_spoils_only_what_it_gets_wrong(tmp_path):
    folder = submit(tmp_path / "in" / "eve", q_sample="return x_0")
    for name in ("checks/ex02.py", "checks/kit.py", "checks/run.py", "conftest.py", "torch.py",
                 "checks/worker.py", "sitecustomize.py", "sample.py", "data.py"):
        make.write(folder / name, "import os\nos._exit(0)\n")
    folder = submit(tmp_path / "in" / "fay")
    (folder / "schedules.py").write_text("def linear_beta_schedule(:\n")
    make.write(tmp_path / "in" / "gil" / "ddpm.py", "x = 1\n" * 300_000)
    rows = grades(tmp_path)
    assert points(rows["eve"]) == [5, 1, 3] and "Eq. 4" in rows["eve"]["remarks"]
    assert points(rows["fay"]) == [0, 4, 3]
    assert "schedules.py cannot be read: invalid syntax" in rows["fay"]["remarks"]
    assert "ddpm.py cannot be read: it is larger than a megabyte" in rows["gil"]["remarks"]


def test_what_a_submission_may_not_do_fails_with_its_reason(tmp_path, monkeypatch):
    mine = tmp_path / "mine.txt"
    mine.write_text("not yours")
    secret = submit(tmp_path / "in" / "ada") / "ddpm.py"
    submit(tmp_path / "in" / "net",
           first="import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
           cosine="import subprocess\nsubprocess.run(['true'])",
           q_sample=f"open({str(mine)!r}, 'w')", mean=f"open({str(secret)!r}).read()")
    submit(tmp_path / "in" / "os",
           first=f"open({str(make.ROOT / 'schedules.py')!r})", cosine="import os\nos.fork()",
           q_sample=f"import os\nos.remove({str(mine)!r})",
           mean=f"import pathlib\npathlib.Path({str(make.ROOT)!r}, 'new.py').write_text('')")
    monkeypatch.chdir(tmp_path)                      # given by a relative path, as README has it
    rows = grades(Path(), "--seed", "3")
    assert points(rows["ada"]) == [5, 4, 3]
    for name in ("net", "os"):
        assert sum(points(rows[name])) == 0
    for word in ("socket.", "subprocess.Popen", "writing to", f"reading {secret}"):
        assert f"not while it is graded: {word}" in rows["net"]["remarks"]
    for word in ("os.fork", f"reading {make.ROOT}", "writing to"):
        assert f"not while it is graded: {word}" in rows["os"]["remarks"]
    assert mine.read_text() == "not yours" and not (make.ROOT / "new.py").exists()


def test_a_submission_that_hangs_dies_or_lies_loses_that_exercise_only(tmp_path):
    forged = json.dumps(["", 1, "check_the_first_schedule_is_evenly_spaced", None])
    noise = forged.encode() + b"\n[]\n7\n\xff\n"
    submit(tmp_path / "in" / "die", first=f"print({forged!r}, flush=True)\nimport os\n"
           f"for fd in range(3, 20):\n    try:\n        os.write(fd, {noise!r})"
           "\n    except OSError:\n        pass\nos._exit(0)")
    submit(tmp_path / "in" / "exit", first="import sys\nsys.exit(0)")
    submit(tmp_path / "in" / "hang", q_sample="while True:\n    pass")
    rows = grades(tmp_path, "--time-limit", "5", "--jobs", "2")
    assert points(rows["die"]) == [0, 4, 3] and "process was ended" in rows["die"]["remarks"]
    assert points(rows["exit"]) == [2, 4, 3] and "SystemExit" in rows["exit"]["remarks"]
    assert points(rows["hang"]) == [5, 0, 3] and "longer than 5 seconds" in rows["hang"]["remarks"]


def test_no_submission_ends_the_grading_of_the_others(tmp_path):
    submit(tmp_path / "in" / "ada", q_sample='raise ValueError("\\ud800" + "x" * 10 ** 6)')
    with zipfile.ZipFile(tmp_path / "in" / "bea.zip", "w") as z:
        z.writestr("ddpm.py", "")
    content = (tmp_path / "in" / "bea.zip").read_bytes()
    (tmp_path / "in" / "bea.zip").write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14",
                                                             b"PK\x01\x02\x14\x03\x63"))
    rows = grades(tmp_path, "--time-limit", str(grade.START), only=["2", "3"])
    assert points(rows["ada"]) == [0, 3] and len(rows["ada"]["remarks"]) < 20_000
    assert points(rows["bea"]) == [0, 0] and "bea.zip cannot be read" in rows["bea"]["remarks"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is there on Linux only")
def test_memory_has_a_limit(tmp_path):
    submit(tmp_path / "in" / "big", mean="return torch.ones(2 ** 30)")       # 4 GB
    rows = grades(tmp_path, "--memory", "1", only=["3"])
    assert points(rows["big"]) == [0] and "memory" in rows["big"]["remarks"]


def test_a_variant_and_the_bug_hunt_are_graded_against_what_was_handed_out(tmp_path):
    make.make(make.choose([1, 13], 1), tmp_path / "in" / "key", solutions=True, variant=1)
    make.make(make.choose([1, 13], 0), tmp_path / "in" / "old", solutions=True, variant=0)
    rows = grades(tmp_path, "--variant", "1", only=["1", "13"])
    assert points(rows["key"]) == [5, 16]
    assert points(rows["old"]) == [3, 8]             # mended, but named after another defect
    assert "not their square roots" in rows["old"]["remarks"]


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, [tmp_path], "no folders and no zips", main=grade.main)
    refused(capsys, [tmp_path / "none"], "none", code=1, main=grade.main)
    refused(capsys, [tmp_path, "--only", "99"], "no exercise 99", main=grade.main)
    refused(capsys, [tmp_path, "--csv", "grades.txt"], ".csv", main=grade.main)


def test_what_a_student_wrote_is_no_formula():
    assert grade.safe("=HYPERLINK()") == "'=HYPERLINK()" and grade.safe("ada") == "ada"
    assert grade.safe(-1) == -1
