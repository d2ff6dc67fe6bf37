"""Several processes, with gloo: what they share and what not.

They are forked from a process that has imported torch and has no threads yet, and find each other
as those of torchrun do; torchrun itself starts them in the thorough test.
"""
import csv
import faulthandler
import functools
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import data
import sample
import train
from plumbing import parallel
from plumbing.run import Run, leave, read_log

ROOT = Path(train.__file__).parent
FORK = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    FORK.set_forkserver_preload(["train", "torch._dynamo"])      # the latter with Adam's first step


def process(rank, n, port, folder, job, args):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0")
    sys.stdout, sys.stderr = (open(folder / f"{name}-{rank}", "w") for name in ("out", "err"))
    faulthandler.dump_traceback_later(60, file=sys.stderr)       # if it hangs: where
    torch.set_num_threads(1)                         # as torchrun does
    data.digits = functools.partial(data.digits, n=40)           # as conftest.py does for this one
    Run.plot = lambda run: None
    job(*args)


@pytest.fixture
def together(tmp_path):
    """Run a job in n processes: return their exit codes, and all that they said on each stream."""
    def start(n, job, *args):
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False,
                                           timeout=timedelta(seconds=100))
        processes = [FORK.Process(target=process, args=(rank, n, store.port, tmp_path, job, args))
                     for rank in range(n)]
        for one in processes:
            one.start()
        for one in processes:
            one.join(timeout=100)
            one.kill()                               # if it hangs: its exit code is then -9
            one.join()
        said = ["".join((tmp_path / f"{name}-{rank}").read_text() for rank in range(n))
                for name in ("out", "err")]
        return [one.exitcode for one in processes], *said
    return start


def content(out):
    return torch.load(Path(out, "checkpoint.pt"), weights_only=True)


class Known:
    """L_simple of batches of 4 that are the same, however many processes share them."""

    calls = 0

    def __call__(self, ddpm, model, x_0, labels):
        self.calls += 1
        g = torch.Generator().manual_seed(self.calls)
        x_0, eps = torch.randn(2, 4, 1, 8, 8, generator=g)
        t = torch.tensor([1, 2, 4, 5])
        rank, world = parallel.rank, parallel.world
        mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
        losses = ddpm.loss(model, x_0[mine], t[mine], eps[mine], reduction="none")
        return losses.flatten(1).mean(1), t[mine]


def train_known(config):
    train.train(config, loss=Known())
    parallel.leave()                 # as train.main does
    tasks = Path("/proc/self/task")  # a thread of gloo may abort the process when Python ends
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
    assert not [name for name in names if "gloo" in name], names


@pytest.mark.thorough
def test_two_processes_average_their_gradients_as_one_with_the_whole_batch(config, together,
                                                                           tmp_path):
    one, two = (config(batch_size=4, out=str(tmp_path / name)) for name in ("one", "two"))
    train.train(one, loss=Known())
    codes, said, errors = together(2, train_known, two)
    assert codes == [0, 0], errors
    torch.manual_seed(one.seed)
    before = sample.build(vars(one))[1].state_dict()            # as both began
    one, two = content(one.out), content(two.out)
    for part in ("model", "ema"):
        assert list(one[part]) == list(two[part]) == list(before)
        # Adam's first steps have the length of the learning rate, also where the gradient is
        # nothing but rounding, of another order here and there: so the weights taken together.
        start, alone, shared = (torch.cat([weight.flatten() for weight in weights.values()])
                                for weights in (before, one[part], two[part]))
        assert (shared - alone).norm() < 0.02 * (alone - start).norm()
    assert len(one["rng"]) == 1 and len(two["rng"]) == 2
    logs = [read_log(tmp_path / name / "log.csv") for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):             # the log is of the whole batch
        assert a[:-1] == pytest.approx(b[:-1], rel=1e-3, nan_ok=True)
    assert said.count("step 6/6") == 1                          # and one process prints it
    assert [len(list((tmp_path / run).iterdir())) for run in ("one", "two")] == [3, 3]


