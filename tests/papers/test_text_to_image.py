"""Guidance by captions on mixtures; how words reach the pixels; what training never saw."""
import math
import re

import pytest
import torch
from stand_ins import awake, noise, refused
from test_classifier_free_guidance import eps_of, log_parts, perfect
from test_ddpm import strong

import data
from papers import text_to_image as tti
from papers.kit import followed, training
from papers.kit.captions import STYLES, attributes, captions, held_out, tokenise, write
from papers.kit.followed import SCALES, choose
from papers.kit.training import load_fit
from papers.text_to_image import TextAttention, TextUNet, draw, drop_captions, network
from unet import Attention

TINY = {"T": 5, "network": {"image_size": 16, "image_channels": 1, "channels": 8,
                            "channel_mults": [1, 2], "num_res_blocks": 1,
                            "attention_resolutions": [8], "dropout": 0.0}}
TEXTS = ["a six", "", "a bold serif six, leaning left", "a serif nine, leaning right"]


def net():
    return awake(TextUNet(**TINY["network"]))


def some(n=4):
    return torch.randn(n, 1, 16, 16), torch.arange(n) + 1


# ---- sec. 2.3: guidance ----

@pytest.mark.filterwarnings("ignore:alpha_bar_T")                # of strong()
@pytest.mark.parametrize("s, clip", [(0, True), (1, False), (3.5, True), (3.5, False)])
def test_guidance_multiplies_the_density_by_that_of_the_caption_to_the_s(s, clip):
    """On a mixture whose three parts are what captions tell apart: the chain of the true score."""
    c = torch.arange(3).repeat(5)

    def by_hand(x_t, t):
        def log_density(x, t):
            parts = log_parts(x, t)
            return parts.logsumexp(1) + s * parts.log_softmax(1).gather(1, c[:, None])[:, 0]
        with torch.enable_grad():
            return eps_of(log_density, x_t.double(), t).to(x_t)

    x = draw(strong(), perfect, c, s, (2,), 8, 3, clip)
    expected = strong().sample(by_hand, (15, 2), clip, noise(3))
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(x, draw(strong(), perfect, c, s, (2,), 8, 4, clip))


# ---- sec. 4.1: words in attention ----

def test_without_words_attention_is_that_of_the_core():
    ours, x = awake(TextAttention(8)), torch.randn(3, 8, 4, 2)
    theirs = Attention(8)
    theirs.load_state_dict({name: weight for name, weight in ours.state_dict().items()
                            if not name.startswith("kv")})
    none = torch.zeros(3, 0, tti.D), torch.zeros(3, 0, dtype=torch.bool)
    torch.testing.assert_close(ours(x, *none), theirs(x), rtol=1e-5, atol=1e-5)
    absent = torch.randn(3, 5, tti.D), torch.zeros(3, 5, dtype=torch.bool)
    torch.testing.assert_close(ours(x, *absent), theirs(x), rtol=1e-5, atol=1e-5)
    present = absent[0], ~absent[1]
    assert (ours(x, *present) - theirs(x)).abs().amax((1, 2, 3)).min() > 1e-3


