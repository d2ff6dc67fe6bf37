"""CLIP where p(x, c) is known: on finite tables by enumeration, on a mixture by Bayes' rule."""
import contextlib
import math
from itertools import combinations_with_replacement

import pytest
import torch
import torch.nn.functional as F
from stand_ins import awake, noise, refused
from test_classifier_guidance import MEANS, STDS, WEIGHTS, A, exact, points
from test_ddpm import strong

import data
import sample as core
from papers import clip as cl
from papers.classifier_guidance import Classifier, gradient, sample
from papers.clip import EVERY, Clip, contrast, info_nce, retrieve
from papers.kit import training
from papers.kit.captions import captions, held_out, tokenise, write
from papers.kit.chain import first_noise, respace
from papers.kit.training import load_fit, save_fit

P = torch.tensor([[0.25, 0.05], [0.05, 0.3], [0.15, 0.2]], dtype=torch.float64)     # p(x, c)
RATIO = (P / (P.sum(1, keepdim=True) * P.sum(0))).log()
CAPTIONS = ["a seven", "a bold serif zero, leaning right", ""]


def which_caption(logits):
    """The half of the loss that asks of each picture which caption is its own."""
    return F.cross_entropy(logits, torch.arange(len(logits)))


def which_picture(logits):
    return F.cross_entropy(logits.T, torch.arange(len(logits)))


def expected(loss, table, N=2):
    """E loss of a batch of N pairs, each drawn from P: the sum over all batches there are."""
    total = 0
    for batch in combinations_with_replacement([(x, c) for x in range(3) for c in range(2)], N):
        x, c = torch.tensor(batch).T
        orders = math.factorial(N)
        for pair in set(batch):
            orders //= math.factorial(batch.count(pair))
        total = total + orders * P[x, c].prod() * loss(table[x[:, None], c])
    return total


def minimise(loss):
    """Return the table of logits, (3, 2), that is best by a loss: Newton's method from nowhere."""
    table = torch.tensor([[0.3, 0.9], [-0.5, 0.2], [0.6, -0.1]], dtype=torch.float64)
    for _ in range(8):
        table.requires_grad_()
        slope, = torch.autograd.grad(expected(loss, table), table, create_graph=True)
        rows = [torch.autograd.grad(each, table, retain_graph=True)[0].flatten()
                for each in slope.flatten()]
        step = torch.linalg.pinv(torch.stack(rows), rtol=1e-9) @ slope.detach().flatten()
        table = table.detach() - step.reshape(3, 2)
    return table


def spread(off, dim):
    """How far a table is from one number for each row (dim 1) or column (0)."""
    return (off - off.mean(dim, keepdim=True)).abs().max().item()


# ---- what the best f . g is ----

def test_the_loss_is_the_mean_of_both_questions_written_out():
    logits = torch.randn(5, 5, generator=noise())
    total = 0.0
    for i in range(5):
        for line in logits[i].tolist(), logits[:, i].tolist():
            total += math.log(sum(map(math.exp, line))) - line[i]
    assert info_nce(logits).item() == pytest.approx(total / 10, rel=1e-6)
    assert info_nce(torch.zeros(8, 8)).item() == pytest.approx(math.log(8))


def test_the_optimum_on_a_table_is_the_log_ratio_but_for_one_constant():
    off = minimise(info_nce) - RATIO
    assert (off - off.mean()).abs().max() < 1e-9


def test_asked_only_for_captions_it_is_off_by_a_function_of_x_whose_gradient_leads_anywhere():
    off = minimise(which_caption) - RATIO
    assert spread(off, 1) < 1e-9 and spread(off, 0) > 0.1


def test_asked_only_for_pictures_it_is_off_by_a_function_of_c_which_has_no_gradient():
    off = minimise(which_picture) - RATIO
    assert spread(off, 0) < 1e-9 and spread(off, 1) > 0.1


