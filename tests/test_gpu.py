"""What only a GPU shows: both algorithms on it, and what goes from it to the CPU and back.

Everything else is tested on the CPU, whatever the machine has (tests/conftest.py).
"""
import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sample
import train
from ddpm import DDPM
from plumbing.device import pick_device, recorded
from schedules import cosine_beta_schedule
from stand_ins import checkpoint, rows
from unet import UNet

pytestmark = pytest.mark.usefixtures("gpu")
ROOT = Path(__file__).resolve().parent.parent
BETA = [0.1, 0.3, 0.2, 0.5, 0.9, 0.9]


@pytest.fixture
def there(config):
    """A run of a second on the GPU; as for `config`, with some values changed."""
    return lambda **changes: config(device="cuda", **changes)


def test_the_gpu_is_taken_where_there_is_one(gpu):
    assert pick_device("auto").type == "cuda"


def test_the_process_is_that_of_the_cpu(gpu):
    """Products and square roots in float32, one after the other: the last bits may differ."""
    ddpm, there = DDPM(BETA), DDPM(BETA).to(gpu)
    x_0, eps, t = torch.rand(6, 3, 8, 8) * 2 - 1, torch.randn(6, 3, 8, 8), torch.arange(1, 7)
    x_t = ddpm.q_sample(x_0, t, eps)
    x_0_gpu, eps_gpu, t_gpu, x_t_gpu = (each.to(gpu) for each in (x_0, eps, t, x_t))
    for one, two in (
            (x_t, there.q_sample(x_0_gpu, t_gpu, eps_gpu)),
            (ddpm.predict_x_0(x_t, t, eps), there.predict_x_0(x_t_gpu, t_gpu, eps_gpu)),
            (ddpm.posterior_mean(x_0, x_t, t), there.posterior_mean(x_0_gpu, x_t_gpu, t_gpu))):
        torch.testing.assert_close(two.cpu(), one, rtol=1e-4, atol=1e-5)


