"""Captions say what is in the picture, and padding says nothing."""

import pytest
import torch
from conftest import DRAW

import data
from papers.kit import captions as module
from papers.kit.captions import (DIGITS, END, LENGTH, PAD, STYLES, WORDS, TextTransformer, as_asked,
                                 attributes, captions, held_out, style_loss, style_reader, tokenise,
                                 write)

EVERY = torch.arange(10).repeat_interleave(STYLES), torch.arange(STYLES).repeat(10)


# ---- pictures and what is said of them ----

def test_the_pictures_are_those_of_the_data_set_without_those_that_hardly_lean():
    x, labels, styles = captions(16, 1)
    every, truth = data.load("digits", split="test")
    same = (x[:, None] == every).flatten(2).all(2)                           # (N, 40)
    i = same.nonzero()[:, 1]
    assert x.dtype == torch.uint8 and same.sum(1).tolist() == [1] * len(x)
    assert torch.equal(labels, truth[i]) and i.tolist() == sorted(i.tolist())
    faces, angle, shear, scale, dx, dy = data.poses(40, 1)
    for j, style in zip(i.tolist(), styles.tolist(), strict=True):
        face = data.FACES[faces[j]]
        assert style % 2 == ("Bol" in face)
        assert style // 2 % 2 == ("Serif" in face or "STIX" in face)
        lean = shear[j] - angle[j] + (0.194 if face.endswith(("Oblique", "Italic")) else 0)
        assert style // 4 == (0 if abs(lean) < 0.04 else 1 if lean <= -0.08 else 2)
        assert not 0.041 < abs(lean) < 0.079
    assert 0.5 * 40 < len(x) < 40 and styles.dtype == torch.int64


