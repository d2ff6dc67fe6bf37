"""Diffusion in the latents of an autoencoder: pictures of 32 x 32 drawn at 8 x 8.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (LDM,
arXiv:2112.10752), sec. 3 and appendix G.

    python -m papers.latent_diffusion train [--steps 1500]               minutes; writes latent.pt
    python -m papers.latent_diffusion [--checkpoint F] [--n 64]

`train` fits an autoencoder of the rendered digits, a U-Net in its latents, and, for as much
processor time as both took, one on the pixels.  The last command samples from both U-Nets by
Algorithm 2.

There are two traps.  Nothing makes the standard deviation s of latents equal to 1, but a schedule
is made for data of about that size: all signal-to-noise ratios are off by s^2 (`snr`).  So they are
divided by s first.  (Here it happens to be 1.05; of Stable Diffusion's it is 1 / 0.18215 = 5.5.)
And they do not lie in [-1, 1], so that nothing can clip them, and an error in eps_theta grows by
1 / sqrt(alpha_t) in a step: 30 times where the cosine schedule ends.  So its end is left out.

The paper's z is z_0 here, its E and D the encoder and the decoder.  Where the paper has a
perceptual loss and a discriminator, we have squared errors alone; where its schedule is linear,
with T = 1000, ours has 240 steps, so that one can wait for the pixels.
"""
import copy
import time
from collections import deque
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import data
from benchmarks.recognise import read, train_classifier
from ddpm import DDPM
from papers.dps import psnr
from papers.training import ASSETS, fit, load_fit, save_fit
from sample import (Parser, autocast, batch_size, check_writable, file_name, grid, integer,
                    one_line_errors, pick_device, save_figure)
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

        def conv(C_in, C_out):
            return nn.Conv2d(C_in, C_out, 3, padding=1)

        def block(C_in, C_out):
            return ResidualBlock(C_in, C_out, emb_dim=1, dropout=0.0, attention=False)

        a, b = width, 2 * width
        self.encoder = Blocks(conv(C, a), block(a, a), Downsample(a), block(a, b), Downsample(b),
                              block(b, b), group_norm(b), nn.SiLU(), conv(b, 2 * C_z))
        self.decoder = Blocks(conv(C_z, b), block(b, b), Upsample(b), block(b, b), Upsample(b),
                              block(b, a), group_norm(a), nn.SiLU(), conv(a, C))
        self.apply(initialise)

    def encode(self, x):
        """Return the mean and the log variance of q(z | x), each (B, C_z, H/4, W/4) float32."""
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)     # whose exp is neither 0 nor infinite


