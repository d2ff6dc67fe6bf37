"""Recording on a GPU, with a tape for a CUDA graph: what is rehearsed, refused, filled, put back.

Whether a CUDA graph does what this tape does is for tests/test_gpu.py.
"""
import gc
import random
import types
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Constant, checkpoint, pull, rows, same

import sample
import train
from plumbing import device, parallel
from plumbing.device import autocast, recorded
from plumbing.run import Run

CPU = torch.device("cpu")


# ---- any function ----

def test_a_recording_does_what_the_function_does_with_other_arguments(tapes):
    calls = []

    def function(x, scale):
        calls.append(1)
        return x.square() * scale, x.sum()

    replay = recorded(function, CPU)
    for scale in (2.0, 3.0, 0.5):
        x = torch.randn(3, 2)
        squares, total = replay(x, scale)
        assert torch.equal(squares, x.square() * scale) and torch.equal(total, x.sum())
        assert len(calls) == 7 and len(tapes) == 1   # six rehearsals and the recording, once
    assert replay(torch.randn(4, 2), 2.0)[0].shape == (4, 2) and len(tapes) == 2
    assert replay(torch.randn(4, 2).double(), 2.0)[0].dtype == torch.float64 and len(tapes) == 3
    replay(x, 5.0)
    assert len(tapes) == 3


def test_what_is_returned_is_not_written_over_by_the_next_call(tapes):
    replay = recorded(lambda x: 2 * x, CPU)
    one, two = replay(torch.ones(3)), replay(torch.full((3,), 5.0))
    assert one.tolist() == [2.0] * 3 and two.tolist() == [10.0] * 3


def test_noise_is_fresh_at_each_replay_and_what_it_is_without_a_recording(tapes):
    def noisy(x):
        return x + torch.randn(3) + torch.randint(1, 10 ** 6, (3,))

    draws = []
    for function in (noisy, recorded(noisy, CPU)):
        torch.manual_seed(3)
        draws.append([function(torch.zeros(3)) for _ in range(4)])
    assert len(tapes) == 1 and all(map(torch.equal, *draws))
    assert len({tuple(draw.tolist()) for draw in draws[1]}) == 4


def test_rehearsals_do_not_count(tapes):
    """What is changed is as after one call, and what the first call makes is made as zeros."""
    count, made = torch.tensor(7.0), []

    def function(x):
        if not made:
            made.append(torch.zeros(2))
        made[0] += x
        count.add_(1)

    replay = recorded(function, CPU, changed=lambda: [count, *made])
    replay(torch.ones(2))
    assert count == 8 and made[0].tolist() == [1, 1]
    replay(torch.full((2,), 3.0))
    assert count == 9 and made[0].tolist() == [4, 4] and len(tapes) == 1


def test_rehearsals_run_aside_and_from_the_second_on_to_wait_is_an_error(tapes, monkeypatch):
    """On one other stream, which waits for what came before, and is waited for."""
    said, made, mode = [], [], ["as it was"]
    for name, other in (("now", "side"), ("side", "now")):
        stream = types.SimpleNamespace(
            wait_stream=lambda stream, name=name, other=other: said.append(f"{name} waits"))
        monkeypatch.setattr(torch.cuda, {"now": "current_stream", "side": "Stream"}[name],
                            lambda *index, stream=stream: made.append(index) or stream)
    device.side_stream.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda new: mode.__setitem__(0, new))
    recorded(lambda x: said.append(mode[0]), CPU)(torch.ones(2))
    device.side_stream.cache_clear()
    assert made.count(("tape",)) == 1                # libraries keep memory for each stream
    assert said == ["side waits", "default", "now waits", "side waits", "error", "error",
                    "now waits", "side waits", "error", "error", "error", "now waits", "as it was"]


def counter():
    calls = []

    def function(x):
        calls.append(1)
        return x * min(1, len(calls) / 10_000)       # an annealed weight
    return function


def counter_by_name():
    calls = []

    def function(x):
        calls.append(1)
        return torch.add(x, x, alpha=len(calls))
    return function


