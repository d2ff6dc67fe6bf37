"""Stable Diffusion in small: a U-Net that reads captions, in the latents of an autoencoder.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"
(arXiv:2112.10752), sec. 3.3, Eq. 3.

    python -m papers.stable_diffusion train [--steps 2000]     minutes; writes stable_diffusion.pt
    python -m papers.stable_diffusion [--checkpoint F] [--n 60] [--steps 40]

It is two files put together.  The autoencoder of papers/latent_diffusion.py, which was trained
without a word, turns digits of 32 x 32 into latents of 8 x 8; the U-Net of papers/text_to_image.py
learns to denoise these, told the caption; and s works on latents as it does on pixels.  The picture
is that of papers/text_to_image.py: captions of training and new ones, drawn at several s, decoded,
and read by the same network.  The numbers of digits that were only encoded and decoded say how much
of the style the autoencoder keeps.

In the paper pixels of the U-Net look at each other first, and then, in a layer of its own, at what
a transformer makes of the words ("cross-attention"), which reach the U-Net in no other way.  Here,
as in GLIDE, pixels look at both at once, and the last token is added to the embedding of the time.
Stable Diffusion has its transformer from a CLIP; ours, as the paper's, learns with the U-Net.
Latents have no bounds, so nothing clips them.
"""

import torch
from torch import nn

import data
from papers import latent_diffusion, text_to_image
from papers.kit.captions import as_asked, captions, held_out, training_set
from papers.kit.followed import KINDS, LEAST, follow, say
from papers.kit.program import finish, flags, program, start, steps_of
from papers.kit.training import ASSETS, fit, load_fit, save_fit, start_fit
from papers.latent_diffusion import LatentDiffusion
from papers.text_to_image import P_EMPTY, TextUNet, draw, drop_captions
from plumbing.device import recorded

SHIPPED = ASSETS / "stable_diffusion.pt"


def network(config):
    """Build what a file holds: a LatentDiffusion that reads captions, and its process."""
    latent, _, ddpm = latent_diffusion.network(config).values()
    unet = TextUNet(image_size=config["image_size"] // 4, image_channels=config["latent_channels"],
                    channels=config["channels"], channel_mults=(1, 2), num_res_blocks=1,
                    attention_resolutions=(8,), dropout=0.0)
    return nn.ModuleDict({"latent": LatentDiffusion(latent.autoencoder, unet), "ddpm": ddpm})


def loss(ddpm):
    """Return L_LDM with captions, Eq. 3, a fifth of them empty, as `fit` takes it."""
    def loss(model, x_0, tokens):
        return model.loss(ddpm, x_0, drop_captions(tokens, model.unet.empty, P_EMPTY))
    return loss


def run_train(argv):
    args, path, device = start_fit(argv, __doc__, "stable_diffusion.pt", 2000, "of the U-Net")
    config, theirs = load_fit(latent_diffusion.SHIPPED, device, latent_diffusion.network)
    networks = network(config).to(device)
    latent, trained = networks["latent"], theirs["latent"]
    latent.autoencoder, latent.scale = trained.autoencoder, trained.scale
    networks["latent"] = fit(latent, loss(networks["ddpm"]), *training_set(config["image_size"]),
                             args.steps, label="text to latents")
    save_fit(path, config, args.steps, networks)
    print(f"wrote {path}")


def main(argv=None):
    parser = flags(__doc__, "stable_diffusion.png", 60, LEAST, "captions of training, and held out",
                   "the file that ships", steps=40)
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    latent, ddpm = networks.values()
    reader = load_fit(text_to_image.SHIPPED, device, text_to_image.network)[1]["reader"]
    steps, model = steps_of(args, ddpm.T), recorded(latent, device, args.record)
    print(f"{args.n} captions of each kind, {steps} steps, by {checkpoint}, on {device}")
    x, labels, styles = (each[:1000] for each in captions(config["image_size"], seed=1))
    new = held_out(labels, styles)
    z_0 = latent.encode(data.to_model(x).to(device), torch.Generator(device).manual_seed(args.seed))
    for kind, part in zip(KINDS, (~new, new), strict=True):
        share = as_asked(reader, latent.decode(z_0[part]), labels[part], styles[part])
        say(f"decoded, {kind}", [f"{value:.1%}" for value in share])

    def images(tokens, s, seed):
        return latent.decode(draw(ddpm, model, tokens.to(device), s, z_0.shape[1:], steps, seed,
                                  clip=False))
    figure, found = follow(images, reader, args.n, args.seed)
    finish(figure, args.out, found)


if __name__ == "__main__":
    main()
