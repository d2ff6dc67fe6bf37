"""Several processes on one machine, started by torchrun with gloo: what they share and what not."""
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sample
import train

ROOT = Path(train.__file__).parent
# Trains as `python train.py` does, but on batches that it knows, and keeps what it was given.
SCRIPT = """
import os, sys, signal, threading, time
from pathlib import Path
import torch
import data, parallel, train
from ddpm import DDPM

original = data.digits
data.digits = lambda size, seed: original(size, 40, seed)
out, case = sys.argv[1], sys.argv[2]
parallel.join("cpu")
rank, world = parallel.rank(), parallel.world()
calls, seen = 0, []

def known(ddpm, model, x_0, labels):
    global calls
    calls += 1
    g = torch.Generator().manual_seed(calls)
    x_0, eps = torch.randn(2, 4, 1, 8, 8, generator=g)
    t = torch.tensor([1, 2, 4, 5])
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    losses = ddpm.loss(model, x_0[mine], t[mine], eps[mine], reduction="none").flatten(1).mean(1)
    return losses, t[mine]

def spied(ddpm, model, x_0, labels):
    global calls
    calls += 1
    losses, t = train.L_simple(ddpm, model, x_0, labels)
    seen.append((x_0, t))
    if case == "signal" and rank == 1 and calls == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return losses, t

if case == "late":                   # the second process gets a signal while it waits for the first
    def sample_grid(*args):
        if rank == 0:
            time.sleep(3)
        else:
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()

    train.sample_grid = sample_grid

tiny = dict(image_size=8, channels=4, channel_mults=(1, 2), attention_resolutions=(4,), T=5,
            schedule="cosine", steps=4, batch_size=4, warmup=2, log_every=2, save_every=100,
            sample_every=0, device="cpu", precision="float32", out=out)
if case in ("signal", "late"):
    tiny["steps"] = 1000
    tiny["sample_every"] = 2 if case == "late" else 0
try:
    train.train(train.Config(**tiny), loss=known if case == "known" else spied)
    parallel.leave()                 # as train.main does
    tasks = Path("/proc/self/task")  # a thread of gloo may abort the process when Python ends
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
    assert not [name for name in names if "gloo" in name], names
finally:
    torch.save(seen, f"{out}-{rank}.pt")
"""