def looks(x):
    return x * 2 if x.sum().item() > 0 else x


def host_random(x):
    return x * 2 if random.random() < 0.01 else x    # hardly ever, and so the same in a rehearsal


def numpy_random(x):
    return x * 2 if np.random.rand() < 0.01 else x


def hidden():
    state = torch.zeros(3)                           # which is not among what it says to change

    def function(x):
        state.add_(1)
        return x * state
    return function


def with_gradient(x):
    return x * torch.ones(3, requires_grad=True)


@pytest.mark.parametrize("function, why", [
    (looks, "capturing"), (host_random, "on the host"), (numpy_random, "on the host"),
    (counter(), "something else at each call"), (counter_by_name(), "something else at each call"),
    (hidden(), "do not come to"),
    (with_gradient, "a gradient"), (lambda x: {"x": x}, "something else than tensors")],
    ids=["looks", "random", "numpy", "counts", "counts by name", "hidden", "gradient", "dict"])
def test_what_a_recording_would_get_wrong_is_called_as_it_is_and_one_line_says_so(
        tapes, capsys, function, why):
    replay = recorded(function, CPU)
    random.seed(0)
    results = [replay(torch.full((3,), value)) for value in (1.0, -1.0, 2.0)]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "is not recorded" in said and why in said
    if function is looks:
        assert [x[0].item() for x in results] == [2.0, -1.0, 4.0]
    if function is with_gradient:
        assert all(x.requires_grad for x in results)


def test_noise_of_a_rehearsal_that_fails_is_put_back_too(tapes):
    def function(x):
        return x + torch.randn(3) + x.sum().item()

    torch.manual_seed(1)
    expected = [function(torch.ones(3)) for _ in range(2)]
    torch.manual_seed(1)
    replay = recorded(function, CPU)
    assert all(map(torch.equal, [replay(torch.ones(3)) for _ in range(2)], expected))


def test_a_mistake_in_the_function_is_raised_as_without_a_recording(tapes):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        recorded(lambda x: x @ torch.ones(5, 5), CPU)(torch.ones(3, 3))
    with pytest.raises(KeyError):
        recorded(lambda x: {}[1], CPU)(torch.ones(3))


def test_it_is_the_function_itself_where_nothing_is_recorded(tapes, capsys, monkeypatch):
    assert recorded(looks, CPU, on=False) is looks
    assert capsys.readouterr().out == ""
    device.say_once.cache_clear()
    for _ in range(2):
        assert recorded(looks, torch.device("meta")) is looks
    assert capsys.readouterr().out == "nothing is recorded on meta: --record is for CUDA\n"
    monkeypatch.setattr(parallel, "world", 2)        # a step; a network asks no other process
    assert recorded(looks, CPU, changed=lambda: []) is looks
    assert "several processes" in capsys.readouterr().out
    assert recorded(looks, CPU) is not looks


# ---- a network ----

@pytest.fixture
def network(trained):
    return sample.load(trained[0])[2]


