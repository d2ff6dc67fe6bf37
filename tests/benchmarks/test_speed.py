"""The benchmark: operations are counted right, runs are interleaved, and the table is printed."""
import itertools
import math
import multiprocessing.dummy
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import TINY
from stand_ins import refused

from benchmarks import speed
from train import Config
from unet import Attention, Downsample

CPU = torch.device("cpu")


def test_operations_are_those_of_every_convolution_linear_layer_and_attention():
    config = Config(**TINY)
    _, network = speed.build(vars(config))
    expected = []

    def count(module, inputs, out):
        if isinstance(module, torch.nn.Conv2d):
            expected.append(2 * out.numel() * math.prod(module.weight.shape[1:]))
        elif isinstance(module, torch.nn.Linear):
            expected.append(2 * out.numel() * module.in_features)
        elif isinstance(module, Attention):          # q k^T and its product with v
            expected.append(4 * out.shape[1] * math.prod(out.shape[2:]) ** 2)

    assert isinstance(Downsample(4, 4, 3, stride=2), torch.nn.Conv2d)
    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.zeros(1, 1, 8, 8), torch.ones(1))
    forward, both = speed.count_flops(config)
    assert forward == sum(expected)
    assert 2.5 * forward < both <= 3 * forward


def test_contestants_take_turns_and_the_median_of_each_counts():
    asked, clock = [], itertools.cycle([1.0, 5.0, 2.0, 6.0, 9.0, 4.0])
    timers = {name: lambda name=name: (asked.append(name), next(clock))[1] for name in "ab"}
    assert speed.interleaved(timers, 3) == {"a": 2.0, "b": 5.0}
    assert asked == ["a", "b"] * 4                              # the first of each does not count


def test_the_seconds_of_a_call_are_the_mean_of_many(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks) / 10)
    assert speed.seconds(lambda: None, CPU, least=0.5) == pytest.approx(0.6 / 5)


def test_the_loop_of_train_py_is_timed_by_its_own_log(config, tmp_path, monkeypatch):
    logs, original = [], speed.read_log
    monkeypatch.setattr(speed, "read_log", lambda path: logs.append(original(path)) or logs[-1])
    took = speed.loop_seconds(config(steps=1000, record=True), steps=6)
    assert [row[0] for row in logs[0]] == [3, 6] and took == 3 / logs[0][1][-1]
    assert not list(tmp_path.iterdir())


def test_a_table_is_printed(monkeypatch, capsys):
    class Contestant:
        end = Mock()

        def __init__(self, name, config, batch, n):
            self.slower = 2 if "diffusers" in name else 1
            assert (config.channels, batch, n) == (TINY["channels"], 32, 64)

        def __call__(self, step, least=0.5):
            return {"training": 0.25, "sampling": 0.5, "network": 0.4,
                    "memory": 3 * 2 ** 30}[step] * self.slower

    monkeypatch.setitem(speed.PRESETS, "digits", TINY)
    monkeypatch.setattr(speed, "Contestant", Contestant)
    monkeypatch.setattr(speed, "seconds", lambda function, device, least=0: 0.25)
    monkeypatch.setattr(speed, "matrix_product", lambda config, device: (lambda: None, 10 ** 9))
    monkeypatch.setattr(speed, "has_diffusers", lambda: True)
    monkeypatch.setattr(speed, "loop_seconds", lambda config: 0.3)
    argv = ["--rows", "digits", "--no-compile", "--precision", "float32", "--device", "cpu"]
    speed.main(argv)
    out = capsys.readouterr().out
    assert "ours to diffusers: training 2.00, sampling 2.00" in out and "recorded" not in out
    assert "limit 0.004 TFLOP/s" in out and "takes +20.0% beside the bare step" in out
    assert "of a step of sampling 20.0% is outside" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("ours "))
    assert (row[1], row[3], row[5]) == ("128.0", "128.0", "3.00GB")     # 32 in 0.25, 64 in 0.5 s
    assert Contestant.end.call_count == 2
    monkeypatch.setattr(speed, "GRAPHS", ("cpu",))   # as where a step can be recorded
    speed.main([*argv, "--quick"])
    out = capsys.readouterr().out
    assert "ours, recorded to diffusers: training 2.00" in out and "loop" not in out


def test_a_contestant_answers_until_it_is_told_to_end(monkeypatch):
    """With a thread for its process, which would take seconds to start."""
    threads = Mock(Process=threading.Thread, Pipe=multiprocessing.dummy.Pipe)
    monkeypatch.setattr(speed.multiprocessing, "get_context", lambda kind: threads)
    ours = speed.Contestant("ours", Config(**TINY), 2, 3)
    assert ours("memory") > 2 ** 25
    for step in "training", "sampling", "network":
        assert 0 < ours(step, least=0) < 10
    ours.end()
    assert not ours.process.is_alive()


@pytest.mark.thorough
def test_a_contestant_is_measured_in_a_process_of_its_own():
    ours = speed.Contestant("ours", Config(**TINY), 2, 3)
    memory = ours("memory")
    status = Path(f"/proc/{ours.process.pid}/status")
    if status.exists():                              # what it has held so far is no less than then
        assert memory <= int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    assert 2 ** 26 < memory < 2 ** 31
    for step in "training", "sampling", "network":
        assert 0 < ours(step, least=0) < 10
    ours.end()
    assert ours.process.exitcode == 0
    with pytest.raises(OSError, match="'ours' has ended"):
        ours("training")


def test_a_recorded_contestant_makes_the_steps_of_the_other(tapes):
    config, x_0, weights = Config(**TINY), torch.rand(2, 1, 8, 8), []
    for record in (False, True):
        torch.manual_seed(0)
        ours = speed.Ours(config, False, record)
        for _ in range(3):
            ours.train_step(x_0)
        weights.append([*ours.network.parameters(), *ours.ema.parameters()])
        x = [ours.evaluate(x_0, 3), ours.evaluate(x_0, 3)]
        assert torch.equal(*x) and ours.sample_step(x_0, 3).shape == x_0.shape
    assert len(tapes) == 2 and all(map(torch.equal, *weights))


@pytest.mark.parametrize("own, expected", [(None, "float32"), ("bf16", "bf16")])
def test_a_contestant_may_have_a_precision_of_its_own(own, expected):
    kind, pipe = Mock(), Mock(recv=Mock(return_value=None))
    speed.serve(pipe, kind, False, False, own, Config(**TINY), 2, 3)
    assert kind.call_args.args[0].precision == expected and kind().train_step.call_count == 4
    assert kind().sample_step.call_count == kind().evaluate.call_count == 1      # compiled by now


def test_wrong_arguments_end_in_one_line(capsys):
    refused(capsys, ["--rows", "imagenet"], "imagenet", main=speed.main)
    refused(capsys, ["--repeats", "0"], "1..", main=speed.main)
