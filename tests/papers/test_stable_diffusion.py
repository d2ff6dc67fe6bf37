"""A condition reaches the latents' network; the autoencoder stays; what is drawn is decoded."""
import re

import pytest
import torch
from stand_ins import awake, refused
from test_ddpm import strong

import data
from papers import latent_diffusion, text_to_image
from papers import stable_diffusion as sd
from papers.kit import followed, training
from papers.kit.captions import captions, held_out, tokenise, write
from papers.kit.followed import SCALES, choose
from papers.kit.training import load_fit, save_fit
from papers.text_to_image import draw

TINY = {"image_size": 32, "image_channels": 1, "latent_channels": 2, "width": 2, "channels": 8,
        "T": 25}


@pytest.fixture
def fitted(monkeypatch, tmp_path):
    """The file that a short `train` writes, what it gave to `fit`, and the file it started from."""
    given, path, start = [], tmp_path / "tiny.pt", tmp_path / "latent.pt"
    networks = latent_diffusion.network(TINY)
    awake(networks["latent"])
    networks["latent"].scale.fill_(0.7)
    save_fit(start, TINY, 1, networks)

    def fit(model, loss, x, labels, steps, **how):
        given.append((x, labels, steps))
        return training.fit(model, loss, x, labels, 2, 8, **how)
    monkeypatch.setattr(latent_diffusion, "SHIPPED", start)
    monkeypatch.setattr(sd, "fit", fit)
    sd.main(["train", "--steps", "9", "--device", "cpu", "--checkpoint", str(path)])
    return path, given, networks["latent"]


def test_training_leaves_the_autoencoder_of_the_latents_and_their_scale_as_they_are(fitted):
    path, ((x, tokens, steps),), theirs = fitted
    config, networks = load_fit(path, "cpu", sd.network)
    ours = networks["latent"]
    assert config == TINY and steps == 9 and ours.scale == theirs.scale
    for name, weight in theirs.autoencoder.state_dict().items():
        assert torch.equal(ours.autoencoder.state_dict()[name], weight)
    assert (ours.unet.conv_out.bias != 0).any()                  # but that is trained
    every, labels, styles = captions(32)
    seen = ~held_out(labels, styles)
    assert torch.equal(x, every[seen])
    assert torch.equal(tokens, tokenise(write(labels[seen], styles[seen])))


@pytest.mark.filterwarnings("ignore:alpha_bar_T")                # of strong()
def test_the_loss_is_that_of_the_latents_with_each_ones_own_caption_or_none():
    seen = []

    class Unet(torch.nn.Module):
        empty = tokenise([""])

        def forward(self, z_t, t, tokens):
            seen.append((z_t, t, tokens))
            return torch.zeros_like(z_t)

    class Same(torch.nn.Module):                     # latents are images, doubled
        def encode(self, x):
            return 2 * x, torch.full_like(x, -40.0)

    digits = torch.arange(10).repeat(200)
    tokens = tokenise(write(digits, 0 * digits))
    x_0 = 1000.0 * (1 + digits[:, None].float())     # so far out that it is its label
    value = sd.loss(strong())(latent_diffusion.LatentDiffusion(Same(), Unet()), x_0, tokens)
    (z_t, t, told), = seen
    assert value.item() == pytest.approx(1, abs=0.1)
    digit = (z_t[:, 0] / strong().alpha_bar[t].sqrt() / 2000 - 1).round().long()
    kept = (told != Unet.empty).any(1)
    assert torch.equal(told[kept], tokenise(write(digit, 0 * digit))[kept])
    assert kept.double().mean().item() == pytest.approx(0.8, abs=0.04)


def test_the_program_draws_latents_unclipped_decodes_them_and_counts(fitted, tmp_path, capsys,
                                                                     monkeypatch):
    path, read = fitted[0], []
    reader = text_to_image.style_reader()
    save_fit(tmp_path / "text.pt", {}, 1, torch.nn.ModuleDict({"reader": reader}))
    monkeypatch.setattr(text_to_image, "SHIPPED", tmp_path / "text.pt")
    monkeypatch.setattr(text_to_image, "network", lambda config: torch.nn.ModuleDict({
        "reader": text_to_image.style_reader()}))
    original = followed.as_asked

    def as_asked(reader, x, labels, styles):
        read.append(x)
        return original(reader, x, labels, styles)
    for module in (followed, sd):
        monkeypatch.setattr(module, "as_asked", as_asked)
    sd.main(["--checkpoint", str(path), "--n", "4", "--steps", "2", "--seed", "3", "--device",
             "cpu", "--out", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    latent, ddpm = load_fit(path, "cpu", sd.network)[1].values()
    x, labels, styles = captions(32, 1)
    z_0 = latent.encode(data.to_model(x), torch.Generator().manual_seed(3))
    new = held_out(labels, styles)
    for shown, part in zip(read, (~new, new), strict=False):
        torch.testing.assert_close(shown, latent.decode(z_0[part]), rtol=1e-3, atol=1e-3)
    tokens, i = tokenise(write(*choose(4, 3))), 2
    largest = 0
    for s in SCALES:
        for seed in (3, 4, 5):
            z_0 = draw(ddpm, latent, tokens, s, (2, 8, 8), 2, seed, clip=False)
            largest = max(largest, z_0.abs().max())
            torch.testing.assert_close(torch.cat(read[i:i + 2]), latent.decode(z_0))
            i += 2
    assert i == len(read) and largest > 1.1
    assert len(re.findall(r"^s = \d, .*both", said, re.MULTILINE)) == 2 * len(SCALES)


def test_wrong_arguments_end_in_one_line(trained, capsys):
    for argv, message in ((["train", "--steps", "0"], "must be in 1.."),
                          (["--checkpoint", trained[0]], "stable_diffusion train")):
        refused(capsys, argv, message, main=sd.main)


def test_the_shipped_file_is_small_and_has_the_autoencoder_of_the_latents():
    assert sd.SHIPPED.stat().st_size <= 1.5e6
    config, networks = load_fit(sd.SHIPPED, "cpu", sd.network)
    theirs = load_fit(latent_diffusion.SHIPPED, "cpu", latent_diffusion.network)
    assert config == theirs[0]
    latent, other = networks["latent"], theirs[1]["latent"]
    assert latent.scale == other.scale
    for name, weight in other.autoencoder.state_dict().items():
        assert torch.equal(latent.autoencoder.state_dict()[name], weight)