def share(order):
    parallel.join("cpu")
    rank = parallel.rank
    assert parallel.world == 2 and parallel.gather(rank) == [0, 1]
    assert not Run.stopped(SimpleNamespace(signals=[]))
    assert Run.stopped(SimpleNamespace(signals=[signal.SIGINT] if rank == 1 else []))
    model = torch.nn.Linear(1, 1)
    shared = parallel.replicate(model)
    shared(torch.tensor([[1.0], [5.0]][rank])).backward()
    assert model.weight.grad.item() == pytest.approx(3)         # the mean, and not the sum
    with parallel.one_first():
        if rank == 0:
            time.sleep(0.1)
        with open(order, "a") as f:
            f.write(str(rank))
    print("said")
    parallel.leave()


def test_two_processes_share_values_sums_and_gradients_and_take_turns(together, tmp_path):
    codes, said, errors = together(2, share, tmp_path / "order")
    assert codes == [0, 0], errors
    assert said == "said\n"                                     # by the first alone
    assert (tmp_path / "order").read_text() == "01"


def take_turns(order):
    os.environ["LOCAL_RANK"] = "010"[int(os.environ["RANK"])]   # the last on a machine of its own
    parallel.join("cpu")
    with parallel.one_first():
        time.sleep([0.4, 0, 0.2][parallel.rank])
        with open(order, "a") as f:
            f.write(str(parallel.rank))
    parallel.leave()


def test_the_first_of_each_machine_goes_before_the_rest(together, tmp_path):
    codes, _, errors = together(3, take_turns, tmp_path / "order")
    assert codes == [0, 0, 0], errors
    assert (tmp_path / "order").read_text() == "021"


def apart(main, argv, folder):
    os.chdir(folder / os.environ["RANK"])            # a machine that shares no files
    main(argv)


def test_machines_that_do_not_have_the_same_run_end_in_one_line(trained, together, tmp_path):
    first, second = tmp_path / "0", tmp_path / "1"
    shutil.copytree(trained[0].parent, first / "run")
    second.mkdir()
    resume = ["--out", "run", "--resume", "--steps", "5", "--batch-size", "2"]
    codes, _, errors = together(2, apart, train.main, resume, tmp_path)
    assert codes == [1, 2]
    assert errors.splitlines() == [
        "train.py: another process has ended",
        f"train.py: nothing to resume: there is no {Path('run', 'checkpoint.pt')}"]

    stale = content(first / "run")
    next(iter(stale["ema"].values())).add_(1)
    (second / "run").mkdir()
    torch.save(stale, second / "run" / "checkpoint.pt")
    codes, _, errors = together(2, apart, train.main, resume, tmp_path)
    assert codes == [2, 2] and errors.count("is another file for some of the processes") == 2

    draw = ["--checkpoint", "run/checkpoint.pt", "--n", "300", "--folder", str(tmp_path / "drawn")]
    codes, _, errors = together(2, apart, sample.main, draw, tmp_path)
    assert codes == [2, 2] and errors.count("some processes have another checkpoint") == 2
    assert not (tmp_path / "drawn").exists()


def train_spied(config):
    seen = []

    def spied(ddpm, model, x_0, labels):
        losses, t = train.L_simple(ddpm, model, x_0, labels)
        seen.append((x_0, t))
        if parallel.rank == 1 and len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses, t

    train.train(config, loss=spied)
    torch.save(seen, f"{config.out}-{parallel.rank}.pt")
    leave()