@pytest.mark.parametrize("N", [2, 3])
def test_in_batches_of_any_size_the_log_ratio_is_where_no_change_helps(N):
    table = (RATIO + 0.7).requires_grad_()
    slope, = torch.autograd.grad(expected(info_nce, table, N), table)
    assert slope.abs().max() < 1e-12
    table, h = table.detach(), torch.tensor([[0.3], [-0.2], [0.1]], dtype=torch.float64)
    assert expected(info_nce, table + h, N) > expected(info_nce, table, N) + 1e-3
    assert expected(which_caption, table + h, N).item() == pytest.approx(
        expected(which_caption, table, N).item(), rel=1e-12)


def log_ratio(x_t, t):
    """log p(x_t, k) / (p(x_t) p(k)) of the mixture, (B, 3), by densities of x_t alone."""
    a, v = A[t].reshape(-1, 1), A[t].reshape(-1, 1) * STDS ** 2 + 1 - A[t].reshape(-1, 1)
    squares = (x_t.double()[:, None] - a.sqrt()[..., None] * MEANS).square().sum(2)
    given = -squares / (2 * v) - (2 * math.pi * v).log()                     # log p(x_t | k)
    return given - (given + WEIGHTS.log()).logsumexp(1, keepdim=True)


def test_its_gradient_is_that_of_the_exact_classifier_and_with_a_function_of_x_another():
    x_t, y = points(30)
    t = torch.arange(30) % 8 + 1
    g = gradient(exact, x_t, t, y)
    torch.testing.assert_close(gradient(log_ratio, x_t, t, y), g)
    torch.testing.assert_close(gradient(lambda x, t: log_ratio(x, t) + y[:3], x_t, t, y), g)
    off = gradient(lambda x, t: log_ratio(x, t) + x[:, :1].sin(), x_t, t, y) - g
    torch.testing.assert_close(off[:, 0], x_t[:, 0].cos())


@pytest.mark.parametrize("t", [1, 4, 8])
def test_on_a_mixture_the_log_ratio_is_best_and_the_log_posterior_is_not(t):
    """The slopes of the loss along h(x) and along h(c), over batches of 25: 0 but for chance."""
    k = torch.multinomial(WEIGHTS, 4_000, replacement=True, generator=noise(t))
    x_0 = MEANS[k] + STDS[k, None] * torch.randn(4_000, 2, generator=noise(t + 1))
    x_t = A[t].sqrt() * x_0 + (1 - A[t]).sqrt() * torch.randn(4_000, 2, generator=noise(t + 2))

    def slopes(critic):                              # in standard errors
        each = []
        for x, own in zip(x_t.split(25), k.split(25), strict=True):
            batch = critic(x, torch.full((25,), t))[:, own].requires_grad_()
            slope, = torch.autograd.grad(info_nce(batch), batch)
            each.append([(slope.sum(1) * x[:, 0]).sum(), (slope.sum(0) * WEIGHTS[own]).sum()])
        each = torch.tensor(each)
        return each.mean(0).abs() / each.std(0) * math.sqrt(len(each))

    assert slopes(log_ratio).max() < 4
    assert slopes(exact)[1] > 10                     # it lacks 1 / p(c)


# ---- the network ----

def clip(noised=True):
    torch.manual_seed(0)
    return awake(Clip(1, noised))


def test_vectors_have_unit_length_and_see_no_other_of_the_batch_and_all_weights_learn():
    net, x_t, t = clip(), torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 500, 1000])
    torch.testing.assert_close(net.f(x_t, t).norm(dim=1), torch.ones(4))
    tokens = tokenise(CAPTIONS)
    logits = net.ask(tokens)(x_t, t)
    assert logits.shape == (4, 3) and logits.abs().max() < net.log_scale.exp()
    longer = clip()
    longer.log_scale.data += math.log(5)
    torch.testing.assert_close(longer.ask(tokens)(x_t, t), 5 * logits)
    torch.testing.assert_close(logits[2:3, 1:2], net.ask(tokens[1:2])(x_t[2:3], t[2:3]))
    info_nce(logits[:3]).backward()
    assert all(weight.grad.abs().max() > 0 for weight in net.parameters())


