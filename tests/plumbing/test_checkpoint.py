"""Checkpoints, locks and half-written files: whole or refused, whatever happens to them."""
import contextlib
import functools
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import TINY
from stand_ins import refused, same

import data
import sample
import train
from plumbing import checkpoint, files
from plumbing import run as plumbing_run
from plumbing.run import read_log

ROOT = Path(train.__file__).parent
SMALL = {**TINY, "channel_mults": (1,), "attention_resolutions": ()}         # few tensors to read


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """What `trained` is a copy of, smaller than elsewhere."""
    c = train.Config(**{**SMALL, "steps": 3, "lr": 0.05, "dropout": 0.5, "variance": "beta_tilde",
                        "out": str(tmp_path_factory.mktemp("trained"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "digits", functools.partial(data.digits, n=40))
        return Path(c.out), train.train(c)[1]


@contextlib.contextmanager
def at_once():
    """Take at most 5 seconds of this process: however busy the machine is, that is much."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 5


def read(path):
    return torch.load(path, weights_only=True)


@functools.lru_cache(maxsize=1)
def parsed(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def seal(body):
    return b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def look(path):
    """Read a checkpoint that is not written to: most tests begin with the same one."""
    return parsed(path.read_bytes())


def equal(one, two):
    """Are two checkpoints equal, with what else they hold?"""
    return same(one, two)


def change(path, **entries):
    """Replace entries of a checkpoint, and seal it again, as someone with bad intentions could."""
    checkpoint.write_checkpoint({**look(path), **entries}, path)


# ---- what is in a file ----

def test_a_checkpoint_is_a_plain_torch_file_sealed_with_its_sha256(trained):
    content = trained[0].read_bytes()
    body, mark, digest = content[:-71], content[-71:-64], content[-64:].decode()
    assert mark == b"sha256:"
    assert hashlib.sha256(body).hexdigest() == digest
    assert zipfile.ZipFile(trained[0]).testzip() is None
    assert equal(read(trained[0]), checkpoint.read_checkpoint(trained[0]))


def flipped(whole, i):
    return whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1:]


def test_a_flipped_bit_is_refused_wherever_it_is(trained, tmp_path):
    whole, bad = trained[0].read_bytes(), tmp_path / "bad.pt"
    ends = [*range(100), *range(len(whole) - 200, len(whole))]
    for i in ends + random.Random(0).sample(range(len(whole)), 200):
        bad.write_bytes(flipped(whole, i))
        with pytest.raises(ValueError, match="bad.pt is not a whole checkpoint"):
            checkpoint.read_checkpoint(bad)


def test_without_a_seal_a_flipped_bit_of_a_weight_is_refused_all_the_same(trained, tmp_path):
    content, bad = read(trained[0]), tmp_path / "bad.pt"
    content = {name: content[name] for name in ("config", "step")}
    content["ema"] = {"w": torch.randn(4, 100), "b": torch.randn(100)}      # of a file, most of it
    torch.save(content, bad)                                    # nobody's checksum but the zip's
    whole = bad.read_bytes()
    assert same(checkpoint.read_checkpoint(bad), content)
    refusals = 0
    for i in random.Random(1).sample(range(len(whole)), 300):
        bad.write_bytes(flipped(whole, i))
        try:                                                    # padding may change unnoticed
            assert same(checkpoint.read_checkpoint(bad), content)
        except ValueError:
            refusals += 1
    assert refusals > 150


@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_cut_anywhere_is_refused(trained, tmp_path, sealed):
    if not sealed:
        torch.save(read(trained[0]), trained[0])
    whole, bad = trained[0].read_bytes(), tmp_path / "bad.pt"
    for size in [*range(0, len(whole), 1024), len(whole) - 1, len(whole) - 71]:
        bad.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            checkpoint.read_checkpoint(bad)
    bad.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.read_checkpoint(bad)


def test_a_file_that_would_grow_when_read_is_refused(trained, tmp_path):
    with zipfile.ZipFile(trained[0]) as old, \
            zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert read(tmp_path / "bad.pt")                            # torch itself would take it
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "bad.pt")


def test_a_file_whose_records_lie_on_one_another_is_refused(trained):
    """A small file could claim the same bytes a thousand times."""
    content = read(trained[0])
    torch.save(content, trained[0])
    with zipfile.ZipFile(trained[0], "a") as z:
        z.filelist += [max(z.filelist, key=lambda record: record.file_size)] * 100
        z._didModify = True                                     # writes the directory anew
    body = bytearray(trained[0].read_bytes())
    body[-2:] = (71).to_bytes(2, "little")
    trained[0].write_bytes(body + seal(body))
    assert len(read(trained[0])["ema"]) == len(content["ema"])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.read_checkpoint(trained[0])


def test_a_file_that_two_readers_would_read_differently_is_refused(trained):
    """Python's zipfile takes the directory just before the end, torch the one the end points to."""
    torch.save(read(trained[0]), trained[0])
    body = bytearray(trained[0].read_bytes())
    where = int.from_bytes(body[-6:-2], "little")
    body[-6:-2], body[-2:] = (where - 64).to_bytes(4, "little"), (71).to_bytes(2, "little")
    content = bytes(body + seal(body))
    with pytest.raises(ValueError, match="another kind"):
        checkpoint.check_zip(content)


@pytest.mark.parametrize("entries", [{"config": [1]}, {"step": "1"}, {"step": True}, {"ema": None},
                                     {"ema": torch.zeros(3)}])
def test_entries_of_another_kind_are_refused(trained, entries):
    change(trained[0], **entries)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        sample.load(trained[0])


@pytest.mark.parametrize("strange", [
    {"T": 10 ** 12}, {"channels": 10 ** 6}, {"num_res_blocks": 10 ** 12}, {"image_size": 2 ** 90000,
    "channel_mults": [1] * 90000}, {"channel_mults": [10 ** 9, 1]}, {"channel_mults": 3},
    {"T": "5"}, {"T": None}, {"T": 5.5}, {"T": True}, {"channels": [4]}, {"dropout": "x"},
    {"schedule": []}, {"image_size": 8.0}, {"image_size": 0}, {"image_channels": 1.0},
    {"channel_mults": [1.0, 2]}, {"num_res_blocks": 1.0}, {"T": 2 * 10 ** 6},
    {"schedule": functools.reduce(lambda t, _: (t, t), range(64), ())}])
def test_a_config_of_monstrous_or_mistaken_size_is_refused_at_once(trained, config, capsys,
                                                                   strange):
    change(trained[0], config={**look(trained[0])["config"], **strange})
    with at_once():
        with pytest.raises(ValueError, match="checkpoint.pt"):
            sample.load(trained[0])
        refused(capsys, ["--resume", "--out", config().out], main=train.main)


@pytest.mark.parametrize("bad", [
    lambda w: w.fill_(float("nan")), lambda w: w.index_fill_(0, torch.tensor([0]), -torch.inf),
    lambda w: w.repeat(2, *[1] * (w.dim() - 1)), lambda w: w.to(torch.complex64),
    lambda w: w.to(torch.int32), lambda w: "text", lambda w: w.double() * 1e200])
def test_weights_that_cannot_be_right_are_refused(trained, capsys, config, bad):
    for part, argv, main in (("ema", ["--checkpoint", trained[0]], sample.main),
                             ("ema", ["--resume", "--out", config().out], train.main),
                             ("model", ["--resume", "--out", config().out], train.main)):
        whole = trained[0].read_bytes()
        weights = look(trained[0])[part]
        change(trained[0], **{part: {**weights, "conv_in.weight":
                                     bad(weights["conv_in.weight"].clone())}})
        refused(capsys, argv, "checkpoint.pt", main=main)
        trained[0].write_bytes(whole)


def test_weights_that_are_one_number_repeated_take_no_memory(trained):
    """A network of 25 GB in a file of a few kB, in which every weight is the same number."""
    config = {**look(trained[0])["config"], "channels": 6000}
    with torch.device("meta"):
        net = sample.UNet(**{name: config[name] for name in sample.NETWORK})
    change(trained[0], config=config, ema={
        name: torch.zeros(1).as_strided(weight.shape, [0] * weight.dim())
        for name, weight in net.state_dict().items()})
    assert sum(weight.numel() for weight in net.parameters()) * 4 > 20e9
    with at_once(), pytest.raises(ValueError, match="do not fit"):
        sample.load(trained[0])


def test_weights_of_another_precision_are_taken_as_float32(trained):
    _, _, expected = sample.load(trained[0])
    change(trained[0], ema={name: w.double() for name, w in look(trained[0])["ema"].items()})
    _, _, model = sample.load(trained[0])
    assert same(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("entries", [
    {"step": -1}, {"tally": torch.ones(4)}, {"tally": torch.full((2, 4), torch.nan)}, {"rng": []},
    {"rng": [[torch.zeros(3), torch.zeros(3)]]}, {"rng": 5}, {"optimizer": {}},
    {"optimizer": {"state": {}, "param_groups": []}},
    {"optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(1),
                                 "exp_avg_sq": torch.zeros(1)}}, "param_groups": []}},
    {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}}])
