"""What only a GPU shows: both algorithms on it, and what goes from it to the CPU and back.

Everything else is tested on the CPU, whatever the machine has (tests/conftest.py).
"""
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sample
import train
from ddpm import DDPM
from plumbing.device import pick_device
from schedules import cosine_beta_schedule
from stand_ins import checkpoint
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