def test_only_a_noised_one_is_told_the_time():
    x_t, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 500, 1000])
    assert (clip().f(x_t, t) - clip().f(x_t, 0 * t)).abs().amax(1).min() > 1e-4
    assert torch.equal(clip(False).f(x_t, t), clip(False).f(x_t, 0 * t))
    assert torch.equal(clip(False).f(x_t, t), clip().f(x_t, 0 * t))


def test_an_untrained_picture_has_a_direction_and_the_scale_begins_where_theirs_does():
    net = Clip(1, True)
    f = net.f(torch.randn(5, 1, 8, 8), torch.ones(5).long())
    torch.testing.assert_close(f.norm(dim=1), torch.ones(5))
    assert net.log_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("noised", [True, False])
def test_it_learns_from_x_t_of_eq_4_at_all_times_or_from_clean_pictures_alone(noised):
    seen, tokens = [], tokenise(CAPTIONS * 400)

    class Spy:
        def ask(self, given):
            assert given is tokens
            return lambda x_t, t: seen.append((x_t, t)) or torch.eye(1200)

    Spy.noised = noised
    loss = contrast(strong())(Spy(), torch.full((1200, 1, 4, 4), 0.5), tokens)
    assert loss.item() == pytest.approx(math.log(math.e + 1199) - 1)
    (x_t, t), = seen
    assert t.unique().tolist() == (list(range(1, 9)) if noised else [0])
    for k in t.unique():
        part = x_t[t == k]
        assert part.mean().item() == pytest.approx(0.5 * A[k].sqrt().item(), abs=0.1)
        assert part.var().item() == pytest.approx(1 - A[k].item(), rel=0.15, abs=1e-12)


# ---- retrieval ----

def test_pictures_and_captions_find_each_other_by_the_largest_logits():
    logits = torch.zeros(3, 120)
    logits[0, 7], logits[1, 7], logits[2, 3] = 2, 3, 1
    found, finds = retrieve(logits, torch.tensor([0, 0, 0]), torch.tensor([7, 5, 3]))
    assert found.tolist() == [True, False, True]
    assert finds[3] and not finds[7] and not finds[5]                # for 7 comes picture 1
    found, finds = retrieve(torch.eye(120), *EVERY)
    assert found.all() and finds.all() and not torch.stack(retrieve(-torch.eye(120), *EVERY)).any()


def test_the_network_that_ships_reads_noise_where_the_clean_one_guesses():
    stored, ddpm, _ = core.load(core.SHIPPED)
    config, clips = load_fit(core.SHIPPED.with_name("clip.pt"), "cpu", cl.network)
    assert config == {name: stored[name] for name in cl.SAME}
    x, *of = captions(seed=1)
    x_0 = data.to_model(x).repeat(4, 1, 1, 1)
    of = [part.repeat(4) for part in of]

    def share(name, t):
        return retrieve(cl.rank(ddpm, clips[name], x_0, t), *of)[0].float().mean()

    assert share("noised CLIP", 0) > 0.8 and share("clean CLIP", 0) > 0.8
    assert share("noised CLIP", 500) > share("clean CLIP", 500) + 0.1
    assert share("noised CLIP", 1000) < 0.1
    assert clips["noised CLIP"].log_scale.exp() < 100
    assert core.SHIPPED.with_name("clip.pt").stat().st_size < 700_000


# ---- the program ----