def test_a_run_with_entries_that_do_not_fit_is_not_resumed(trained, capsys, config, entries):
    change(trained[0], **entries)
    before = trained[0].read_bytes()
    refused(capsys, ["--resume", "--out", config().out], "checkpoint.pt is for sampling only")
    assert trained[0].read_bytes() == before


def test_moments_that_are_not_finite_are_refused(trained, capsys, config):
    content = read(trained[0])
    content["optimizer"]["state"][3]["exp_avg"][0] = float("nan")
    change(trained[0], optimizer=content["optimizer"])
    refused(capsys, ["--resume", "--out", config().out], "or damaged")


@pytest.mark.parametrize("change_of_state", [
    {"step": torch.tensor(torch.nan)}, {"step": torch.tensor(-1.0)}, {"step": torch.zeros(5)},
    {"step": torch.tensor(99.0)}, {"exp_avg_sq": torch.full((16, 4), -1.0)}])
def test_moments_that_adam_never_has_are_refused(trained, capsys, config, change_of_state):
    content = read(trained[0])
    content["optimizer"]["state"][0].update(change_of_state)
    change(trained[0], optimizer=content["optimizer"])
    refused(capsys, ["--resume", "--out", config().out], "or damaged")


def test_what_the_optimizer_does_is_not_read_from_a_file(trained, config):
    content = read(trained[0])
    content["optimizer"]["param_groups"][0].update(betas=[0, 0], maximize=True, lr=1e9)
    change(trained[0], optimizer=content["optimizer"])
    train.train(config(**{**SMALL, "steps": 4, "dropout": 0.5}), resume=True)
    assert read(trained[0])["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)


# ---- how it is written ----

def test_replacing_moves_only_what_is_complete(tmp_path):
    path = tmp_path / "new" / "file"
    with files.replacing(path) as tmp:
        tmp.write_text("one")
        assert not path.exists() and tmp.parent == path.parent
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), files.replacing(path) as tmp:
        tmp.write_text("tw")
        raise RuntimeError
    with pytest.raises(OSError, match="No space left on device: .*new.file"):
        with files.replacing(path) as tmp:
            raise OSError(28, "No space left on device")
    assert path.read_text() == "one"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_two_programs_may_write_one_file_and_the_last_wins(tmp_path, monkeypatch):
    with files.replacing(tmp_path / "file") as one:
        one.write_text("one")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with files.replacing(tmp_path / "file") as two:
            two.write_text("two")
        assert (tmp_path / "file").read_text() == "two"
    assert (tmp_path / "file").read_text() == "one"


