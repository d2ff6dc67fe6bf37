"""Diffusion in the latents of an autoencoder: pictures of 32 x 32 drawn at 8 x 8.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (LDM,
arXiv:2112.10752), sec. 3 and appendix G.

    python -m papers.latent_diffusion train [--steps 1500]               minutes; writes latent.pt
    python -m papers.latent_diffusion [--checkpoint F] [--n 64]

`train` fits an autoencoder of the rendered digits, a U-Net in its latents, and, for as much
processor time as both took, one on the pixels.  The last command samples from both U-Nets by
Algorithm 2.

There are two traps.  Nothing makes the standard deviation s of latents equal to 1, but a schedule
is made for data of about that size: all signal-to-noise ratios, s^2 alpha_bar_t over
1 - alpha_bar_t, are off by s^2.  So latents are divided by s first.  (Here it happens to be 1.05;
of Stable Diffusion's it is 1 / 0.18215 = 5.5.)  And they do not lie in [-1, 1], so that nothing can
clip them, and an error in eps_theta grows by 1 / sqrt(alpha_t) in a step: 32 times where the cosine
schedule ends.  So its end is left out.

The paper's z is z_0 here, its E and D the encoder and the decoder.  The authors' autoencoders learn
by absolute errors, LPIPS (Zhang et al. 2018) and a discriminator, ours by squared errors alone.
Their schedule, T = 1000, is linear in sqrt(beta_t), and not the linear one of schedules.py; ours
has 240 steps, so that one can wait for the pixels.
"""
import copy
import functools
import time

import torch
from matplotlib.figure import Figure
from torch import nn

import data
from ddpm import DDPM
from papers.kit.analytic import kl
from papers.kit.chain import decode, first_noise, noise_like
from papers.kit.judge import load_reader, psnr, read
from papers.kit.program import finish, flags, program, show, shuffled, start
from papers.kit.training import ASSETS, fit, load_fit, save_fit, start_fit
from plumbing.device import autocast, recorded
from schedules import cosine_beta_schedule
from unet import Downsample, ResidualBlock, UNet, Upsample, group_norm, initialise

SHIPPED = ASSETS / "latent.pt"
CONFIG = {"image_size": 32, "image_channels": 1, "latent_channels": 4, "width": 16, "channels": 24,
          "T": 250}
KL_WEIGHT = 1e-6                                     # appendix G


# ---- from pixels to latents and back ----

class Blocks(nn.Sequential):
    """Layers in a row; those of the U-Net are told that the time is 0."""

    def forward(self, x):
        for block in self:
            timed = isinstance(block, (ResidualBlock, Downsample, Upsample))
            x = block(x, x.new_zeros(len(x), 1)) if timed else block(x)
        return x


class Autoencoder(nn.Module):
    """E: (B, C, H, W) images to (B, C_z, H/4, W/4) latents, f = 4; and D back.  Sec. 3.1."""

    def __init__(self, C, C_z, width):
        super().__init__()
        conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
        block = functools.partial(ResidualBlock, emb_dim=1)
        a, b = width, 2 * width
        self.encoder = Blocks(
            conv(C, a), block(a, a), Downsample(a, a, 3, stride=2), block(a, b),
            Downsample(b, b, 3, stride=2), block(b, b), group_norm(b), nn.SiLU(), conv(b, 2 * C_z))
        self.decoder = Blocks(
            conv(C_z, b), block(b, b), Upsample(b, b, 3, padding=1), block(b, b),
            Upsample(b, b, 3, padding=1), block(b, a), group_norm(a), nn.SiLU(), conv(a, C))
        self.apply(initialise)

    def encode(self, x):
        """Return the mean and the log variance of q(z | x), each (B, C_z, H/4, W/4) float32."""
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)     # whose exp is neither 0 nor infinite


def draw_latent(mean, log_variance, generator=None):
    """Draw z ~ N(mean, exp(log_variance)), of the shape of both."""
    return mean + (log_variance / 2).exp() * noise_like(mean, generator)


def autoencoder_loss(autoencoder, x_0, labels=None):
    """Return what the autoencoder minimises, per pixel: a scalar.  Sec. 3.1 and appendix G.

        || x_0 - D(z) ||^2 + KL_WEIGHT KL(q(z | x_0) || N(0, I)),   z ~ q(z | x_0)
    """
    mean, log_variance = autoencoder.encode(x_0)
    error = (autoencoder.decoder(draw_latent(mean, log_variance)) - x_0) ** 2
    divergence = kl(mean, log_variance.exp(), 0, 1)
    return (error.sum() + KL_WEIGHT * divergence.sum()) / x_0.numel()


# ---- diffusion in the latents ----

class LatentDiffusion(nn.Module):
    """An autoencoder, and eps_theta(z_t, t) in its latents.  Sec. 3.2.

    It is a model of the latents: `decode(ddpm.sample(self, (B, C_z, H/4, W/4), clip=False))` are
    images.

    Args:
        autoencoder: Autoencoder, or what has its `encode` and `decoder`.
        unet: called as unet(z_t, t), returns eps_theta.
    """

    def __init__(self, autoencoder, unet):
        super().__init__()
        self.autoencoder, self.unet = autoencoder, unet
        self.register_buffer("scale", torch.ones(()))            # goes into the file with the rest

    @torch.no_grad()
    def rescale(self, x):
        """Set scale = 1 / std of the latents of a batch of images x.  Appendix G."""
        self.scale.copy_(1 / draw_latent(*self.autoencoder.encode(x)).std())

    @torch.no_grad()
    def encode(self, x, generator=None):
        """Return z_0 = scale z, z ~ q(z | x), of images x, (B, C, H, W) in [-1, 1]."""
        return self.scale * draw_latent(*self.autoencoder.encode(x), generator)

    @torch.no_grad()
    def decode(self, z_0):
        """Return the images D(z_0 / scale), (B, C, H, W) float32."""
        return self.autoencoder.decoder(z_0 / self.scale).float()

    def loss(self, ddpm, x_0, *condition):
        """Return L_LDM, Eq. 2: L_simple of the latents of images x_0; the autoencoder is fixed.

        With a condition, that of a U-Net which takes one, it is Eq. 3.
        """
        return ddpm.loss(lambda z_t, t: self(z_t, t, *condition), self.encode(x_0))

    def forward(self, z_t, t, *condition):
        return self.unet(z_t, t, *condition)


