"""Guidance on mixtures, where the guided score is known; the label's way into the network."""
import math
import re
import shutil

import pytest
import torch
from stand_ins import made_once, refused
from test_ddpm import STRONG, coefficients, strong

import data
import sample as core
from papers import classifier_free_guidance as cfg
from papers.classifier_free_guidance import LabelUNet, drop_labels, guided, joint_loss, sample
from papers.kit.judge import diversity
from papers.kit.training import load_eps
from unet import UNet

_, ALPHA_BAR = coefficients(STRONG)
MEANS = torch.tensor([[-0.8, 0.3], [0.5, 0.9], [0.2, -0.6]], dtype=torch.float64)
STDS, PARTS = torch.tensor([0.3, 0.5, 0.2]).double(), torch.tensor([0.5, 0.2, 0.3]).double()
NETWORK = {"image_size": 8, "image_channels": 1, "channels": 8, "channel_mults": (1, 2),
           "num_res_blocks": 1, "attention_resolutions": (4,), "dropout": 0.0}


def log_parts(x, t):
    """log p(y) q(x_t | y) of a mixture with three classes, (B, 3); t (B,)."""
    a = torch.tensor(ALPHA_BAR, dtype=torch.float64)[t][:, None]
    v = a * STDS ** 2 + 1 - a                                                # (B, 3)
    squares = (x[:, None] - a.sqrt()[..., None] * MEANS).square().sum(2)
    return PARTS.log() - squares / (2 * v) - (2 * math.pi * v).log()


def eps_of(log_density, x, t):
    """-sqrt(1 - alpha_bar_t) times the gradient of log_density(x, t), (B,)."""
    x = x.detach().requires_grad_()
    score, = torch.autograd.grad(log_density(x, t).sum(), x)
    a = torch.tensor(ALPHA_BAR, dtype=torch.float64)[t][:, None]
    return -(1 - a).sqrt() * score


def perfect(x_t, t, y=None):
    """The perfect network of the mixture, with a label or without."""
    def log_density(x, t):
        parts = log_parts(x, t)
        return parts.logsumexp(1) if y is None else parts.gather(1, y[:, None])[:, 0]
    with torch.enable_grad():
        return eps_of(log_density, x_t.double(), t).to(x_t)


def weights_of(model):
    """Make every weight count, where zeros would hide it."""
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def some(n, x_size=(1, 8, 8)):
    return torch.randn(n, *x_size), torch.randint(1, 9, (n,)), torch.arange(n) % 10


# ---- Eq. 6 ----

@pytest.mark.parametrize("w", [-1, -0.4, 0, 0.5, 3])
def test_the_guided_score_is_that_of_the_density_times_the_classifier_to_the_1_plus_w(w):
    n = 60
    x_t, t = 1.5 * torch.randn(n, 2, dtype=torch.float64), torch.arange(n) % 8 + 1
    y = torch.arange(n) % 3

    def log_density(x, t):
        parts = log_parts(x, t)
        log_p_y = parts.log_softmax(1).gather(1, y[:, None])[:, 0]           # Bayes' rule
        return parts.logsumexp(1) + (1 + w) * log_p_y

    torch.testing.assert_close(guided(perfect, y, w)(x_t, t), eps_of(log_density, x_t, t))


def test_w_0_is_the_conditional_and_minus_1_the_unconditional_network_to_the_bit():
    model, (x_t, t, y) = weights_of(LabelUNet(**NETWORK)), some(6)
    with torch.no_grad():
        assert torch.equal(guided(model, y, 0)(x_t, t), model(x_t, t, y))
        assert torch.equal(guided(model, y, -1)(x_t, t), model(x_t, t))
        assert not torch.equal(model(x_t, t, y), model(x_t, t))


def test_samples_guided_by_w_0_have_the_mean_and_deviation_of_their_class():
    ddpm, n = strong("beta_tilde"), 3000
    y = torch.arange(3).repeat(n)
    x_0 = ddpm.sample(guided(perfect, y, 0), (3 * n, 2), clip=False,
                      generator=torch.Generator().manual_seed(0)).double()
    for k in range(3):
        mean, v = 0.0, 1.0                           # of x_T; Eq. 7 and Eq. 15, from T down to 1
        for t in range(8, 0, -1):
            a, b = ALPHA_BAR[t], ALPHA_BAR[t - 1]
            beta, s2 = 1 - a / b, STDS[k].item() ** 2
            gain = math.sqrt(a) * s2 / (a * s2 + 1 - a)          # E[x_0 | x_t] is linear in x_t
            slope = (math.sqrt(b) * beta * gain + math.sqrt(a / b) * (1 - b)) / (1 - a)
            shift = math.sqrt(b) * beta / (1 - a) * (1 - gain * math.sqrt(a))
            mean, v = slope * mean + shift, slope ** 2 * v + (1 - b) / (1 - a) * beta
        assert x_0[y == k].std(0).tolist() == pytest.approx([math.sqrt(v)] * 2, rel=0.05)
        for got, m in zip(x_0[y == k].mean(0), MEANS[k], strict=True):
            assert got.item() == pytest.approx(mean * m.item(), abs=4 * math.sqrt(v / n))