def test_the_network_and_its_gradient_are_those_of_the_cpu(gpu, monkeypatch):
    """In float32 proper: by default convolutions of a GPU round their inputs to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model = UNet(image_size=16, image_channels=1, channels=32, channel_mults=(1, 2),
                 num_res_blocks=1, attention_resolutions=(8,), dropout=0.0)
    for weight in model.parameters():                # a fresh network is 0 in many places
        torch.nn.init.normal_(weight, std=0.05)
    x_0, eps, t = torch.randn(4, 1, 16, 16), torch.randn(4, 1, 16, 16), torch.tensor([1, 2, 4, 6])
    losses, gradients = [], []
    for device in (torch.device("cpu"), gpu):
        model.zero_grad()
        model.to(device)
        loss = DDPM(BETA).to(device).loss(model, *(each.to(device) for each in (x_0, t, eps)))
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([w.grad.flatten().cpu() for w in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


def test_training_lowers_the_loss(there):
    _, ema = train.train(there(steps=40, log_every=5, lr=1e-2, batch_size=16))
    losses = [float(line.split(",")[1])
              for line in Path(there().out, "log.csv").read_text().splitlines()[1:]]
    assert 0.7 < losses[0] < 1.2 and losses[-1] < 0.5 * losses[0]
    assert all(weight.is_cuda and weight.isfinite().all() for weight in ema.parameters())


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bfloat16_trains_and_its_weights_stay_float32(there, precision):
    _, ema = train.train(there(precision=precision, steps=40, lr=1e-2, batch_size=16))
    assert {weight.dtype for weight in ema.parameters()} == {torch.float32}
    assert float(Path(there().out, "log.csv").read_text().splitlines()[-1].split(",")[1]) < 0.6


def test_if_all_data_is_one_point_samples_are_that_point(gpu):
    """The perfect model of a point mass at 0.3; Algorithm 2 must return 0.3, with no noise left."""
    alpha_bar = torch.cat([torch.ones(1), (1 - cosine_beta_schedule(20)).cumprod(0)]).to(gpu)
    ddpm = DDPM(cosine_beta_schedule(20)).to(gpu)

    def model(x_t, t):
        a = alpha_bar[t].reshape(-1, 1, 1, 1)
        return ((x_t - a.sqrt() * 0.3) / (1 - a).sqrt()).float()

    x_0 = ddpm.sample(model, (8, 3, 4, 4), clip=False)
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=1e-4)


def test_a_generator_on_the_device_fixes_the_noise(gpu):
    ddpm = DDPM(BETA).to(gpu)

    def draw(seed):
        return ddpm.sample(lambda x_t, t: 0.1 * x_t, (4, 1, 8, 8),
                           generator=torch.Generator(gpu).manual_seed(seed))

    one, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(one, again)                   # the same kernels on the same shapes
    assert not torch.equal(one, other)


def test_a_checkpoint_of_the_gpu_is_sampled_on_the_cpu_and_back(there, config, tmp_path, capsys):
    train.train(there(steps=3))
    path = Path(there().out, "checkpoint.pt")
    pictures = []
    for device in ("cpu", "cuda"):
        _, ddpm, model = sample.load(path, device)
        assert ddpm.beta.device.type == next(model.parameters()).device.type == device
        sample.main(["--checkpoint", str(path), "--device", device, "--n", "2", "--out",
                     str(tmp_path / f"{device}.png")])
        assert f"on {device}" in capsys.readouterr().out
        pictures.append((tmp_path / f"{device}.png").stat().st_size)
    assert min(pictures) > 0
    train.train(config(steps=4, device="cpu"), resume=True)      # a run may move to the CPU
    train.train(there(steps=5), resume=True)                     # and back
    assert checkpoint(there())["step"] == 5


def test_a_resumed_run_goes_on_with_the_same_images_times_and_noise(there):
    """All that is drawn comes from generators whose states are kept; sums may be ordered anew."""
    def spied(seen):
        def loss(ddpm, model, x_0, labels):
            losses, t = train.L_simple(ddpm, model, x_0, labels)
            seen.append((x_0.cpu(), t.cpu(), torch.randn(3, device=x_0.device).cpu()))
            return losses, t
        return loss

    whole, parts = [], []
    train.train(there(steps=6, dropout=0.3, flip=True), loss=spied(whole))
    half = there(steps=3, dropout=0.3, flip=True, out=there().out + "-2")
    train.train(half, loss=spied(parts))
    torch.randn(5, device="cuda")                    # whatever else happens on the GPU
    train.train(there(steps=6, dropout=0.3, flip=True, out=half.out), loss=spied(parts),
                resume=True)
    for one, two in zip(whole, parts, strict=True):
        assert all(map(torch.equal, one, two))       # drawn, not computed
    one, two = checkpoint(there()), checkpoint(half)
    for name, weight in one["ema"].items():
        torch.testing.assert_close(two["ema"][name], weight, rtol=1e-3, atol=1e-4)


def test_the_programs_find_the_gpu_by_themselves(flags, tmp_path):
    argv = flags()
    argv[argv.index("--device") + 1] = "auto"
    done = subprocess.run([sys.executable, ROOT / "train.py", *argv], capture_output=True,
                          text=True, check=True)
    assert "on cuda" in done.stdout
    done = subprocess.run([sys.executable, ROOT / "sample.py", "--checkpoint",
                           tmp_path / "run" / "checkpoint.pt", "--n", "2", "--out",
                           tmp_path / "two.png"], capture_output=True, text=True, check=True)
    assert "on cuda" in done.stdout


# ---- recorded: that a CUDA graph does what tests/plumbing/test_recorded.py supposes ----

@pytest.fixture
def exact(monkeypatch):
    """Float32 proper, with sums in one order; and a rate of 2^-9 is the same in any precision."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def test_a_recorded_run_makes_the_steps_of_the_run(there, gpu, exact, capsys):
    """Twenty steps with the noise given, over the warm-up and the young average; float32."""
    x_0, eps = torch.rand(3, 1, 8, 8, device=gpu) * 2 - 1, torch.randn(3, 1, 8, 8, device=gpu)
    t = torch.tensor([1, 3, 5], device=gpu)

    def loss(ddpm, model, batch, labels):
        return ddpm.loss(model, x_0, t, eps, "none").flatten(1).mean(1), t

    ends = []
    for record in (False, True):
        c = there(steps=20, warmup=8, lr=2 ** -9, record=record, out=there().out + str(record))
        train.train(c, loss=loss)
        ends.append(checkpoint(c))
    assert "not recorded" not in capsys.readouterr().out
    for part in ("model", "ema"):
        for name, weight in ends[0][part].items():
            if not name.endswith("qkv.bias"):        # the keys' has no gradient but of rounding
                torch.testing.assert_close(ends[1][part][name], weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(ends[1]["tally"], ends[0]["tally"], rtol=1e-5, atol=0)


def test_replays_draw_fresh_noise_the_same_as_calls(gpu):
    """Times uniform on 1..T, noise and dropout: all from the generator of the device."""
    ddpm, dropout = DDPM(BETA).to(gpu), torch.nn.Dropout(0.5)

    def function(x):
        return ddpm.draw_t(600), torch.randn_like(x), dropout(x)

    draws = []
    for each in (function, recorded(function, gpu)):
        torch.manual_seed(0)
        draws.append([[part.cpu() for part in each(torch.ones(600, device=gpu))]
                      for _ in range(20)])
    assert recorded(function, gpu) is not function
    for one, two in zip(*draws, strict=True):
        assert all(map(torch.equal, one, two))
    t, z, kept = (torch.stack(parts) for parts in zip(*draws[1], strict=True))
    counts = torch.bincount(t.flatten(), minlength=7)
    assert counts[0] == 0 and (counts[1:] - 2000).abs().max() < 6 * 2000 ** 0.5
    for part in (t, z, kept):
        assert len({tuple(row.tolist()) for row in part}) == 20
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05 and abs(kept.mean() - 1) < 0.05


def test_a_recorded_run_trains_draws_and_resumes(there, capsys):
    c = there(steps=60, lr=1e-2, batch_size=16, dropout=0.3, flip=True, precision="auto",
              sample_every=20, record=True)
    train.train(replace(c, steps=30))
    torch.randn(5, device="cuda")                    # whatever else happens on the GPU
    train.train(c, resume=True)
    whole = replace(c, out=c.out + "-whole")
    train.train(whole)
    assert "not recorded" not in capsys.readouterr().out
    one, two = checkpoint(c), checkpoint(whole)
    for rng, other in zip(one["rng"], two["rng"], strict=True):
        assert all(map(torch.equal, rng, other))     # drawn, not computed
    ends = [sum(float(row["loss"]) for row in rows(each)[-10:]) / 10 for each in (c, whole)]
    assert ends[0] == pytest.approx(ends[1], rel=0.05) and ends[0] < 0.6
    assert Path(c.out, "samples.png").exists() and Path(c.out, "samples", "000020.png").exists()


def test_samples_of_a_recorded_network_are_those_of_the_network(gpu, there, exact):
    train.train(there(steps=3))
    _, ddpm, model = sample.load(Path(there().out, "checkpoint.pt"), gpu)
    draws = [sample.draw(ddpm, each, (3, 1, 8, 8), torch.Generator(gpu).manual_seed(0), "float32")
             for each in (model, recorded(model, gpu), model)]
    torch.testing.assert_close(draws[1], draws[0], rtol=1e-5, atol=1e-5)
    x = torch.randn(2, 1, 8, 8, device=gpu, requires_grad=True)
    t = torch.ones(2, dtype=torch.int64, device=gpu)
    recorded(model, gpu)(x, t).sum().backward()
    assert x.grad.abs().sum() > 0


def test_replays_take_no_more_memory_and_it_is_free_when_the_network_goes(gpu):
    def held():
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    ends = []
    for _ in range(3):                               # libraries keep some for themselves
        model = UNet(16, 1, 32, (1, 2), 1, (8,), 0.0).to(gpu).eval().requires_grad_(False)
        replay, x = recorded(model, gpu), torch.randn(64, 1, 16, 16, device=gpu)
        t = torch.ones(64, dtype=torch.int64, device=gpu)
        sizes = []
        for _ in range(201):
            replay(x, t)
            sizes.append(torch.cuda.memory_allocated())
        assert len(set(sizes[1:])) == 1
        del model, replay, x, t
        ends.append(held())
    assert sizes[-1] > ends[-1] + 2 ** 21            # the weights alone are more
    assert ends[2] <= ends[1] + 2 ** 18


def test_what_is_refused_leaves_what_is_recorded_in_order(gpu, capsys):
    """Both draw from the one generator, whose state goes into checkpoints."""
    noisy = recorded(lambda x: x + torch.randn_like(x), gpu)
    x, states = torch.ones(3, device=gpu), []
    one = noisy(x)
    recorded(lambda x: x * x.sum().item(), gpu)(x)
    assert "is not recorded" in capsys.readouterr().out
    for _ in range(3):
        states.append(torch.cuda.get_rng_state())
        one, before = noisy(x), one
        assert not torch.equal(one, before)
        torch.cuda.set_rng_state(states[-1])
        assert torch.equal(noisy(x), one)            # the state is that of its noise
    assert not torch.equal(states[0], states[1])


def test_what_waits_for_the_gpu_is_called_as_it_is(gpu, capsys):
    def function(x):
        return x + torch.randn(3, device=x.device) * (2.0 if x.sum().item() > 0 else 1.0)

    torch.manual_seed(0)
    expected = [function(torch.ones(3, device=gpu)) for _ in range(3)]
    torch.manual_seed(0)
    replay = recorded(function, gpu)
    for x in expected:
        assert torch.equal(replay(torch.ones(3, device=gpu)), x)
    assert capsys.readouterr().out.count("function is not recorded") == 1


def test_a_recording_that_breaks_off_leaves_the_generator_in_order():
    """In a process of its own: what else a broken recording leaves behind is torch's affair."""
    program = """
import torch
from plumbing.device import recorded
gpu = torch.device("cuda")
def function(x):
    torch.cuda.synchronize()                         # what no recording can hold
    return x + torch.randn(3, device=gpu)
torch.manual_seed(0)
expected = [function(torch.ones(3, device=gpu)) for _ in range(3)]
torch.manual_seed(0)
replay = recorded(function, gpu)
print(all(torch.equal(replay(torch.ones(3, device=gpu)), x) for x in expected))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT)
    assert "function is not recorded" in done.stdout and done.stdout.endswith("True\n"), done


@pytest.mark.thorough
def test_a_compiled_step_is_recorded_too(there, capsys):
    pytest.importorskip("triton")
    c = there(steps=40, lr=1e-2, batch_size=16, dropout=0.1, precision="auto", compile=True,
              record=True)
    train.train(c)
    said = capsys.readouterr().out
    assert "compiling" in said and "not recorded" not in said
    assert float(rows(c)[-1]["loss"]) < 0.6