def test_a_digit_that_is_said_to_lean_right_has_its_top_to_the_right(monkeypatch):
    monkeypatch.setattr(data, "digits", DRAW)
    monkeypatch.setattr(module, "UPRIGHT", 0.01)
    x, labels, styles = captions(16)
    slopes = []
    for side in range(3):
        ones = x[(labels == 1) & (styles // 4 == side) & (styles % 4 == 0)].double().squeeze(1)
        weight = ones / ones.sum((1, 2), keepdim=True)
        up, right = 7.5 - torch.arange(16.0)[:, None], torch.arange(16.0)
        up, right = (c - (weight * c).sum((1, 2), keepdim=True) for c in (up, right))
        slopes.append(((weight * up * right).sum((1, 2)) / (weight * up ** 2).sum((1, 2))).mean())
    assert slopes[1] + 0.1 < slopes[0] < slopes[2] - 0.1


def test_captions_are_in_words_and_no_two_alike():
    texts = write(*EVERY)
    assert len(set(texts)) == 120
    assert write(torch.tensor([7, 0, 3, 8, 8]), torch.tensor([11, 0, 6, 4, 1])) == [
        "a bold serif seven, leaning right", "a zero", "a serif three, leaning left",
        "an eight, leaning left", "a bold eight"]


def test_of_each_digit_two_styles_are_held_out_and_every_word_is_seen_with_it():
    out = held_out(*EVERY).reshape(10, STYLES)
    assert out.sum(1).tolist() == [2] * 10 and out.sum(0).min() >= 1
    for digit in range(10):
        seen = write(torch.full((10,), digit), (~out[digit]).nonzero()[:, 0])
        words = " ".join(seen).replace(",", "").split()
        for word in ("bold", "serif", "left", "right"):
            assert 3 <= words.count(word) < 10       # with it, and without it


# ---- tokens ----

def test_tokens_are_words_then_the_end_then_padding():
    texts = [*write(*EVERY), ""]
    tokens = tokenise(texts)
    assert tokens.shape == (121, LENGTH) and tokens.dtype == torch.int64
    assert len(tokens.unique(dim=0)) == 121
    for row, text in zip(tokens.tolist(), texts, strict=True):
        words = text.replace(",", "").replace("an ", "a ").split()
        assert [WORDS[token] for token in row[:len(words)]] == words
        assert row[len(words):] == [END] + [PAD] * (LENGTH - 1 - len(words))
    assert (tokens != PAD).all(1).any() and tokens[-1].tolist() == [END] + [PAD] * (LENGTH - 1)
    assert set(DIGITS) < set(WORDS)


@pytest.mark.parametrize("text", ["a eleven", "a bold bold bold bold bold seven"])
def test_what_is_no_caption_is_refused(text):
    with pytest.raises(ValueError):
        tokenise([text])


# ---- the transformer ----

def transformer():
    net = TextTransformer(8)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return net


def test_padding_changes_nothing_whatever_stands_there():
    net, tokens = transformer(), tokenise(["a six", "", "a bold serif six, leaning left"])
    every, last = net(tokens)
    for k, n in enumerate((3, 1, 7)):
        alone, end = net(tokens[k:k + 1, :n])
        torch.testing.assert_close(every[k, :n], alone[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(last[k], every[k, n - 1], rtol=0, atol=0)
        torch.testing.assert_close(last[k], end[0], rtol=1e-5, atol=1e-5)
    net.word.weight.data[PAD] += 100
    torch.testing.assert_close(net(tokens)[1], last, rtol=1e-5, atol=1e-5)


def test_every_word_and_its_place_count_and_captions_do_not_mix():
    net = transformer()
    base = net(tokenise(["a bold serif six, leaning left"]))[1]
    for text in ("a bold serif six, leaning right", "a serif bold six, leaning left",
                 "bold a serif six, leaning left", "a bold serif nine, leaning left"):
        assert (net(tokenise([text]))[1] - base).abs().max() > 1e-4
    both = net(tokenise(["a two", "a bold serif six, leaning left"]))[1]
    torch.testing.assert_close(both[1:], base, rtol=1e-5, atol=1e-5)
    net(tokenise(["a six", "a bold serif six, leaning left"]))[1].sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_one_layer_is_its_equation():
    """By torch's own layer of a transformer, of one head, with the norms first."""
    torch.manual_seed(1)
    ours = module.Layer(8)
    theirs = torch.nn.TransformerEncoderLayer(8, 1, 32, dropout=0.0, activation="gelu",
                                              batch_first=True, norm_first=True)
    theirs.load_state_dict({
        "self_attn.in_proj_weight": ours.qkv.weight, "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.proj.weight, "self_attn.out_proj.bias": ours.proj.bias,
        **{f"linear{k}.{kind}": getattr(ours.perceptron[2 * (k - 1)], kind)
           for k in (1, 2) for kind in ("weight", "bias")},
        **{f"norm{k}.{kind}": getattr(getattr(ours, f"norm{k}"), kind)
           for k in (1, 2) for kind in ("weight", "bias")}})
    x, there = torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [2], [4]])
    torch.testing.assert_close(ours(x, there)[there],
                               theirs(x, src_key_padding_mask=~there)[there])


# ---- what is read in a picture ----

def test_digit_and_style_are_counted_alone_and_together():
    labels, styles = torch.tensor([7, 0, 3, 9]), torch.tensor([11, 0, 6, 5])
    truth = attributes(labels, styles)
    assert truth.tolist() == [[7, 1, 1, 2], [0, 0, 0, 0], [3, 0, 1, 1], [9, 1, 0, 1]]

    def reader(x):
        """Logits that say what the first pixels of an image are."""
        return torch.cat([torch.nn.functional.one_hot(x[:, 0, 0, k].long(), n).float()
                          for k, n in enumerate((10, 2, 2, 3))], dim=1)

    x = truth[:, None, None].float()
    assert as_asked(reader, x, labels, styles).tolist() == [1, 1, 1]
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1, 1              # wrong digits
    x[1, 0, 0, 3] = 2                                # and a wrong style
    assert as_asked(reader, x, labels, styles).tolist() == [0.5, 0.75, 0.5]
    x[2, 0, 0, 1] = 1
    assert as_asked(reader, x, labels, styles).tolist() == [0.5, 0.5, 0.25]


def test_the_reader_learns_all_four_and_averages_what_is_larger():
    reader, x = style_reader(), torch.randn(5, 1, 16, 16)
    assert reader(x).shape == (5, 17)
    larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(reader(larger), reader(x))
    logits, truth = torch.randn(5, 17), attributes(torch.arange(5), torch.arange(5) + 6)
    p = [part.softmax(1) for part in logits.split((10, 2, 2, 3), dim=1)]
    expected = -sum(part.gather(1, truth[:, k:k + 1]).log().mean() for k, part in enumerate(p))
    torch.testing.assert_close(style_loss(lambda x: logits, x, truth), expected)