def test_only_what_a_dead_program_left_half_written_is_swept(tmp_path):
    theirs = ["mine.tmp", "notes.123.txt", "report.2024.tmp"]
    for name in ("checkpoint.pt.123.tmp", "a.png.1.tmp", *theirs):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / "a.png.1.tmp", (0, 0))
    files.sweep(tmp_path, age=60)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt.123.tmp", *theirs]
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == theirs
    files.sweep(tmp_path / "not there")


def left_by(c):
    """Return what a run is, without the speed of this day; the same on one CPU, bit for bit."""
    content = read(Path(c.out, "checkpoint.pt"))
    del content["config"]
    content["log"] = [str(row[:-1]) for row in read_log(Path(c.out, "log.csv"))]    # nan is nan
    return content


def test_a_second_ctrl_c_while_saving_loses_nothing(config):
    """One run that nobody stops, and runs stopped at each moment at which a file can be half there.

    Resumed in the same process, they do the same arithmetic on the same shapes: nothing may differ.
    """
    values = {**SMALL, "steps": 10, "dropout": 0.3, "log_every": 3, "save_every": 2}
    train.train(whole := config(**values))
    original = plumbing_run.write_checkpoint
    for moment in (torch, "save"), (os, "fsync"), (os, "replace"):
        c, saves, patch = config(**values, out=f"{whole.out}-{moment[1]}"), [], pytest.MonkeyPatch()

        def interrupted(content, path, moment=moment, saves=saves, patch=patch):
            saves.append(content["step"])
            if content["step"] == 6:
                signal.raise_signal(signal.SIGINT)              # the first: it would stop and save
                patch.setattr(*moment, lambda *args: signal.raise_signal(signal.SIGINT))
            original(content, path)

        patch.setattr(plumbing_run, "write_checkpoint", interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                train.train(c)
        finally:
            patch.undo()
        assert saves == [0, 2, 4, 6] and read(Path(c.out, "checkpoint.pt"))["step"] == 4
        assert not list(Path(c.out).glob("*.tmp")) and not Path(c.out, ".lock").exists()
        train.train(c, resume=True)
        assert equal(left_by(whole), left_by(c)), moment


def test_a_full_disk_in_mid_run_is_one_line_and_the_last_checkpoint_stays(trained, flags, capsys,
                                                                          tmp_path):
    """A limit on the size of a file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "full"
    train.main(flags("--steps", "2", "--channel-mults", "1", "--attention-resolutions", "",
                     "--out", str(out)))
    argv = ["--resume", "--out", out, "--steps", "4", "--save-every", "1"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (trained[0].stat().st_size * 2 // 3, hard))
    try:
        refused(capsys, argv, "File too large", "checkpoint.pt", code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(out / "checkpoint.pt")["step"] == 2 and not list(out.glob("*.tmp"))


def test_a_folder_that_goes_in_mid_run_is_one_line(config, flags, capsys, monkeypatch):
    out, original = Path(config().out), train.L_simple

    def gone(*args):
        if out.is_dir():
            out.rename(out.with_name("moved"))
            out.write_text("now a file")
        return original(*args)

    monkeypatch.setattr(train.train, "__defaults__", (None, gone, False))
    refused(capsys, flags("--save-every", "1", "--log-every", "100"), "run", code=1)
    assert read(out.with_name("moved") / "checkpoint.pt")["step"] == 0


# ---- who may write ----

HOLDER = """
import sys, time, types
sys.modules["torch"] = types.ModuleType("torch")                # seconds, for nothing
from plumbing.files import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another program that holds the lock of the folder `held`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "held"], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_that_another_program_writes_to_is_refused(holder, trained, flags, capsys,
                                                            tmp_path):
    held = tmp_path / "held"
    refused(capsys, flags("--out", held), "another program is writing to", "held")
    refused(capsys, ["--checkpoint", trained[0], "--n", 1, "--folder", held],
            "another program is writing to", main=sample.main)
    assert os.listdir(held) == [".lock"]