def draw_latent(mean, log_variance, generator=None):
    """Draw z ~ N(mean, exp(log_variance)), of the shape of both."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (log_variance / 2).exp() * noise


def kl(mean, log_variance):
    """Return KL(N(mean, exp(log_variance)) || N(0, I)), (B,) nats, summed over the latent."""
    return (mean ** 2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2


def autoencoder_loss(autoencoder, x_0, labels=None):
    """Return what the autoencoder minimises, per pixel: a scalar.  Sec. 3.1 and appendix G.

        || x_0 - D(z) ||^2 + KL_WEIGHT KL(q(z | x_0) || N(0, I)),   z ~ q(z | x_0)
    """
    mean, log_variance = autoencoder.encode(x_0)
    error = (autoencoder.decoder(draw_latent(mean, log_variance)) - x_0) ** 2
    return (error.flatten(1).sum(1) + KL_WEIGHT * kl(mean, log_variance)).mean() / x_0[0].numel()


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

    def loss(self, ddpm, x_0):
        """Return L_LDM, Eq. 2: L_simple of the latents of images x_0; the autoencoder is fixed."""
        return ddpm.loss(self.unet, self.encode(x_0))

    def forward(self, z_t, t):
        return self.unet(z_t, t)


def snr(ddpm, s=1.0):
    """Return SNR_t = s^2 alpha_bar_t / (1 - alpha_bar_t), (T + 1,), of data of std s."""
    return s ** 2 * ddpm.alpha_bar / ddpm.one_minus_alpha_bar


# ---- training ----

def network(config):
    """Build all that a file holds: a LatentDiffusion, a U-Net on the pixels, and their process."""
    C, C_z, H = (config[name] for name in ("image_channels", "latent_channels", "image_size"))

    def unet(H, C, channel_mults):
        return UNet(H, C, config["channels"], channel_mults, num_res_blocks=1,
                    attention_resolutions=(8,), dropout=0.0)

    latent = LatentDiffusion(Autoencoder(C, C_z, config["width"]), unet(H // 4, C_z, (1, 2)))
    beta = cosine_beta_schedule(config["T"])[:round(0.96 * config["T"])]     # to alpha_bar = 0.004
    return nn.ModuleDict({"latent": latent, "pixel": unet(H, C, (1, 2, 2)), "ddpm": DDPM(beta)})


def train(args):
    path, device = args.checkpoint or Path("latent.pt"), pick_device(args.device)
    check_writable(path)
    torch.manual_seed(args.seed)
    x, labels = data.load("digits", CONFIG["image_size"])
    networks = network(CONFIG).to(device)
    ddpm, latent, pixel = (networks[name] for name in ("ddpm", "latent", "pixel"))

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
    device, start = ddpm.beta.device, time.monotonic()
    generator = torch.Generator(device).manual_seed(seed)
    x_T = torch.randn(shape, generator=generator, device=device)
    with autocast(device):
        parts = []
        for part in x_T.split(batch_size(shape[-1])):
            process = ddpm.reverse_process(model, part, clip, generator)
            last = deque(data.track(process, f"sampling {shape}, times", ddpm.T + 1), maxlen=1)
            parts.append(last[0][1])                 # x_0; of the rest nothing is kept
        x_0 = torch.cat(parts)
        x_0.sum().item()                             # a GPU is waited for
    return x_0, time.monotonic() - start


def draw_figure(panels):
    """Draw {title: (N, C, H, W)}."""
    figure = Figure(figsize=(4 * len(panels), 5), layout="constrained")
    for axes, (title, x) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(grid(x[:36]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("command", nargs="?", choices=("train",), help="if left out, sample")
    parser.add_argument("--checkpoint", type=file_name(".pt"),
                        help="the networks (the file that ships; of train: latent.pt)")
    parser.add_argument("--steps", type=integer(1), default=1500,
                        help="of train, in the latents; a fifth for the autoencoder (1500)")
    parser.add_argument("--n", type=integer(1), default=64, help="number of samples (64)")
    parser.add_argument("--seed", type=integer(0), default=0, help="fixes the noise (0)")
    parser.add_argument("--device", default="auto", help="cuda, mps, cpu, or auto: the first found")
    parser.add_argument("--out", type=file_name(".png"), default="latent_diffusion.png",
                        help="the figure, a PNG (latent_diffusion.png)")
    args = parser.parse_args(argv)
    with one_line_errors("latent_diffusion.py"):
        (train if args.command else run)(args)


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or SHIPPED
    config, networks = load_fit(checkpoint, device, network)
    ddpm, latent, pixel = (networks[name] for name in ("ddpm", "latent", "pixel"))
    C, C_z, H = (config[name] for name in ("image_channels", "latent_channels", "image_size"))
    check_writable(args.out)
    x, _ = data.load("digits", H, C, "test")
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))[:256]]
    x, s = data.to_model(x).to(device), 1 / latent.scale
    z_0 = latent.encode(x, torch.Generator(device).manual_seed(args.seed))
    again, net = latent.decode(z_0), train_classifier(H, device, epochs=2)[0]
    print(f"{checkpoint}, T = {ddpm.T}, on {device}\nheld-out digits come back at "
          f"{psnr(again, x).mean():.1f} dB; standard deviation of latents {s * z_0.std():.2f}, "
          f"scaled {z_0.std():.2f}; unscaled, signal to noise is off by {s ** 2:.2f}", flush=True)

    ours, seconds = sample(ddpm, latent, (args.n, C_z, H // 4, H // 4), False, args.seed)
    theirs, longer = sample(ddpm, pixel, (args.n, C, H, H), True, args.seed)
    panels, shares = {}, []
    for what, image in {"held-out": x, "encoded and decoded": again,
                        f"sampled in the latents, {seconds:.1f} s": latent.decode(ours),
                        f"sampled as pixels, {longer:.1f} s": theirs}.items():
        shares.append(f"{read(net, image)[0].float().mean():.1%}")
        panels[f"{what}\n{shares[-1]} recognised"] = image
    save_figure(draw_figure(panels), args.out)
    print(f"trained for equally long: {shares[2]} of {args.n} samples are recognised, and "
          f"{shares[3]} of those of pixels (held-out {shares[0]}, decoded {shares[1]}); they take "
          f"{seconds:.1f} s and {longer:.1f} s\nwrote {args.out}")


if __name__ == "__main__":
    main()
