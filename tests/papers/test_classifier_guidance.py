"""Guidance by the exact classifier of a mixture of Gaussians, which is Bayes' rule, in float64."""
import contextlib
import math
import re

import pytest
import torch
from PIL import Image
from stand_ins import noise, refused
from test_ddpm import STRONG, coefficients, gaussian, strong

import data
import sample as core
from ddpm import DDPM
from papers import classifier_guidance as cg, ddim
from papers.classifier_guidance import Classifier, cross_entropy, gradient, guided, sample, step
from papers.kit import training
from papers.kit.analytic import Mixture
from papers.kit.chain import respace
from papers.kit.guidance import as_asked
from plumbing.checkpoint import read_checkpoint, write_checkpoint
from schedules import cosine_beta_schedule

BETA, ALPHA_BAR = coefficients(STRONG)
A = torch.tensor(ALPHA_BAR, dtype=torch.float64)
MEANS = torch.tensor([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.7]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def log_joint(x_t, t, alpha_bar=A):
    """log (w_k N(x_t; sqrt(a) mu_k, v_k I)), (B, 3) float64, written out for this test alone."""
    a = alpha_bar[t].reshape(-1, 1)
    v = a * STDS ** 2 + 1 - a                                                # (B, 3)
    squares = (x_t.double()[:, None] - a.sqrt()[:, None] * MEANS).square().sum(2)
    return WEIGHTS.log() - squares / (2 * v) - (2 * math.pi * v).log()


def exact(x_t, t, alpha_bar=A):
    """Bayes' rule: log p(y | x_t)."""
    joint = log_joint(x_t, t, alpha_bar)
    return joint - joint.logsumexp(1, keepdim=True)


def score(x_t, t, y, s):
    """grad log (p(x_t) p(y | x_t)^s), by autograd of the logarithm itself."""
    x_t = x_t.double().requires_grad_()
    joint = log_joint(x_t, t)
    log_y = joint.gather(1, y[:, None])[:, 0]
    log_all = joint.logsumexp(1)
    value = log_all + s * (log_y - log_all)
    return torch.autograd.grad(value.sum(), x_t)[0]


def mixture(ddpm):
    return Mixture(ddpm, MEANS, STDS, WEIGHTS)


def points(n, seed=0):
    return (2 * torch.randn(n, 2, generator=noise(seed))).double(), torch.arange(n) % 3


# ---- the gradient ----

def test_the_gradient_is_that_of_each_images_own_class_at_its_own_time():
    x_t, y = points(30)
    t = torch.randint(1, 9, (30,), generator=noise(1))
    a = A[t].reshape(-1, 1)
    v = a * STDS ** 2 + 1 - a
    pull = (a.sqrt()[:, None] * MEANS - x_t[:, None]) / v[..., None]         # (B, 3, 2)
    r = exact(x_t, t).exp()
    expected = pull[range(30), y] - (r[..., None] * pull).sum(1)             # by hand
    g = gradient(exact, x_t, t, y)
    torch.testing.assert_close(g, expected)
    for i in (0, 17):                                # no image sees another
        torch.testing.assert_close(g[i:i + 1], gradient(exact, x_t[i:i + 1], t[i:i + 1],
                                                        y[i:i + 1]))


def test_a_small_step_along_it_makes_the_class_more_probable():
    x_t, y = points(30)
    t = torch.full((30,), 4)
    up = exact(x_t + 1e-3 * gradient(exact, x_t, t, y), t)
    assert (up > exact(x_t, t))[range(30), y].all()


def test_it_is_found_where_gradients_are_off_and_leaves_nothing_behind():
    net = torch.nn.Linear(2, 3)
    x_t, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        g = gradient(lambda x, t: net(x).log_softmax(1), x_t, torch.ones(4), y)
    assert g.abs().min() > 0 and not g.requires_grad
    assert not x_t.requires_grad and net.weight.grad is None


@pytest.mark.parametrize("y", [torch.tensor([1]), torch.tensor(1), torch.ones(5, 1).long()])
def test_other_than_one_class_for_each_image_is_refused(y):
    with pytest.raises(ValueError, match="5 images need as many classes"):
        gradient(exact, torch.zeros(5, 2), torch.ones(5, dtype=torch.int64), y)


# ---- Algorithm 2: a guided model ----

def test_with_scale_1_the_guided_eps_is_that_of_the_chosen_component():
    x_t, y = points(30)
    ddpm = strong()
    for t in (1, 4, 8):
        times = torch.full((30,), t)
        eps_hat = guided(ddpm, mixture(ddpm), exact, y)(x_t, times)
        for k in range(3):
            alone = Mixture(ddpm, MEANS[k:k + 1], STDS[k])(x_t, times)
            torch.testing.assert_close(eps_hat[y == k], alone[y == k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("s", [0.5, 1.0, 3.0, 10.0])
def test_with_any_scale_it_is_the_score_of_p_x_t_times_p_y_given_x_t_to_the_s(s):
    x_t, y = points(24)
    t = torch.arange(24) % 8 + 1
    eps_hat = guided(strong(), mixture(strong()), exact, y, s)(x_t, t)
    expected = -(1 - A[t]).sqrt()[:, None] * score(x_t, t, y, s)
    torch.testing.assert_close(eps_hat, expected, rtol=1e-4, atol=1e-5)


def test_images_guided_in_a_sampler_are_those_of_the_chosen_component_alone():
    ddpm = DDPM(cosine_beta_schedule(30))
    alpha_bar = torch.cat([torch.ones(1).double(), (1 - cosine_beta_schedule(30)).cumprod(0)])
    y = torch.full((50,), 2)
    model = guided(ddpm, mixture(ddpm), lambda x, t: exact(x, t, alpha_bar), y)
    alone = Mixture(ddpm, MEANS[2:], STDS[2])
    for clip in (True, False):
        torch.testing.assert_close(ddpm.sample(model, (50, 2), clip, noise()),
                                   ddpm.sample(alone, (50, 2), clip, noise()), rtol=0, atol=2e-3)
    x_T = torch.randn(50, 2, generator=noise())
    times = ddim.subsequence(30, 10)
    torch.testing.assert_close(ddim.sample(ddpm, model, x_T, times),
                               ddim.sample(ddpm, alone, x_T, times), rtol=0, atol=2e-3)


def test_with_scale_0_every_sampler_is_unguided_bit_for_bit():
    ddpm, y = strong(), torch.zeros(5, dtype=torch.int64)
    plain = mixture(ddpm)
    model = guided(ddpm, plain, exact, y, 0)
    x_T = torch.randn(5, 2, generator=noise(7))
    assert torch.equal(ddpm.sample(model, (5, 2), generator=noise()),
                       ddpm.sample(plain, (5, 2), generator=noise()))
    assert torch.equal(ddim.sample(ddpm, model, x_T, [2, 5, 8]),
                       ddim.sample(ddpm, plain, x_T, [2, 5, 8]))
    generator = noise(7)
    x_T = torch.randn(5, 2, generator=generator)
    assert torch.equal(sample(ddpm, plain, exact, y, x_T, 0, generator=generator),
                       ddpm.sample(plain, (5, 2), generator=noise(7)))


# ---- Algorithm 1: a guided step ----

@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("t", [1, 2, 5, 8])
def test_a_step_is_p_sample_with_its_mean_shifted_by_s_sigma_squared_times_the_gradient(t,
                                                                                       variance):
    ddpm = strong(variance)
    x_t, y = points(20)
    square = BETA[t] if variance == "beta" else (
        (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t]) * BETA[t])
    g = gradient(exact, x_t, torch.full((20,), t), y)
    for clip in (True, False):
        plain = ddpm.p_sample(mixture(ddpm), x_t, t, clip, noise(t))
        shifted = step(ddpm, mixture(ddpm), exact, y, x_t, t, 2.5, clip, noise(t))
        torch.testing.assert_close(shifted - plain, 2.5 * square * g, rtol=1e-5, atol=1e-6)
    assert (2.5 * square * g).abs().max() > 1e-2 or square == 0


def test_the_shift_is_added_to_a_clipped_x_0_hat_and_not_clipped_itself():
    ddpm, x_t, y = strong(), torch.zeros(3, 2), torch.tensor([0, 1, 2])
    x_0 = step(ddpm, lambda x, t: -9 * torch.ones_like(x), exact, y, x_t, 1, 100.0)
    g = gradient(exact, x_t, torch.ones(3, dtype=torch.int64), y)
    torch.testing.assert_close(x_0, 1 + 100 * BETA[1] * g.float(), rtol=1e-4, atol=1e-4)
    assert x_0.abs().max() > 1.5
    for clip in (True, False):
        x_0 = sample(ddpm, lambda x, t: -9 * torch.ones_like(x), exact, y, x_t, 0.0, clip)
        assert (x_0.max() > 1) != clip


@pytest.mark.parametrize("t", [2, 5, 8])
def test_the_two_algorithms_differ_by_the_square_root_of_alpha_t(t):
    """Their means move by s beta_t grad and by s beta_t / sqrt(alpha_t) grad."""
    ddpm, (x_t, y) = strong(), points(20)
    plain = ddpm.p_sample(mixture(ddpm), x_t, t, False, noise())
    one = step(ddpm, mixture(ddpm), exact, y, x_t, t, 3, False, noise()) - plain
    two = ddpm.p_sample(guided(ddpm, mixture(ddpm), exact, y, 3), x_t, t, False, noise()) - plain
    torch.testing.assert_close(one, math.sqrt(1 - BETA[t]) * two, rtol=1e-4, atol=1e-5)


def test_guided_by_a_parabola_gaussian_data_keep_the_mean_and_variance_of_the_exact_recursion():
    """log p = -(x - c)^2 / (2 tau^2): every step is linear, at every scale."""
    m, s, c, tau, scale = 0.1, 0.5, -0.4, 0.8, 1.5
    mean, var = 0.0, 1.0
    for t in range(8, 0, -1):
        a, before, beta = ALPHA_BAR[t], ALPHA_BAR[t - 1], BETA[t]
        k = math.sqrt(a) * s ** 2 / (a * s ** 2 + 1 - a)                 # E[x_0 | x_t]'s slope
        of_x_0 = math.sqrt(before) * beta / (1 - a)
        slope = of_x_0 * k + math.sqrt(1 - beta) * (1 - before) / (1 - a) - scale * beta / tau ** 2
        mean = slope * mean + of_x_0 * (1 - k * math.sqrt(a)) * m + scale * beta * c / tau ** 2
        var = slope ** 2 * var + (beta if t > 1 else 0)

    def log_p(x_t, t):
        each = -(x_t - c).square().flatten(1).sum(1) / (2 * tau ** 2)
        return torch.stack([0 * each, each], 1)

    x_0 = sample(strong(), gaussian(m, s, STRONG), log_p, torch.ones(400, dtype=torch.int64),
                 torch.randn(400, 1, 10, 10, generator=noise(1)), scale, False, noise(2))
    assert x_0.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / x_0.numel()))
    assert x_0.var().item() == pytest.approx(var, rel=5 * math.sqrt(2 / x_0.numel()))