def test_each_process_has_its_own_noise_and_a_signal_to_one_stops_both(config, together):
    c = config(batch_size=4, steps=1000)
    codes, said, errors = together(2, train_spied, c)
    assert codes == [128 + signal.SIGTERM] * 2, errors
    assert "stopped and saved at step 3 of 1000" in said
    assert content(c.out)["step"] == 3
    assert not Path(c.out, "samples.png").exists()              # which the end of a run makes
    one, two = (torch.load(f"{c.out}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(one) == len(two) == 3
    for (x_0, t), (other, other_t) in zip(one, two, strict=True):
        assert len(t) == len(other_t) == 2 and not torch.equal(x_0, other)
    assert [t.tolist() for _, t in one] != [t.tolist() for _, t in two]


def train_late(config, sent):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)
        sent.touch()

    def draw_samples(ddpm, model, config, run):
        if run.step == 2 and parallel.rank > 0:      # a signal comes while it waits for the first
            threading.Timer(0.3, stop).start()
        while run.step == 2 and parallel.rank == 0 and not sent.exists():
            time.sleep(0.01)

    train.draw_samples = draw_samples
    train.train(config)
    leave()


def test_a_signal_that_comes_while_the_first_process_samples_stops_all(config, together, tmp_path):
    c = config(batch_size=4, steps=1000)
    codes, said, errors = together(2, train_late, c, tmp_path / "sent")
    assert codes == [128 + signal.SIGTERM] * 2, errors
    step = content(c.out)["step"]
    assert step in (2, 3) and f"stopped and saved at step {step} of 1000" in said


@pytest.mark.thorough
def test_runs_repeat_and_resume_bit_for_bit_and_with_another_number_of_processes(
        together, tmp_path, flags):
    """Bit for bit, as every run makes the same operations, each in processes of one thread."""
    def argv(out, *extra):
        return [str(part) for part in flags(
            "--batch-size", "6", "--channel-mults", "1", "--attention-resolutions", "",
            "--out", tmp_path / out, *extra)]

    def run(n, *args):
        codes, _, errors = together(n, train.main, argv(*args))
        assert codes == [0] * n, errors

    def same(one, two):
        return all(torch.equal(one["ema"][name], two["ema"][name]) for name in one["ema"])

    run(2, "whole", "--steps", 4)
    run(2, "halves", "--steps", 2)
    assert not same(content(tmp_path / "whole"), content(tmp_path / "halves"))
    run(2, "halves", "--steps", 4, "--resume")
    assert same(content(tmp_path / "whole"), content(tmp_path / "halves"))
    run(3, "halves", "--steps", 6, "--resume")
    assert len(content(tmp_path / "halves")["rng"]) == 3
    train.main(argv("halves", "--steps", 8, "--resume"))
    last = content(tmp_path / "halves")
    assert last["step"] == 8 and len(last["rng"]) == 1
    with open(tmp_path / "halves" / "log.csv") as f:
        assert [row["step"] for row in csv.DictReader(f)] == ["2", "4", "6", "8"]


def test_what_several_processes_cannot_do_is_refused(flags, together, trained):
    arguments = ["--checkpoint", str(trained[0])]
    for main, argv, words in (
            (train.main, flags("--batch-size", "3"), "--batch-size is of all processes"),
            (train.main, flags("--device", "cuda:0"),
             "--device must be auto, cuda or cpu under torchrun, not cuda:0"),
            (sample.main, arguments, "several processes sample to --folder")):
        codes, _, errors = together(2, main, argv)
        assert codes == [2, 2] and words in errors


def sample_by_twos(argv, starts):
    draw = sample.draw

    def noted(ddpm, model, shape, generator, precision, label, frames):
        with open(starts, "a") as f:
            f.write(f"{int(label.split()[1].split('..')[0]) - 1} ")
        return draw(ddpm, model, shape, generator, precision, label, frames)

    sample.batch_size, sample.draw = lambda H: 2, noted
    sample.main(argv)


@pytest.mark.thorough
def test_two_processes_write_the_images_that_one_writes(trained, together, tmp_path):
    """To the byte, as each batch is of one process, of one thread."""
    def run(n, folder, *extra):
        starts = tmp_path / "starts"
        starts.write_text("")
        codes, said, errors = together(n, sample_by_twos, [*arguments, str(folder), *extra], starts)
        return codes, said, errors, sorted(starts.read_text().split())

    arguments = ["--checkpoint", str(trained[0]), "--n", "9", "--device", "cpu", "--folder"]
    one, two = tmp_path / "one", tmp_path / "two"
    for n, folder in ((1, one), (2, two)):
        codes, said, errors, starts = run(n, folder)
        assert codes == [0] * n and said.count("all 9 images, 0 ") == 1, errors
        assert starts == ["0", "2", "4", "6", "8"]              # each batch once
    written = {path.name: path.read_bytes() for path in one.iterdir()}
    assert len(written) == 9 and len(set(written.values())) > 1
    assert {path.name: path.read_bytes() for path in two.iterdir()} == written
    for i in (2, 3, 5, 8):                                      # of each process some
        (two / f"{i:06}.png").unlink()
    codes, said, errors, starts = run(2, two)
    assert codes == [0, 0] and said.count("all 9 images, 5 ") == 1, errors
    assert starts == ["2", "4", "8"]
    assert {path.name: path.read_bytes() for path in two.iterdir()} == written
    codes, _, errors, _ = run(2, two, "--seed", "1")
    assert codes[0] == 2 and 0 not in codes and "is not empty" in errors


def test_alone_nothing_is_shared():
    assert (parallel.rank, parallel.world) == (0, 1) and parallel.gather("x") == ["x"]
    with parallel.one_first():
        pass
    assert not Run.stopped(SimpleNamespace(signals=[]))
    assert Run.stopped(SimpleNamespace(signals=[signal.SIGINT]))
    parallel.leave()


def test_no_two_processes_and_no_two_steps_have_the_same_noise(monkeypatch):
    """Not even on a CPU, whose generator takes 32 bits of a seed."""
    noise = set()
    for rank in range(4):
        monkeypatch.setattr(parallel, "rank", rank)
        for seed, step in ((0, 0), (0, 7), (5, 0), (5, 2 ** 20)):
            torch.manual_seed(Run.own_seed(SimpleNamespace(config={"seed": seed}, step=step)))
            noise.add(tuple(torch.rand(4).tolist()))
    assert len(noise) == 16


@pytest.mark.thorough
def test_torchrun_starts_both_programs(flags, tmp_path):
    def torchrun(*command):
        return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                               "--nproc_per_node=2", *map(str, command)],
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
                              capture_output=True, text=True, timeout=500)

    (tmp_path / "in").mkdir()
    Image.linear_gradient("L").save(tmp_path / "in" / "a.png")
    done = torchrun("train.py", *flags("--batch-size", "4", "--data", tmp_path / "in",
                                       "--data-dir", tmp_path / "cache"))
    assert done.returncode == 0 and done.stdout.count("step 6/6") == 1, done.stderr
    run = tmp_path / "run" / "checkpoint.pt"
    assert len(content(tmp_path / "run")["rng"]) == 2
    done = torchrun("--", "sample.py", "--n", 260, "--device", "cpu", "--checkpoint", run,
                    "--folder", tmp_path / "samples")
    assert done.returncode == 0 and done.stdout.count("all 260 images, 0 ") == 1, done.stderr
    assert len(list((tmp_path / "samples").iterdir())) == 260