# ---- training ----

def network(config):
    """Build all that a file holds: a LatentDiffusion, a U-Net on the pixels, and their process."""
    C, C_z, H = (config[name] for name in ("image_channels", "latent_channels", "image_size"))
    unet = functools.partial(UNet, channels=config["channels"], num_res_blocks=1,
                             attention_resolutions=(8,), dropout=0.0)
    latent = LatentDiffusion(Autoencoder(C, C_z, config["width"]),
                             unet(H // 4, C_z, channel_mults=(1, 2)))
    beta = cosine_beta_schedule(config["T"])[:round(0.96 * config["T"])]     # to alpha_bar = 0.004
    pixel = unet(H, C, channel_mults=(1, 2, 2))
    return nn.ModuleDict({"latent": latent, "pixel": pixel, "ddpm": DDPM(beta)})


def run_train(argv):
    args, path, device = start_fit(argv, __doc__, "latent.pt", 1500,
                                   "in the latents; a fifth for the autoencoder")
    x, labels = data.load("digits", CONFIG["image_size"])
    networks = network(CONFIG).to(device)
    latent, pixel, ddpm = networks.values()

    def on_pixels(model, steps, label):
        return fit(model, lambda model, x_0, labels: ddpm.loss(model, x_0), x, labels, steps, 32,
                   label=label)

    start = time.process_time()                      # other programs may be running
    latent.autoencoder = fit(latent.autoencoder, autoencoder_loss, x, labels,
                             max(1, args.steps // 5), lr=4e-3, label="autoencoder")
    latent.rescale(data.to_model(x[:64]).to(device))
    latent = networks["latent"] = fit(latent, lambda model, x_0, labels: model.loss(ddpm, x_0), x,
                                      labels, args.steps, label="in its latents")
    seconds = time.process_time() - start
    print(f"autoencoder and latents: {seconds:.0f} s, scale {latent.scale:.3f}", flush=True)
    start = time.process_time()
    on_pixels(copy.deepcopy(pixel), 20, "how fast are pixels?")
    steps = max(20, round(20 * seconds / (time.process_time() - start)))
    start = time.process_time()
    networks["pixel"] = on_pixels(pixel, steps, "on the pixels")
    save_fit(path, CONFIG, args.steps, networks)
    print(f"pixels: {steps} steps in {time.process_time() - start:.0f} s\nwrote {path}")


# ---- the program ----

def sample(ddpm, model, shape, clip, seed):
    """Run Algorithm 2 with progress; return x_0, of this shape, and the seconds it took."""
    device, began = ddpm.beta.device, time.monotonic()
    x_T, generator = first_noise(seed, shape, device)
    with autocast(device):
        x_0 = decode(ddpm, model, x_T, ddpm.T, clip, generator)
    x_0.sum().item()                                 # a GPU is waited for
    return x_0, time.monotonic() - began


def main(argv=None):
    parser = flags(__doc__, "latent_diffusion.png", 64, default="the file that ships")
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    latent, pixel, ddpm = networks.values()
    H = config["image_size"]
    x, _ = data.load("digits", H, config["image_channels"], "test")
    x = data.to_model(x[shuffled(len(x), args.seed)[:256]]).to(device)
    z_0, s = latent.encode(x, torch.Generator(device).manual_seed(args.seed)), 1 / latent.scale
    again, net = latent.decode(z_0), load_reader(device)
    print(f"{checkpoint}, T = {ddpm.T}, on {device}\nheld-out digits come back at "
          f"{psnr(again, x).mean():.1f} dB; standard deviation of latents {s * z_0.std():.2f}, "
          f"scaled {z_0.std():.2f}; unscaled, signal to noise is off by {s ** 2:.2f}", flush=True)

    eps_z, eps_x = (recorded(each, device, args.record) for each in (latent, pixel))
    ours, seconds = sample(ddpm, eps_z, (args.n, *z_0.shape[1:]), False, args.seed)
    theirs, longer = sample(ddpm, eps_x, (args.n, *x.shape[1:]), True, args.seed)
    figure, shares = Figure(figsize=(16, 5), layout="constrained"), []
    for axes, (what, image) in zip(figure.subplots(1, 4), {
            "held-out": x, "encoded and decoded": again,
            f"sampled in the latents, {seconds:.1f} s": latent.decode(ours),
            f"sampled as pixels, {longer:.1f} s": theirs}.items(), strict=True):
        shares.append(f"{read(net, image)[0].float().mean():.1%}")
        show(axes, image[:36], title=f"{what}\n{shares[-1]} recognised")
    finish(figure, args.out,
           f"trained for equally long: {shares[2]} of {args.n} samples are recognised, and "
           f"{shares[3]} of those of pixels (held-out {shares[0]}, decoded {shares[1]}); they take "
           f"{seconds:.1f} s and {longer:.1f} s")


if __name__ == "__main__":
    main()