def test_points_land_in_the_mode_that_was_asked_for_each_in_its_own():
    ddpm = DDPM(cosine_beta_schedule(50))
    alpha_bar = torch.cat([torch.ones(1).double(), (1 - cosine_beta_schedule(50)).cumprod(0)])
    far = Mixture(ddpm, MEANS, 0.05)
    y = torch.arange(300) % 3

    def log_p(x_t, t):
        a = alpha_bar[t].reshape(-1, 1)
        squares = (x_t.double()[:, None] - a.sqrt()[:, None] * MEANS).square().sum(2)
        return (-squares / (2 * (a * 0.05 ** 2 + 1 - a))).log_softmax(1)

    def share(x_0):
        return (torch.cdist(x_0.double(), MEANS).argmin(1) == y).float().mean().item()

    x_T = torch.randn(300, 2, generator=noise())
    assert share(sample(ddpm, far, log_p, y, x_T, 0, generator=noise(1))) < 0.5
    x_0 = sample(ddpm, far, log_p, y, x_T, 2.0, generator=noise(1))
    assert share(x_0) > 0.98
    assert torch.equal(x_0, sample(ddpm, far, log_p, y, x_T, 2.0, generator=noise(1)))
    assert not torch.equal(x_0, sample(ddpm, far, log_p, y, x_T, 2.0, generator=noise(2)))
    assert share(ddim.sample(ddpm, guided(ddpm, far, log_p, y), x_T,
                             ddim.subsequence(50, 25))) > 0.99