def test_a_pixel_looks_at_all_pixels_and_at_the_words_that_are_there():
    """Each pixel by hand."""
    attention, x, words = awake(TextAttention(4)), torch.randn(2, 4, 2, 3), torch.randn(2, 3, tti.D)
    there = torch.tensor([[True, True, False], [True, True, True]])
    got = attention(x, words, there)
    q, k, v = (attention.qkv(attention.norm(x))[:, i:i + 4].flatten(2) for i in (0, 4, 8))
    for b in range(2):
        told = attention.kv(words[b][there[b]])                              # (L, 8)
        for pixel in range(6):
            query = q[b, :, pixel]
            weights = torch.stack([query @ key / 2 for key in (*told[:, :4], *k[b].T)]).exp()
            h = sum(w * value for w, value in zip(weights, (*told[:, 4:], *v[b].T), strict=True))
            h = attention.proj((h / weights.sum())[None, :, None, None])[0, :, 0, 0]
            torch.testing.assert_close(got[b].flatten(1)[:, pixel], x[b].flatten(1)[:, pixel] + h,
                                       rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    model, (x_t, t), tokens = net(), some(), tokenise(TEXTS)
    got = model(x_t, t, tokens)
    for k, n in enumerate((3, 1, 7, 6)):
        torch.testing.assert_close(model(x_t[k:k + 1], t[k:k + 1], tokens[k:k + 1, :n]),
                                   got[k:k + 1], rtol=1e-3, atol=1e-3)
    model.text.word.weight.data[0] += 50
    torch.testing.assert_close(model(x_t, t, tokens), got, rtol=1e-3, atol=1e-3)


def test_each_image_reads_its_own_caption_and_none_is_the_empty_one():
    model, (x_t, t), tokens = net(), some(), tokenise(TEXTS)
    got, without = model(x_t, t, tokens), model(x_t, t)
    torch.testing.assert_close(without, model(x_t, t, tokenise([""] * 4)), rtol=0, atol=0)
    assert ((got - without).abs().amax((1, 2, 3)) > 1e-3).tolist() == [True, False, True, True]
    other = model(x_t, t, tokenise([*TEXTS[:3], "a serif two, leaning right"]))
    assert ((got - other).abs().amax((1, 2, 3)) > 1e-3).tolist() == [False] * 3 + [True]


def test_words_go_both_ways_in_with_the_time_and_into_attention():
    """Either alone makes a difference."""
    (x_t, t), tokens = some(), tokenise(TEXTS)
    for kept in ("last", "kv"):
        model = net()
        for name, weight in model.named_parameters():
            if "kv" in name and kept == "last" or name.startswith("last") and kept == "kv":
                torch.nn.init.zeros_(weight)
        told = model(x_t, t, tokens) - model(x_t, t)
        assert told[[0, 2, 3]].abs().amax((1, 2, 3)).min() > 1e-4


def test_every_weight_gets_a_gradient_and_the_network_starts_as_0():
    model, (x_t, t), tokens = TextUNet(**TINY["network"]), some(), tokenise(TEXTS)
    assert (model(x_t, t, tokens) == 0).all()
    awake(model)(x_t, t, tokens).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


# ---- sec. 4.2: training ----

def test_a_fifth_of_the_captions_is_empty_and_the_others_are_whole():
    tokens, empty = tokenise(TEXTS[2:]).repeat(10_000, 1), tokenise([""])
    dropped = drop_captions(tokens, empty, tti.P_EMPTY)
    gone = (dropped == empty).all(1)
    assert torch.equal(dropped[~gone], tokens[~gone])
    assert gone.double().mean().item() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 20_000))


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_the_loss_is_L_simple_with_each_images_own_caption_or_none():
    seen = []

    class Model:
        empty = tokenise([""])

        def __call__(self, x_t, t, tokens):
            seen.append((x_t, t, tokens))
            return torch.zeros_like(x_t)

    digits = torch.arange(10).repeat(200)
    tokens = tokenise(write(digits, 0 * digits))
    x_0 = 1000.0 * (1 + digits[:, None].float())     # so far out that it is its label
    value = tti.loss(strong())(Model(), x_0, tokens)
    (x_t, t, told), = seen
    assert t.unique().tolist() == list(range(1, 9)) and value.item() == pytest.approx(1, abs=0.1)
    a = strong().alpha_bar[t]
    digit = (x_t[:, 0] / a.sqrt() / 1000 - 1).round().long()
    kept = (told != Model.empty).any(1)
    assert torch.equal(told[kept], tokenise(write(digit, 0 * digit))[kept])
    assert kept.double().mean().item() == pytest.approx(0.8, abs=0.04)


@pytest.fixture
def fitted(monkeypatch, tmp_path):
    """The file that a short `train` writes, and what it gave to `fit`."""
    given, path = [], tmp_path / "tiny.pt"

    def fit(model, loss, x, labels, steps, **how):
        given.append((x, labels, steps))
        return training.fit(model, loss, x, labels, min(2, steps), 8, **how)
    monkeypatch.setattr(tti, "CONFIG", TINY)
    monkeypatch.setattr(tti, "fit", fit)
    tti.main(["train", "--steps", "9", "--device", "cpu", "--checkpoint", str(path)])
    return path, given


def test_training_never_sees_what_is_held_out_and_each_picture_with_its_caption(fitted):
    (pictures, truth, _), (x, tokens, steps) = fitted[1]
    every, labels, styles = captions()
    new = held_out(labels, styles)
    assert steps == 9 and 0 < new.sum() < len(new)
    assert torch.equal(x, every[~new])
    assert torch.equal(tokens, tokenise(write(labels[~new], styles[~new])))
    digits, kinds = torch.arange(10).repeat_interleave(STYLES), torch.arange(STYLES).repeat(10)
    never = held_out(digits, kinds)
    left_out = tokenise(write(digits[never], kinds[never]))
    assert not (tokens[:, None] == left_out).all(2).any()
    # The reader sees all combinations, in pictures that are neither those nor the held-out ones.
    assert len(pictures) == len(truth) > 2 * len(every)
    for seed in (0, 1):
        assert not (pictures[:, None] == captions(seed=seed)[0]).flatten(2).all(2).any()