@pytest.mark.thorough
@pytest.mark.parametrize("meeting", ["static", "c10d"])
def test_two_machines_train_as_two_processes_of_one(flags, tmp_path, meeting):
    """Each machine is a torchrun in a folder of its own, with data of its own."""
    def start(name, *options):
        folder = tmp_path / name
        (folder / "in").mkdir(parents=True)
        Image.linear_gradient("L").save(folder / "in" / "a.png")
        Image.radial_gradient("L").save(folder / "in" / "b.png")
        argv = flags("--batch-size", "4", "--data", "in", "--data-dir", "data", "--out", "run")
        with open(folder / "said", "w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *options, ROOT / "train.py", *argv],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder, stdout=said, stderr=said)

    def finish(*agents):
        try:
            return [agent.wait(timeout=100) for agent in agents]
        finally:
            for agent in agents:
                agent.terminate()                    # an agent ends its processes, in 30 seconds
            for agent in agents:
                agent.wait(timeout=60)

    def said():
        return "".join(path.read_text() for path in tmp_path.glob("*/said"))

    assert finish(start("alone", "--standalone", "--nproc_per_node=2")) == [0], said()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"static": ("--master-addr=127.0.0.1", f"--master-port={port}"),
                "c10d": ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}")}[meeting]
    codes = finish(*(start(f"machine-{i}", "--nnodes=2", "--nproc_per_node=1", *together, *(
        [f"--node-rank={i}"] if meeting == "static" else [])) for i in (0, 1)))
    assert codes == [0, 0], said()
    runs = list(tmp_path.glob("machine-*/run"))      # the first process writes it
    assert len(runs) == 1 and (meeting == "c10d" or runs[0].parent.name == "machine-0")
    alone, first = content(tmp_path / "alone" / "run"), content(runs[0])
    assert len(alone["rng"]) == len(first["rng"]) == 2
    for part in ("model", "ema"):
        assert all(torch.equal(first[part][name], alone[part][name]) for name in alone[part])
    for i in (0, 1):
        assert len(list((tmp_path / f"machine-{i}" / "data" / "cache").iterdir())) == 2