def test_a_dead_program_holds_no_lock_and_its_leavings_are_removed(holder, tmp_path):
    (tmp_path / "held" / "checkpoint.pt.1.tmp").write_text("half")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "held" / ".lock").exists()
    with files.locked(tmp_path / "held"):
        assert os.listdir(tmp_path / "held") == [".lock"]
        with pytest.raises(ValueError, match="another program"):
            files.lock(tmp_path / "held" / ".lock")
    assert os.listdir(tmp_path / "held") == []


def test_a_lock_that_was_just_removed_is_not_taken_for_one(tmp_path, monkeypatch):
    """Its file is opened, its owner then removes it and goes: a third program makes a new one."""
    path, stat, gone = tmp_path / ".lock", os.stat, []

    def removed_once(name, **options):
        if name == path and not gone:
            gone.append(path.unlink())
        return stat(name, **options)

    monkeypatch.setattr(files.os, "stat", removed_once)
    with files.lock(path) as f:
        monkeypatch.undo()
        assert gone and os.path.samestat(os.stat(path), os.fstat(f.fileno()))


def test_where_the_file_system_knows_no_locks_there_is_none(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.locked(tmp_path), files.locked(tmp_path / "."):
        pass


def test_two_runs_that_start_at_once_do_not_both_write(config, monkeypatch):
    """Both find an empty folder; one trains, the other is refused: while it trains, and after."""
    c, load_data, found = config(**{**SMALL, "steps": 2}), train.load_data, []

    def meanwhile(*args):
        """The other run begins, and ends, when this one has just found the folder empty."""
        if not found.append(1) and len(found) == 1:
            train.train(c)
            found.append(Path(c.out, "checkpoint.pt").read_bytes())
        return load_data(*args)

    def again(*args):
        """A third run begins while the other trains."""
        with pytest.raises(ValueError, match="another program is writing to"):
            train.train(c)
        return train.L_simple(*args)

    monkeypatch.setattr(train, "load_data", meanwhile)
    monkeypatch.setattr(train.train, "__defaults__", (None, again, False))
    with pytest.raises(ValueError, match="already holds a run"):
        train.train(c)
    assert Path(c.out, "checkpoint.pt").read_bytes() in found


@pytest.mark.thorough
def test_two_programs_that_start_at_once_do_not_both_write(flags):
    """The same, left to chance."""
    command = [sys.executable, ROOT / "train.py", *flags("--steps", "50")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], said
    assert any("another program" in text or "already holds a run" in text for text in said)