def torchrun(n, *command):
    """Run a command in n processes, and return the finished launcher."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           f"--nproc_per_node={n}", "--", *map(str, command)],
                          env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def content(out):
    return torch.load(Path(out, "checkpoint.pt"), weights_only=True)


def test_two_processes_average_their_gradients_as_one_with_the_whole_batch(script, tmp_path):
    alone = subprocess.run([sys.executable, script, tmp_path / "one", "known"], check=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    done = torchrun(2, script, tmp_path / "two", "known")
    assert alone.returncode == done.returncode == 0, done.stderr
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    for part in ("model", "ema"):
        assert list(one[part]) == list(two[part])
        for name, weight in one[part].items():
            torch.testing.assert_close(two[part][name], weight, rtol=1e-4, atol=1e-5)
    assert len(one["rng"]) == 1 and len(two["rng"]) == 2
    for a, b in zip(one["rows"], two["rows"], strict=True):     # the log is of the whole batch
        assert a[:-1] == pytest.approx(b[:-1], rel=1e-4, nan_ok=True)
    assert done.stdout.count("step 4/4") == 1                   # and one process prints it
    assert [len(list((tmp_path / run).iterdir())) for run in ("one", "two")] == [4, 4]


def test_each_process_has_its_own_noise_and_a_signal_to_one_stops_both(script, tmp_path):
    done = torchrun(2, script, tmp_path / "run", "signal")
    assert "stopped and saved at step 3 of 1000" in done.stdout
    assert content(tmp_path / "run")["step"] == 3
    assert not (tmp_path / "run" / "samples.png").exists()      # which the end of a run makes
    one, two = (torch.load(tmp_path / f"run-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(one) == len(two) == 3
    for (x_0, t), (other, other_t) in zip(one, two, strict=True):
        assert len(t) == len(other_t) == 2 and not torch.equal(x_0, other)
    assert [t.tolist() for _, t in one] != [t.tolist() for _, t in two]


def test_runs_repeat_and_resume_bit_for_bit_and_with_another_number_of_processes(tmp_path, flags):
    def run(n, out, *extra):
        done = torchrun(n, ROOT / "train.py", *flags("--batch-size", "6", "--out", tmp_path / out,
                                                     *extra))
        assert done.returncode == 0, done.stderr

    def same(one, two):
        return all(torch.equal(one["ema"][name], two["ema"][name]) for name in one["ema"])

    run(2, "whole", "--steps", 4)
    run(2, "halves", "--steps", 2)
    run(2, "halves", "--steps", 4, "--resume")
    assert same(content(tmp_path / "whole"), content(tmp_path / "halves"))
    run(3, "halves", "--steps", 6, "--resume")
    train.main([str(part) for part in flags("--batch-size", "6", "--out", tmp_path / "halves",
                                            "--steps", 8, "--resume")])
    last = content(tmp_path / "halves")
    assert last["step"] == 8 and len(last["rng"]) == 1
    with open(tmp_path / "halves" / "log.csv") as f:
        assert [row["step"] for row in csv.DictReader(f)] == ["2", "4", "6", "8"]


def test_a_batch_that_cannot_be_divided_is_refused(flags, tmp_path):
    done = torchrun(2, ROOT / "train.py", *flags("--batch-size", "3"))
    assert done.returncode != 0 and "--batch-size is of all processes" in done.stderr


def test_two_processes_write_the_images_that_one_writes(trained, tmp_path):
    arguments = "--checkpoint", trained[0], "--n", 600, "--device", "cpu", "--folder"
    sample.main([str(part) for part in (*arguments, tmp_path / "one")])
    done = torchrun(2, ROOT / "sample.py", *arguments, tmp_path / "two")
    assert done.returncode == 0 and done.stdout.count("all 600 images, 0 ") == 1, done.stderr
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two] and len(one) == 600
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    for path in two[250:270] + two[590:]:                       # of each batch some
        path.unlink()
    assert torchrun(2, ROOT / "sample.py", *arguments, tmp_path / "two").returncode == 0
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    refused = torchrun(2, ROOT / "sample.py", *arguments, tmp_path / "two", "--seed", "1")
    assert refused.returncode != 0 and "is not empty" in refused.stderr
    one_gpu = torchrun(2, ROOT / "sample.py", *arguments[:-3], "--device", "cuda:0")
    assert "--device must be auto, cuda or cpu under torchrun, not cuda:0" in one_gpu.stderr
    assert "--folder" in torchrun(2, ROOT / "sample.py", "--n", 4).stderr


def test_alone_nothing_is_shared():
    import parallel
    assert (parallel.rank(), parallel.world()) == (0, 1)
    assert parallel.gather("x") == ["x"]
    assert torch.equal(parallel.total(torch.ones(2)), torch.ones(2))
    with parallel.one_first():
        parallel.wait()
    assert not train.agree([]) and train.agree([signal.SIGINT])
    model = torch.nn.Linear(1, 1)
    assert parallel.replicate(model) is model
    parallel.leave()


def test_no_two_processes_and_no_two_steps_have_the_same_noise(monkeypatch):
    """Not even on a CPU, whose generator takes 32 bits of a seed."""
    noise = set()
    for rank in range(4):
        monkeypatch.setattr(train.parallel, "rank", lambda rank=rank: rank)
        for seed, step in ((0, 0), (0, 7), (5, 0), (5, 2 ** 20)):
            torch.manual_seed(train.own_seed(seed, step))
            noise.add(tuple(torch.rand(4).tolist()))
    assert len(noise) == 16


def test_a_signal_that_comes_while_the_first_process_samples_stops_all(script, tmp_path):
    done = torchrun(2, script, tmp_path / "run", "late")
    assert "stopped and saved at step 3 of 1000" in done.stdout, done.stderr
    assert content(tmp_path / "run")["step"] == 3