def test_the_difference_of_two_bfloat16_predictions_is_not_rounded_again():
    def model(x_t, t, y=None):
        return torch.full_like(x_t, 1.0 if y is None else 1.0078125, dtype=torch.bfloat16)
    x_t = torch.zeros(2, 1)
    got = guided(model, torch.tensor([0, 1]), 3.3)(x_t, torch.tensor([1, 2]))
    assert got.dtype == x_t.dtype
    torch.testing.assert_close(got, torch.full((2, 1), 1 + 4.3 * 0.0078125))


# ---- Algorithm 1 ----

def test_labels_are_dropped_one_by_one_with_the_probability_asked_for():
    y = torch.arange(10).repeat(4000)
    for p in (0.0, 0.1, 0.5, 1.0):
        dropped = drop_labels(y, 10, p)
        gone = dropped == 10
        assert torch.equal(dropped[~gone], y[~gone])             # the others keep theirs
        assert gone.double().mean().item() == pytest.approx(
            p, abs=4 * math.sqrt(p * (1 - p) / len(y)))
        assert gone.reshape(4000, 10).double().mean(0).tolist() == pytest.approx(
            [p] * 10, abs=5 * math.sqrt(p * (1 - p) / 4000))     # 0 is a class like any other
    assert dropped.dtype == torch.int64 and y.max() == 9


def test_the_loss_is_L_simple_with_each_images_own_label_or_none():
    ddpm, seen = strong(), []

    def model(x_t, t, y):
        seen.append((x_t, t, y))
        return torch.zeros_like(x_t)

    labels = torch.arange(10).repeat(200)
    x_0 = 1000.0 * (1 + labels[:, None].float()).expand(-1, 3)   # so far out that it is its label
    losses, t = joint_loss(0.3)(ddpm, model, x_0, labels)
    (x_t, asked, y), = seen
    assert torch.equal(asked, t) and t.unique().tolist() == list(range(1, 9))
    a = torch.tensor(ALPHA_BAR)[t]
    kept = y != 10
    assert (x_t[:, 0] / a.sqrt() / 1000 - 1).round().long()[kept].tolist() == y[kept].tolist()
    assert (~kept).float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    eps = (x_t.double() - a.double().sqrt()[:, None] * x_0) / (1 - a.double()).sqrt()[:, None]
    torch.testing.assert_close(losses, eps.square().mean(1).float(), rtol=1e-2, atol=1e-2)


# ---- the network ----

def test_a_label_is_added_to_the_embedding_of_the_time():
    """So it does what another bias of the last layer of that embedding would do."""
    model, (x_t, t, y) = weights_of(LabelUNet(**NETWORK)), some(22)
    with torch.no_grad():
        got, without = model(x_t, t, y), model(x_t, t)
        for k in range(11):
            plain = UNet(**NETWORK)
            plain.load_state_dict({name: value for name, value in model.state_dict().items()
                                   if name != "label.weight"})
            plain.emb[2].bias += model.label.weight[k]
            mine = slice(None) if k == 10 else y == k
            torch.testing.assert_close((without if k == 10 else got)[mine],
                                       plain(x_t[mine], t[mine]), rtol=1e-4, atol=1e-4)


def test_before_training_every_label_says_the_same_and_after_a_step_only_those_seen_do():
    torch.manual_seed(3)
    model, (x_t, t, _) = LabelUNet(**NETWORK), some(4)
    torch.nn.init.normal_(model.conv_out.weight)
    for block in model.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight)
    y = torch.tensor([2, 2, 7, 10])                  # 10 is the null label
    assert torch.equal(model(x_t, t, y), model(x_t, t))
    model(x_t, t, y).square().mean().backward()
    touched = model.label.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [2, 7, 10]


def test_other_than_one_label_for_each_image_is_refused():
    model, (x_t, t, y) = LabelUNet(**NETWORK), some(4)
    for wrong in (y[:1], y[:3], y[:, None], torch.tensor(1)):
        with pytest.raises(ValueError, match="4 images need as many labels"):
            model(x_t, t, wrong)


# ---- the program ----

@pytest.fixture
def labelled(flags, tmp_path_factory):
    """A checkpoint of a tiny network with labels."""
    return made_once(cfg, flags, tmp_path_factory)