def test_a_larger_scale_makes_points_of_one_class_more_alike():
    ddpm = DDPM(cosine_beta_schedule(50))
    alpha_bar = torch.cat([torch.ones(1).double(), (1 - cosine_beta_schedule(50)).cumprod(0)])
    y, x_T = torch.zeros(300, dtype=torch.int64), torch.randn(300, 2, generator=noise())
    spreads = [sample(ddpm, mixture(ddpm), lambda x, t: exact(x, t, alpha_bar), y, x_T, s, False,
                      noise(1)).std(0).mean().item() for s in (0, 1, 4)]
    assert spreads[0] > 1.3 * spreads[1] > 1.3 * spreads[2]


def test_the_times_asked_are_T_to_1_and_both_networks_are_told_the_same():
    asked = {"model": [], "log_p": []}

    def model(x_t, t):
        asked["model"].append(t.tolist())
        return 0 * x_t

    def log_p(x_t, t):
        asked["log_p"].append(t.tolist())
        return x_t.log_softmax(1)

    x_0 = sample(strong(), model, log_p, torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2))
    assert asked["model"] == asked["log_p"] == [[t, t] for t in range(8, 0, -1)]
    assert not x_0.requires_grad


# ---- the classifier ----

def test_the_classifier_returns_log_probabilities_that_know_the_time_and_each_image_alone():
    torch.manual_seed(0)
    net = Classifier(3, 7, 8)
    for parameter in net.parameters():               # away from the zeros that it starts with
        torch.nn.init.normal_(parameter, std=0.2)
    x_t, t = torch.randn(4, 3, 8, 12), torch.tensor([1, 2, 500, 1000])
    log_p = net(x_t, t)
    assert log_p.shape == (4, 7) and torch.allclose(log_p.exp().sum(1), torch.ones(4))
    torch.testing.assert_close(log_p[2:3], net(x_t[2:3], t[2:3]))
    assert (net(x_t, t + 100) - log_p).abs().min() > 1e-6
    log_p.sum(0)[3].backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    g = gradient(net, x_t, t, torch.tensor([0, 1, 2, 3]))
    assert g.shape == x_t.shape and g.isfinite().all() and g.abs().max() > 0