def test_samples_of_a_recorded_network_are_those_of_the_network(tapes, trained):
    _, ddpm, model = sample.load(trained[0])
    draws = [ddpm.sample(each, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
             for each in (model, recorded(model, CPU))]
    assert len(tapes) == 1 and same(*draws)


def test_a_gradient_through_a_recorded_network_is_that_of_the_network(tapes, network):
    """As classifier guidance and posterior sampling ask for it."""
    replay, t = recorded(network, CPU), torch.ones(2, dtype=torch.int64)
    with torch.no_grad():
        replay(torch.randn(2, 1, 8, 8), t)
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    gradients = [torch.autograd.grad(each(x, t).square().sum(), x)[0] for each in (network, replay)]
    assert len(tapes) == 1 and same(*gradients) and gradients[0].abs().sum() > 0


def test_options_are_part_of_the_recording_and_a_tensor_among_them_is_never_frozen(tapes):
    def model(x_t, t, double=False, y=0):
        return x_t * (2 if double else 1) + y

    replay, x, t = recorded(model, CPU), torch.ones(2), torch.ones(2)
    assert [replay(x, t)[0], replay(x, t, double=True)[0], replay(x, t)[0]] == [1, 2, 1]
    assert len(tapes) == 2
    assert [replay(x, t, y=torch.tensor(y))[0] for y in (3, 4)] == [4, 5] and len(tapes) == 2


def test_weights_are_read_anew_also_where_autocast_keeps_copies_of_them(tapes, monkeypatch):
    """A weight that could be trained is cast once in a block of autocast; a recording must not."""
    linear = torch.nn.Linear(3, 3)
    replay, x = recorded(linear, CPU), torch.randn(2, 3)
    with torch.no_grad():
        for _ in range(2):
            with autocast(CPU, "bf16"):
                linear(x)                            # its copies of the weights exist by now
                assert torch.equal(replay(x), linear(x))
            linear.weight.mul_(2)
            linear.bias.add_(1)
        assert torch.equal(replay(x), linear(x)) and replay(x).dtype == torch.float32
    assert torch.is_autocast_cache_enabled()
    assert len(tapes) == 2                           # one in each precision


def test_what_is_compiled_stays_compiled(tapes):
    """Dynamo gives up what meets a TorchDispatchMode; a rehearsal uses one, and a tape is one."""
    calls = []

    class Double(torch.nn.Module):                   # of this test alone: Dynamo marks its code
        def forward(self, x_t, t):
            return 2 * x_t

    def backend(graph, inputs):
        return lambda *args: (calls.append(1), graph(*args))[1]

    model = Double()
    model.compile(backend=backend)
    with torch.no_grad():
        recorded(model, CPU)(torch.ones(2), torch.ones(2))
    assert len(calls) == 1 + 3 and len(tapes) == 1   # the first rehearsal, and the last three


def test_numbers_and_noise_of_the_host_are_seen_also_in_its_tensors():
    """As a kernel takes a CPU tensor of no dimensions: by value, and without waiting."""
    gpu, x, seen = torch.device("cuda"), torch.ones(3), []
    for value in (1.0, 2.0):
        with device.Asked(gpu) as mode:              # all tensors are of another device than that
            torch.add(x, 1)
            x * torch.tensor(value)
        seen.append(mode.asked)
    assert seen[0] != seen[1] and seen[0][0] == seen[1][0]
    before = device.host_noise(gpu), device.host_noise(CPU)
    torch.rand(1)
    assert device.host_noise(gpu) != before[0] and device.host_noise(CPU) == before[1]


def test_rehearsals_give_back_the_random_numbers_of_the_host(tapes):
    random.seed(0), np.random.seed(0)
    expected = random.getstate(), np.random.get_state()[2]
    recorded(lambda x: x * random.random() * np.random.rand(), CPU)(torch.ones(2))
    random.random(), np.random.rand()                # what the call itself drew
    now = random.getstate(), np.random.get_state()[2]
    random.setstate(expected[0]), random.random(), random.random()
    assert now[0] == random.getstate() and now[1] != expected[1]


def test_a_network_in_training_is_not_that_in_use(tapes):
    model = torch.nn.Dropout(0.5)
    replay, x = recorded(model, CPU), torch.ones(100)
    assert (replay(x) == 0).any()
    model.eval()
    assert torch.equal(replay(x), x)


def test_a_recording_goes_with_its_network(tapes, trained):
    model = sample.load(trained[0])[2]
    replay = recorded(model, CPU)
    with torch.no_grad():
        replay(torch.randn(2, 1, 8, 8), torch.ones(2, dtype=torch.int64))
    ends = weakref.ref(model), weakref.ref(tapes[0])
    tapes.clear()
    del model, replay
    gc.collect()
    assert [end() for end in ends] == [None, None]


def test_programs_record_what_they_ask_again_and_again(tapes, trained, tmp_path, monkeypatch):
    from papers import ddim
    for main, more, least in ((sample.main, [], 1), (ddim.main, ["--n", "4"], 1)):
        pictures = []
        for flag in ("--no-record", "--record"):
            tapes.clear()
            out = tmp_path / f"{main.__module__}{flag}.png"
            main(["--checkpoint", str(trained[0]), "--device", "cpu", "--out", str(out), flag,
                  *more])
            pictures.append(out.read_bytes())
        assert len(tapes) >= least and pictures[0] == pictures[1]


# ---- a step ----

ALL = {"dropout": 0.3, "flip": True, "warmup": 4, "sample_every": 4, "save_every": 3, "steps": 8,
       "lr": 2 ** -8}                                # a recording has its numbers as float32


def both(config, **changes):
    """A run that is not recorded, and one that is."""
    return [config(**{**ALL, "record": record, "out": f"{config().out}-{record}", **changes})
            for record in (False, True)]


def are_the_same(one, two):
    """Compare two checkpoints of the same operations; only the last digits of the decay differ."""
    assert all(same(one[name], two[name]) for name in ("step", "rng", "tally", "model"))
    assert same(one["optimizer"]["state"], two["optimizer"]["state"])
    torch.testing.assert_close(one["ema"], two["ema"], rtol=1e-5, atol=1e-6)


def test_a_recorded_run_is_the_run(tapes, config, capsys):
    """Weights, average, moments, tally, random numbers, log, pictures; with warm-up and decay."""
    runs = both(config)
    for c in runs:
        train.train(c)
    assert len(tapes) == 3                           # the step, and the network for 16 and for 64
    assert "not recorded" not in capsys.readouterr().out
    are_the_same(*map(checkpoint, runs))
    for one, two in zip(*map(rows, runs), strict=True):
        assert {**one, "images_per_second": 0} == {**two, "images_per_second": 0}
    for name in ("samples.png", "samples/000004.png"):
        one, two = (np.asarray(Image.open(Path(c.out, name))).astype(int) for c in runs)
        assert one.shape == two.shape and np.abs(one - two).max() <= 1


@pytest.mark.parametrize("first", [False, True])
def test_a_recorded_run_goes_on_with_what_was_begun_either_way(tapes, config, first):
    plain, recorded = both(config)
    train.train(recorded)
    parts = replace(recorded, out=config().out)
    train.train(replace(parts, steps=5, record=first))
    train.train(parts, resume=True)
    one, two = checkpoint(recorded), checkpoint(parts)
    are_the_same(one, two)
    if first:                                        # bit for bit
        assert all(same(one[name], two[name]) for name in ("model", "ema", "tally"))


def test_a_signal_finds_the_state_of_its_step(tapes, config, monkeypatch):
    plain, recorded = both(config)
    due = Run.due
    with monkeypatch.context() as patch:
        patch.setattr(Run, "due", lambda run, every: (
            run.signals.append(2) if run.step == 3 and not run.signals else None,
            due(run, every))[1])
        train.train(recorded)
    train.train(replace(plain, steps=3))
    assert checkpoint(recorded)["step"] == 3
    are_the_same(checkpoint(plain), checkpoint(recorded))


def test_a_loss_that_looks_is_trained_as_without_a_recording(tapes, config, capsys):
    def loss(ddpm, model, x_0, labels):
        losses, t = train.L_simple(ddpm, model, x_0, labels)
        return losses * (2.0 if losses.mean().item() > 0.9 else 1.0), t

    runs = both(config, sample_every=0)
    for c in runs:
        train.train(c, loss=loss)
    assert capsys.readouterr().out.count("step is not recorded") == 1
    are_the_same(*map(checkpoint, runs))


def test_a_gradient_that_is_not_finite_is_noticed(tapes, config):
    """Also where it comes long after the recording: the check is part of what is replayed."""
    model = Constant()

    def loss(ddpm, net, x_0, labels):
        losses, t = pull(ddpm, net, x_0, labels)
        return losses / (net.w.detach() > 4.99), t   # 0 / 0 and 1 / 0 once w has moved

    with pytest.raises(FloatingPointError):
        train.train(config(record=True, steps=50, lr=0.1, warmup=0), model, loss)
    assert len(tapes) == 1