def test_samples_share_their_noise_and_get_their_own_label_in_every_batch(labelled, monkeypatch):
    monkeypatch.setattr(cfg, "batch_size", lambda H: 4)
    _, ddpm, model = load_eps(labelled, "cpu", cfg.LabelUNet)
    seen = []

    def spy(x_t, t, y=None):
        seen.append((x_t, t, y))
        return model(x_t, t) if y is None else model(x_t, t, y)

    y = torch.arange(10)
    x = sample(ddpm, spy, y, 2, (1, 8, 8), 3, seed=5)
    assert x.shape == (10, 1, 8, 8) and x.abs().max() <= 1
    asked = [part for _, _, part in seen if part is not None]
    assert [part.tolist() for part in asked[::3]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert {int(t[0]) for _, t, _ in seen} == {1, 3, 5}          # of T = 5
    first = [x_t for x_t, t, part in seen if t[0] == 5 and part is not None]
    seen.clear()
    sample(ddpm, spy, y, 0, (1, 8, 8), 3, seed=5)
    for one, other in zip(first, [x_t for x_t, t, p in seen if t[0] == 5 and p is not None],
                          strict=True):
        assert torch.equal(one, other)               # whatever w is
    assert torch.equal(x, sample(ddpm, model, y, 2, (1, 8, 8), 3, seed=5))
    assert not torch.equal(x, sample(ddpm, model, y, 2, (1, 8, 8), 3, seed=6))


def test_the_program_trains_resumes_draws_and_counts(labelled, flags, tmp_path, capsys,
                                                     monkeypatch):
    shutil.copytree(labelled.parent.with_name("whole"), tmp_path / "longer")
    labelled = tmp_path / "longer" / "checkpoint.pt"
    cfg.main(["train", "--resume", "--out", str(labelled.parent), "--steps", "8"])
    content = core.read_checkpoint(labelled)
    assert content["step"] == 8 and content["ema"]["label.weight"].shape == (11, 16)
    assert content["ema"]["label.weight"].abs().sum(1).gt(0).sum() > 5
    capsys.readouterr()
    drawn = []

    class Reader(torch.nn.Module):                   # is right half of the time, and then half sure
        def forward(self, x):
            i = torch.arange(len(x))
            digit, sure = torch.where(i % 4 < 2, i % 10, 3), i < len(x) // 2
            return torch.where(sure, 9.0, 0.1)[:, None] * torch.nn.functional.one_hot(digit, 10)

    monkeypatch.setattr(cfg, "load_reader", lambda device: Reader())
    original = cfg.trade
    monkeypatch.setattr(cfg, "trade", lambda *args: drawn.append(args) or original(*args))
    cfg.main(["--checkpoint", str(labelled), "--n", "2", "--steps", "2", "--seed", "3",
              "--device", "cpu", "--out", str(tmp_path / "g.png")])
    out = capsys.readouterr().out
    _, ddpm, model = load_eps(labelled, "cpu", cfg.LabelUNet)
    y = torch.arange(10).repeat(2)
    samples = {w: sample(ddpm, model, y, w, (1, 8, 8), 2, 3) for w in cfg.WEIGHTS}
    x, labels = data.load("digits", 8, 1, "test")
    expected = [diversity(data.to_model(x), labels),
                *(diversity(each, y) for each in samples.values())]
    printed = re.findall(r"^(.*?)\s+(\S+)% read as .*, diversity (\S+)$", out, re.MULTILINE)
    assert [name for name, _, _ in printed] == ["held-out images", "w = -1", "w = -0.5", "w = 0",
                                                "w = 1", "w = 3", "w = 7"]
    # Of 20 the places 0, 1, 3, 4, 5, 8 and 9; of the 40 held-out digits 12, 13, 16 and 17 too.
    assert [share for _, share, _ in printed] == ["27.5", *["35.0"] * 6]
    assert [float(value) for *_, value in printed] == pytest.approx(expected, abs=6e-4)
    assert "20 samples each" in out and "2 steps" in out
    (draw, weights, symbol, *_), = drawn
    assert symbol == "w" and weights == cfg.WEIGHTS
    assert all(torch.equal(draw(w), samples[w]) for w in weights)
    assert (tmp_path / "g.png").stat().st_size > 10_000


def test_the_share_of_labels_dropped_is_that_of_the_command_line(flags, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cfg, "joint_loss", lambda p: asked.append(p) or joint_loss(p))
    cfg.main(["train", *flags("--out", str(tmp_path / "new"), "--p-uncond", "0.7")])
    assert asked == [0.7]


def test_the_network_that_ships_draws_what_it_is_asked_for(monkeypatch):
    """The null label alone would be right once in ten."""
    config, ddpm, model = load_eps(cfg.SHIPPED, "cpu", cfg.LabelUNet)
    assert config["data"] == "digits" and config["image_size"] == 16
    y = torch.arange(10)
    x = sample(ddpm, model, y, 1, (1, 16, 16), 10, 0)
    held_out, labels = data.load("digits", 16, split="test")
    nearest = torch.cdist(x.flatten(1), data.to_model(held_out).flatten(1)).argmin(1)
    assert (labels[nearest] == y).sum() > 5          # 10 here, and 8 or 9 from other noise


def test_wrong_arguments_end_in_one_line(labelled, trained, flags, tmp_path, capsys):
    capsys.readouterr()

    def no(argv, *words):
        refused(capsys, argv, *words, main=cfg.main)
    no(["--checkpoint", trained[0]], "papers.classifier_free_guidance train")
    for p in ("0", "1", "nan", "x"):
        no(["train", "--p-uncond", p], "--p-uncond")
    no(["train", "--data", str(tmp_path), "--out", tmp_path / "new"], "--data", "classes")
    no(["train", *flags("--out", str(labelled.parent))], "already holds a run")
