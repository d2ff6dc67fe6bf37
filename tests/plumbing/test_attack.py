"""Long attacks on runs, files and folders.  The slow ones: pytest -m slow tests/test_attack.py"""
import csv
import functools
import gc
import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import tarfile
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_checkpoint import SMALL, equal, flipped, read

import data
import sample
import train
from plumbing import downloads, folder

ROOT = Path(train.__file__).parent
RUN = ["--image-size", "8", "--channels", "4", "--T", "5", "--attention-resolutions", "4",
       "--batch-size", "3", "--warmup", "5", "--dropout", "0.2", "--log-every", "7",
       "--sample-every", "50", "--device", "cpu"]


def program(*argv, **options):
    return subprocess.Popen([sys.executable, *map(str, argv)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def result(out):
    """What a run left: its checkpoint, and its log without the speed."""
    content = read(out / "checkpoint.pt")
    del content["config"]
    with open(out / "log.csv", newline="") as f:
        return content, [row[:-1] for row in csv.reader(f)]


# ---- killed ----

class Killed(BaseException):
    """What nothing here may catch, as nothing can catch SIGKILL."""


def die(c, pid, file, when):
    """Train until that file is moved to its place, and die: with half of it written, or just after.

    From then on nothing happens to the disk any more.  Process 0 begins the run.
    """
    move = os.replace

    def kill(*args, **options):
        raise Killed

    def replace(tmp, path):
        if Path(path).name != file:
            return move(tmp, path)
        if when == "half":
            os.truncate(tmp, os.path.getsize(tmp) // 2)
        else:
            move(tmp, path)
        patch.setattr(Path, "unlink", kill)
        kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(os, "getpid", lambda: pid)                # by which it names its files
        with pytest.raises(Killed):                             # or the file was not written
            train.train(c, resume=pid > 0)
    gc.collect()                                                # which lets go of the lock


def test_dead_in_the_middle_of_each_file_it_writes_a_run_ends_as_if_it_never_was(plot, config):
    """What the next test leaves to chance; in one process, which does the same arithmetic again."""
    values = {**SMALL, "steps": 8, "dropout": 0.2, "log_every": 3, "save_every": 2,
              "sample_every": 4}
    whole, parts = (config(**values, out=config().out + name) for name in ("-whole", "-parts"))
    train.train(whole)
    for pid, death in enumerate((
            ("checkpoint.pt", "after"), ("checkpoint.pt", "half"), ("log.csv", "half"),
            ("log.csv", "after"), ("loss.png", "half"), ("000004.png", "half"),
            ("000004.png", "after"), ("samples.png", "half"), ("samples.png", "after"))):
        die(parts, pid, *death)
        half = list(Path(parts.out).glob("**/*.tmp"))
        assert len(half) == (death[1] == "half") and Path(parts.out, ".lock").exists(), half
    train.train(parts, resume=True)
    log, files = same_files(Path(whole.out), Path(parts.out))
    assert [row[0] for row in log] == ["step", "3", "6", "8"]
    assert files == ["checkpoint.pt", "log.csv", "loss.png", "samples.png", "samples/000004.png"]


def same_files(whole, parts):
    """One process or program has done what the other has, on the same CPU: bit for bit."""
    (one, log_one), (two, log_two) = result(whole), result(parts)
    assert equal(one, two) and log_one == log_two
    names = [sorted(str(path.relative_to(out)) for path in out.glob("**/*") if path.is_file())
             for out in (whole, parts)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.startswith("samples"):
            assert (whole / name).read_bytes() == (parts / name).read_bytes()
    return log_two, names[0]


def killed(tmp_path, precision, kills, steps, send):
    """Start a run, `send` it something at random moments, resume it each time: is it the same?

    A moment is so many lines of the log later, and a little more: however fast the machine is.
    """
    rng, argv = random.Random(kills), [*RUN, "--precision", precision, "--steps", steps]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert program(ROOT / "train.py", *argv, "--out", whole).wait() == 0
    begun, leavings = [], 0
    for i in range(kills + 1):
        run = program(ROOT / "train.py", "--out", parts, "--save-every", 1 + i % 3,
                      *(["--resume"] if i else argv))
        lines = rng.randrange(steps // (7 * kills) + 1)
        for line in run.stdout:
            lines -= line.startswith("step")
            if lines == 0 and ("weights," in line or line.startswith("step")):
                break                                           # it has read what there was
        if i < kills:
            time.sleep(rng.uniform(0, 0.04))
            send(run)
        out, err = run.communicate(timeout=100)
        # Python itself complains of a Ctrl-C that comes when it is already leaving.
        assert run.returncode != 1 and ("Traceback" not in err or send is impatiently), err
        leavings += len(list(parts.glob("**/*.tmp")))
        begun.append(read(parts / "checkpoint.pt")["step"])
    print(begun)
    assert begun == sorted(begun) and begun[-1] == steps and begun[kills - 1] < steps, begun
    log, files = same_files(whole, parts)
    assert [int(row[0]) for row in log[1:]] == [*range(7, steps, 7), *[steps] * (steps % 7 > 0)]
    assert files == ["checkpoint.pt", "log.csv", "loss.png", "samples.png",
                     *(f"samples/{step:06}.png" for step in range(50, steps, 50))]
    return leavings


def at_once(run):
    run.send_signal(signal.SIGKILL)


def politely(run):
    run.send_signal(random.Random(run.pid).choice([signal.SIGINT, signal.SIGTERM]))


def impatiently(run):
    for _ in range(3):
        if run.poll() is None:
            run.send_signal(signal.SIGINT)
            time.sleep(0.002)


@pytest.mark.parametrize("precision, kills, steps, send", [
    pytest.param("float32", 2, 150, at_once, marks=pytest.mark.thorough),
    *(pytest.param(precision, 50, 2500, at_once, marks=pytest.mark.slow)
      for precision in ("float32", "bf16")),
    *(pytest.param("float32", 25, 1500, send, marks=pytest.mark.slow)
      for send in (politely, impatiently))])
def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(tmp_path, capsys, precision, kills,
                                                                steps, send):
    leavings = killed(tmp_path, precision, kills, steps, send)
    with capsys.disabled():
        print(f"\n{kills} x {send.__name__}, {precision}: {leavings} half-written files swept")


# ---- a disk that is full, or gone ----

@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB; only root can make one."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path],
                      capture_output=True).returncode:
        pytest.skip("needs root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def in_mid_run(out, harm, **options):
    """Train, do harm after some steps, and return what it says in the end."""
    run = program(ROOT / "train.py", *RUN, "--steps", 10 ** 6, "--save-every", 1, "--log-every", 1,
                  "--sample-every", 0, "--out", out, **options)
    for line in run.stdout:
        if line.startswith("step"):
            harm()
            break
    _, err = run.communicate(timeout=100)
    assert run.returncode == 1 and err.count("\n") == 1 and "Traceback" not in err, err
    assert 0 <= read(out / "checkpoint.pt")["step"] < 10 ** 6
    return err


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.05, 0.1, 0.2, 0.5])
def test_a_full_disk_leaves_the_last_checkpoint(disk, seconds):
    def fill():
        time.sleep(seconds)
        with open(disk / "filler", "wb", buffering=0) as f:
            while f.write(bytes(1024)) == 1024:
                pass

    def harm():
        try:
            fill()
        except OSError:
            pass

    assert "No space left on device" in in_mid_run(disk / "run", harm)
    (disk / "filler").unlink()
    step = read(disk / "run" / "checkpoint.pt")["step"]
    done = program(ROOT / "train.py", "--resume", "--out", disk / "run", "--steps", step + 3)
    assert done.wait(100) == 0 and not list(disk.glob("**/*.tmp"))


@pytest.mark.slow
def test_a_folder_that_becomes_unwritable_leaves_the_last_checkpoint():
    nobody = {"user": 65534} if os.geteuid() == 0 else {}       # root may write everywhere
    with tempfile.TemporaryDirectory() as top:
        nobody["env"] = {**os.environ, "MPLCONFIGDIR": top}
        os.chmod(top, 0o777)
        try:
            readable = program(ROOT / "train.py", "--help", **nobody).wait() == 0
        except OSError:
            readable = False
        if not readable:
            pytest.skip("no other user can run this")
        out = Path(top, "run")
        assert "Permission denied" in in_mid_run(out, lambda: os.chmod(out, 0o555), **nobody)
        os.chmod(out, 0o777)
        step = read(out / "checkpoint.pt")["step"]
        argv = ["--resume", "--out", out, "--steps", step + 3]
        assert program(ROOT / "train.py", *argv, **nobody).wait() == 0
        assert not list(out.glob("**/*.tmp"))


# ---- hostile files ----

@pytest.mark.slow
def test_a_thousand_flipped_bytes_of_a_checkpoint_are_refused(trained, tmp_path):
    whole, bad = trained[0].read_bytes(), tmp_path / "bad.pt"
    for i in random.Random(2).choices(range(len(whole)), k=1000):
        bad.write_bytes(flipped(whole, i))
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            sample.load(bad)


def mutate(rng, whole):
    """Flip, insert, remove, cut or repeat some bytes."""
    content = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        i = rng.randrange(max(1, len(content)))
        kind = rng.randrange(5)
        if kind == 0:
            content[i:i + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            content[i:i] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del content[i:i + rng.randrange(1, 9)]
        elif kind == 3 and rng.random() < 0.2:
            del content[i:]
        else:
            content[i:i + 4] = struct.pack(">I", rng.choice([0, 1, 2 ** 16, 2 ** 31, 2 ** 32 - 1]))
    return bytes(content)


def pictures():
    """Yield (suffix, bytes) of small pictures in every format and several modes."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 4), np.uint8), "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix, kind in folder.FORMATS.items():
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"):
            for more in ({}, {"exif": exif.tobytes()}):
                buffer = io.BytesIO()
                try:
                    converted = Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12)) \
                        if mode == "I;16" else image.convert(mode)
                    converted.save(buffer, kind, **more)
                except (OSError, ValueError, TypeError, KeyError, AttributeError):
                    continue                                    # not every format has every mode
                yield suffix, buffer.getvalue()


def fuzz_pictures(tmp_path, number):
    rng, seeds = random.Random(3), list(pictures())
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(number):
        suffix, whole = rng.choice(seeds)
        (root / f"{i:05}{suffix}").write_bytes(mutate(rng, whole))
    kept = 0
    shape = (1, 3, 8, 8)
    for path in sorted(root.iterdir()):
        try:
            folder.decode_all(root, [path.name], shape, tmp_path / "cache" / "x-1.npy")
            x, _ = folder.map_cache(tmp_path / "cache" / "x-1.npy", shape)
            assert x.shape == shape and x.dtype == torch.uint8
            kept += 1
        except ValueError as error:
            assert "cannot be read" in str(error)
    return kept


def fuzz_archives(tmp_path, number):
    """IDX files, gzipped or not, and CIFAR-10's archive; every tenth is left whole."""
    rng, root, kept = random.Random(4), tmp_path / "data", 0
    idx = [bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 5, 5) + bytes(range(100)),
           bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([1, 2, 3, 4])]
    records = bytes([3]) + bytes(3072)
    tar, packed = io.BytesIO(), functools.partial(gzip.compress, mtime=0)
    with tarfile.open(fileobj=tar, mode="w") as t:
        for file in downloads.CIFAR10_FILES["train"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            info.size = len(records)
            t.addfile(info, io.BytesIO(records))
    for i in range(number):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        files = zip(downloads.MNIST_FILES["train"], idx, strict=True) if i % 3 < 2 else \
            [(downloads.CIFAR10_ARCHIVE, tar.getvalue())]
        pack = packed if i % 3 else bytes
        for name, content in files:
            if i % 10:
                content = pack(mutate(rng, content)) if rng.random() < 0.5 else \
                    mutate(rng, pack(content))
            (root / name).write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        try:
            x, labels = data.load("mnist" if i % 3 < 2 else "cifar10", data_dir=root)
            assert x.dtype == torch.uint8 and len(x) == len(labels) and labels.max() < 10
            kept += 1
        except ValueError as error:
            assert i % 10 and (str(root) in str(error) or "CIFAR-10" in str(error)), error
        assert sorted(tmp_path.rglob("*")) == before            # nothing is unpacked
    return kept


@pytest.mark.parametrize("number", [100, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fuzz", [fuzz_pictures, fuzz_archives])
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused(tmp_path, monkeypatch, capsys, fuzz, number):
    monkeypatch.setattr(downloads, "MIRRORS", {"mnist": (), "cifar10": ()})
    kept = fuzz(tmp_path, number)
    assert 0 < kept < number
    if number > 100:
        with capsys.disabled():
            print(f"\n{fuzz.__name__}: {number - kept} of {number} refused in one line, the others "
                  "whole enough to be read")


# ---- long and large ----

def memory(pid):
    """Return (MB of a process's own memory, number of files it has open)."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.split("RssAnon:")[1].split()[0]) / 1024
    return own, len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
@pytest.mark.parametrize("sample_every, growth", [(0, 2), (100, 10)])
def test_ten_thousand_steps_take_no_more_memory_than_five_thousand(tmp_path, capsys, sample_every,
                                                                   growth):
    run = program(ROOT / "train.py", *RUN, "--steps", 10_000, "--save-every", 100, "--log-every",
                  100, "--sample-every", sample_every, "--out", tmp_path / "run")
    figures = {}
    for line in run.stdout:
        if line.startswith("step"):
            figures[int(line.split()[1].split("/")[0])] = memory(run.pid)
    run.communicate()
    with capsys.disabled():
        print("\nMB and open files:", *(f"{step} steps {figures[step]}"
                                        for step in (100, 1000, 5000, 9900)))
    assert figures[9900][0] < figures[5000][0] + growth and figures[9900][1] <= figures[1000][1]


@pytest.mark.slow
def test_fifty_thousand_samples_can_be_interrupted_and_take_bounded_memory(trained, tmp_path,
                                                                           capsys):
    peaks = {}
    for n, kills in ((2_000, 0), (50_000, 0), (50_000, 5)):
        folder, rng = tmp_path / f"{n}-{kills}", random.Random(n)
        for i in range(kills + 1):
            start = time.monotonic()
            run = program(ROOT / "sample.py", "--checkpoint", trained[0], "--n", n, "--folder",
                          folder, "--device", "cpu")
            end = rng.uniform(8, 14) if i < kills else 1000
            while run.poll() is None and time.monotonic() < start + end:
                try:
                    peaks[folder.name] = max(peaks.get(folder.name, 0), memory(run.pid)[0])
                except (OSError, IndexError):
                    pass                                        # it has just ended
                time.sleep(0.1)
            if i < kills:
                run.kill()
            _, err = run.communicate()
            assert i < kills or run.returncode == 0, err
        assert len(list(folder.iterdir())) == n
    with capsys.disabled():
        print(f"\npeaks in MB: {json.dumps({k: round(v) for k, v in peaks.items()})}")
    for path in (tmp_path / "50000-0").iterdir():
        assert path.read_bytes() == (tmp_path / "50000-5" / path.name).read_bytes()
    assert peaks["50000-0"] < peaks["2000-0"] + 50


@pytest.mark.slow
def test_a_large_folder_is_trained_on_in_little_memory(tmp_path, capsys):
    """200,000 pictures of 32 x 32: 614 MB once decoded."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    for i in range(200_000):
        if i % 2000 == 0:
            folder = root / f"{i // 2000:03}"
            folder.mkdir(parents=True)
        pixels = np.full((32, 32, 3), rng.integers(0, 256, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=1)
    peaks = {}
    for case in ("decoded", "mapped"):
        start = time.monotonic()
        run = program(ROOT / "train.py", "folder", *RUN, "--data", root, "--image-size", "32",
                      "--attention-resolutions", "", "--channel-mults", "1,2",
                      "--num-res-blocks", "1", "--steps", "200", "--data-dir", tmp_path / "cache",
                      "--out", tmp_path / case)
        peaks[case] = 0
        while run.poll() is None:
            try:
                peaks[case] = max(peaks[case], memory(run.pid)[0])
            except (OSError, IndexError):
                pass
            time.sleep(0.1)
        assert run.returncode == 0, run.communicate()[1]
        peaks[case + ", seconds"] = time.monotonic() - start
    with capsys.disabled():
        print(f"\npeaks in MB: {json.dumps({k: round(v) for k, v in peaks.items()})}")
    assert peaks["decoded"] < 700 and peaks["mapped"] < 700
    shutil.rmtree(root)