# ---- the program ----

def test_captions_are_chosen_of_both_kinds_and_repeat_only_if_they_must():
    for n in (4, 20, 50):
        labels, styles = choose(n, 1)
        assert held_out(labels, styles).tolist() == [False] * n + [True] * n
        y = STYLES * labels + styles
        assert len(y[:n].unique()) == n and len(y[n:].unique()) == min(n, 20)
    assert not torch.equal(choose(20, 1)[0], choose(20, 2)[0])


def test_the_program_draws_both_kinds_at_every_s_and_counts(fitted, tmp_path, capsys, monkeypatch):
    path, _ = fitted
    read = []
    original = followed.as_asked

    def as_asked(reader, x, labels, styles):
        read.append((x, labels, styles))
        return original(reader, x, labels, styles)
    monkeypatch.setattr(tti, "as_asked", as_asked)
    monkeypatch.setattr(followed, "as_asked", as_asked)
    tti.main(["--checkpoint", str(path), "--n", "4", "--steps", "2", "--seed", "3", "--device",
              "cpu", "--out", str(tmp_path / "x.png")])
    said = capsys.readouterr().out
    config, networks = load_fit(path, "cpu", network)
    unet, reader, ddpm = networks.values()
    assert config == TINY and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    x, labels, styles = captions(seed=1)
    new = held_out(labels, styles)
    for (shown, digits, kinds), part in zip(read[:2], (~new, new), strict=True):
        assert torch.equal(shown, data.to_model(x[part]))
        assert torch.equal(attributes(digits, kinds), attributes(labels[part], styles[part]))
    labels, styles = choose(4, 3)
    tokens, i = tokenise(write(labels, styles)), 2
    rows = re.findall(r"s = (\d+), .*digit ([\d.]+)% \+- ([\d.]+)% +style ([\d.]+)% \+- "
                      r"([\d.]+)% +both ([\d.]+)% \+- ([\d.]+)%", said)
    assert [int(row[0]) for row in rows] == [s for s in SCALES for _ in range(2)]
    for k, s in enumerate(SCALES):
        shares = []
        for seed in (3, 4, 5):
            x = draw(ddpm, unet, tokens, s, (1, 16, 16), 2, seed)
            for half in (slice(0, 4), slice(4, 8)):
                shown, digits, kinds = read[i]
                torch.testing.assert_close(shown, x[half])
                assert torch.equal(digits, labels[half]) and torch.equal(kinds, styles[half])
                shares.append(original(reader, shown, digits, kinds))
                i += 1
        shares = 100 * torch.stack(shares).view(3, 2, 3)
        for half in range(2):
            expected = torch.stack([shares[:, half].mean(0), shares[:, half].std(0)], 1).flatten()
            assert [float(n) for n in rows[2 * k + half][1:]] == pytest.approx(
                expected.tolist(), abs=0.051)


def test_wrong_arguments_end_in_one_line(trained, capsys):
    for argv, message in ((["train", "--steps", "0"], "must be in 1.."),
                          (["--checkpoint", trained[0]], "text_to_image train")):
        refused(capsys, argv, message, main=tti.main)


# ---- the file that ships ----

def test_the_shipped_file_is_small_and_its_reader_reads():
    assert tti.SHIPPED.stat().st_size <= 1.5e6
    config, networks = load_fit(tti.SHIPPED, "cpu", network)
    assert config == tti.CONFIG
    x, labels, styles = captions(seed=1)
    assert tti.as_asked(networks["reader"], data.to_model(x), labels, styles).min() > 0.9


@pytest.mark.thorough
def test_the_shipped_network_draws_what_new_captions_ask_for():
    unet, reader, ddpm = load_fit(tti.SHIPPED, "cpu", network)[1].values()
    labels, styles = (part[20:] for part in choose(20, 0))
    tokens = tokenise(write(labels, styles))
    x = draw(ddpm, unet, tokens, 2, (1, 16, 16), 15, 0)
    chance = tti.as_asked(reader, draw(ddpm, unet, tokens, 0, (1, 16, 16), 15, 0), labels, styles)
    assert tti.as_asked(reader, x, labels, styles)[2] > 0.5 > 0.2 > chance[2]