def test_the_loss_is_the_cross_entropy_at_times_1_to_T_of_x_t_of_eq_4():
    seen = []

    def log_p(x_t, t):
        seen.append((x_t, t))
        return torch.tensor([0.7, 0.2, 0.1]).log().expand(len(t), 3)

    y = torch.tensor([0, 1] * 2000)
    loss = cross_entropy(strong())(log_p, torch.full((4000, 1, 4, 4), 0.5), y)
    assert loss.item() == pytest.approx(-(math.log(0.7) + math.log(0.2)) / 2)
    (x_t, t), = seen
    assert t.unique().tolist() == list(range(1, 9))
    for k in range(1, 9):
        part = x_t[t == k]
        assert part.mean().item() == pytest.approx(0.5 * math.sqrt(ALPHA_BAR[k]),
                                                   abs=5 / math.sqrt(part.numel()))
        assert part.var().item() == pytest.approx(1 - ALPHA_BAR[k], rel=0.1)


def test_a_classifier_learns_and_is_read_again(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "autocast", contextlib.nullcontext)    # on every machine alike
    out = tmp_path / "runs" / "c.pt"
    arguments = ["train", "--checkpoint", str(trained[0]), "--device", "cpu", "--out", str(out)]
    cg.main([*arguments, "--steps", "40"])
    said = capsys.readouterr().out
    shares = [float(line.split()[-1].strip("%")) for line in said.splitlines()[1:-1]]
    assert "read right at t = 5: " in said and len(shares) == 6
    assert shares[0] > 30                            # a tenth would be chance
    config, log_p = cg.load_fit(out, "cpu", cg.network)
    assert config == {"data": "digits", "image_size": 8, "image_channels": 1, "T": 5,
                      "schedule": "cosine", "classes": 10}
    held_out, digit = data.load("digits", 8, 1, "test")
    x_t = core.load(trained[0])[1].q_sample(data.to_model(held_out), 1, torch.zeros(40, 1, 8, 8))
    right = log_p(x_t, torch.ones(40, dtype=torch.int64)).argmax(1) == digit
    assert right.float().mean() > 0.3
    assert read_checkpoint(out)["step"] == 40
    runs = []
    for seed in "001":
        cg.main([*arguments, "--steps", "2", "--seed", seed])
        runs.append(read_checkpoint(out)["ema"])
    one, again, other = runs                         # of one sequence of operations, bit for bit
    assert all(torch.equal(weight, again[name]) for name, weight in one.items())
    assert not torch.equal(other["out.weight"], one["out.weight"])


def test_the_classifier_that_ships_reads_noisy_digits_and_asks_nothing_of_noise():
    config, log_p = cg.load_fit(core.SHIPPED.with_name("classifier.pt"), "cpu", cg.network)
    stored, ddpm, _ = core.load(core.SHIPPED)
    assert all(config[name] == stored[name] for name in cg.SAME)
    x, y = data.load("digits", 16, 1, "test")
    x_0 = data.to_model(x)

    def probability(t):
        x_t = ddpm.q_sample(x_0, t, torch.randn(x_0.shape, generator=noise(t)))
        return log_p(x_t, torch.full((len(y),), t)).exp()

    right = [(probability(t).argmax(1) == y).float().mean().item() for t in (1, 300, 1000)]
    assert right[0] > 0.9 and right[1] > 0.85 and right[2] < 0.3
    assert probability(1000).max() < 0.3
    assert core.SHIPPED.with_name("classifier.pt").stat().st_size < 600_000