@pytest.fixture
def guides(trained, tmp_path, monkeypatch, capsys):
    """A CLIP that `train` made, and a classifier, for the tiny network; and what was fitted."""
    fitted, original = [], cl.fit
    monkeypatch.setattr(training, "autocast", contextlib.nullcontext)        # nothing is timed
    monkeypatch.setattr(cl, "fit", lambda *args, **how: fitted.append(args) or original(
        *args, **how))
    cl.main(["train", "--checkpoint", str(trained[0]), "--steps", "2", "--device", "cpu", "--out",
             str(tmp_path / "clip.pt")])
    config = core.load(trained[0])[0]
    save_fit(tmp_path / "classifier.pt", {**{k: config[k] for k in cl.SAME}, "classes": 10}, 1,
             awake(Classifier(1, 10)))
    monkeypatch.setattr(cl, "ASSETS", tmp_path)
    return tmp_path / "clip.pt", fitted, capsys.readouterr().out


def test_nobody_is_trained_on_what_is_held_out_and_both_are_read_again(guides):
    path, fitted, said = guides
    x, *of = captions(8)
    new = held_out(*of)
    assert 0 < new.sum() < len(x)
    for (clip, _, *rest), noised in zip(fitted, (True, False), strict=True):
        assert clip.noised == noised
        assert torch.equal(rest[0], x[~new]) and torch.equal(rest[1], tokenise(write(*of))[~new])
    _, clips = load_fit(path, "cpu", cl.network)
    assert [clip.noised for clip in clips.values()] == [True, False]
    assert "noised CLIP: the scale is 14.3" in said and "that nobody trained on" in said


@pytest.mark.thorough
def test_the_program_draws_the_picture_and_says_what_it_found(guides, trained, tmp_path, capsys,
                                                              monkeypatch):
    _, clips = load_fit(guides[0], "cpu", cl.network)
    config, ddpm, model = core.load(trained[0])
    judged = []

    def as_asked(reader, x, labels, styles):
        judged.append((x, labels, styles))
        return torch.tensor([0.25, 0.5, 0.125])

    monkeypatch.setattr(cl, "as_asked", as_asked)
    monkeypatch.setattr(cl, "load_fit", lambda *_: (None, {"reader": None}))
    out = tmp_path / "clip.png"
    cl.main(["--checkpoint", str(trained[0]), "--clip", str(guides[0]), "--n", "4", "--steps", "3",
             "--seed", "1", "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert out.stat().st_size > 4_000 and said.count(f"wrote {out}") == 1
    assert said.count(
        "digit as asked 25.0%, style as asked 50.0%, both as asked 12.5%") == 12
    _, *of = judged[0]
    assert set(write(*of)) <= set(write(*captions(8, 1)[1:]))
    log_p = load_fit(tmp_path / "classifier.pt", "cpu", cl.classifier_guidance.network)[1]
    tokens, S = tokenise(write(*of)), torch.tensor([0, 1, 3, 5])
    chain, respaced = respace(ddpm, model, 3)
    for i, s in enumerate((0, 1, 3, 10)):
        for j, (guide, k) in enumerate(((log_p, of[0]), *(
                (clip.ask(tokens), torch.arange(4)) for clip in clips.values()))):
            x_T, generator = first_noise(1, (4, 1, 8, 8), "cpu")
            x_0 = sample(chain, respaced, lambda x, t, guide=guide: guide(x, S[t]), k, x_T, s,
                         generator=generator).clamp(-1, 1)
            torch.testing.assert_close(judged[3 * i + j][0], x_0)
            assert all(map(torch.equal, judged[3 * i + j][1:], of))


def test_what_is_no_clip_or_one_of_other_images_ends_in_one_line(trained, capsys,
                                                                 monkeypatch):
    refused(capsys, ["--checkpoint", trained[0]], "differ in one of data, image_size", main=cl.main)
    refused(capsys, ["--checkpoint", core.SHIPPED, "--clip", trained[0]], "papers.clip train",
            main=cl.main)
    monkeypatch.setattr(cl, "fit", lambda *_: 1 / 0)                         # nothing is trained
    refused(capsys, ["train", "--out", "clip.png"], "ends in .pt", main=cl.main)
    refused(capsys, ["train", "--steps", "1"], "2..", main=cl.main)