# ---- the program ----

def test_the_program_draws_the_picture_and_says_what_it_found(trained, tmp_path, capsys,
                                                              monkeypatch):
    torch.manual_seed(1)
    net = Classifier(1, 10)
    torch.nn.init.normal_(net.out.weight)
    for block in net.down:
        if hasattr(block, "emb"):
            torch.nn.init.normal_(block.conv2.weight, std=0.3)
    config, ddpm, model = core.load(trained[0])
    own = {**{name: config[name] for name in cg.SAME}, "classes": 10}
    cg.save_fit(tmp_path / "c.pt", own, 1, net)
    drawn, out = [], tmp_path / "new" / "g.png"
    original = cg.trade
    monkeypatch.setattr(cg, "trade", lambda *args: drawn.append(args) or original(*args))
    monkeypatch.setattr(cg, "STEPS", 3)

    def judge(x):                                    # sure of the digit of the brightest column
        return 99 * torch.nn.functional.one_hot(x.mean((1, 2)).argmax(1), 10).float()

    monkeypatch.setattr(cg, "load_reader", lambda device: judge)
    cg.main(["--checkpoint", str(trained[0]), "--classifier", str(tmp_path / "c.pt"), "--n", "2",
             "--seed", "1", "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert f"2 images of each digit at each scale by {trained[0]}, on " in said
    assert out.stat().st_size > 10_000 and said.count(f"wrote {out}") == 1

    (draw, scales, symbol, y, _, x, labels), = drawn
    assert scales == (0, 1, 3, 10) and symbol == "s" and y.tolist() == 2 * list(range(10))
    held_out = data.load("digits", 8, 1, "test")
    assert torch.equal(x, held_out[0]) and torch.equal(labels, held_out[1])
    expected, S = [as_asked("", judge, data.to_model(x), labels)], torch.tensor([0, 1, 3, 5])
    chain, respaced = respace(ddpm, model, 3)
    for scale in scales:
        generator = noise(1)
        x_T = torch.randn(20, 1, 8, 8, generator=generator)
        x_0 = sample(chain, respaced, lambda x, t: net(x, S[t]), y, x_T, scale,
                     generator=generator).clamp(-1, 1)
        assert torch.equal(draw(scale), x_0)
        expected.append(as_asked("", judge, x_0, y))
    lines = re.findall(r"^(.+?) +(\S+)% read as what was asked for, diversity (\S+)$", said, re.M)
    assert [name for name, *_ in lines] == ["held-out images", "s = 0", "s = 1", "s = 3", "s = 10"]
    for (_, *numbers), (share, apart) in zip(lines, expected, strict=True):
        assert float(numbers[0]) == pytest.approx(100 * share, abs=0.06)
        assert float(numbers[1]) == pytest.approx(apart, abs=6e-4)


def test_what_is_no_classifier_or_one_of_other_images_ends_in_one_line(trained, tmp_path, capsys,
                                                                       monkeypatch):
    path = trained[0]
    for arguments, message in (
            (["--classifier", path], "papers.classifier_guidance train"),
            (["--classifier", tmp_path / "none.pt"], "none.pt"),
            ([], "differ in one of data, image_size, image_channels, T, schedule")):
        refused(capsys, ["--checkpoint", path, *arguments], message, main=cg.main)
    monkeypatch.setattr(cg, "fit", lambda *_: 1 / 0)         # nothing is trained that
    (tmp_path / "file").write_text("")                       # cannot be written, or read
    for arguments, message, code in (
            (["--checkpoint", path, "--steps", "1"], "2..", 2),
            (["--checkpoint", path, "--out", "c.png"], "ends in .pt", 2),
            (["--checkpoint", path, "--out", tmp_path / "file" / "c.pt"], "file", 1),
            (["--checkpoint", tmp_path / "no.pt"], "no.pt", 1)):
        refused(capsys, ["train", *arguments], message, code=code, main=cg.main)
    content = read_checkpoint(path)
    content["config"]["data"] = str(tmp_path / "folder")
    write_checkpoint(content, path)
    refused(capsys, ["--checkpoint", path], "rendered digits", main=cg.main)
    (tmp_path / "folder").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "folder" / "0.png")
    refused(capsys, ["train", "--checkpoint", path], "have no classes", main=cg.main)
