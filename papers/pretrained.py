"""The authors' own networks: turn one in the format of diffusers into a checkpoint of ours.

Ho et al. 2020, appendix B: CIFAR-10 at 32 x 32 (35.7 million weights), LSUN and CelebA-HQ at
256 x 256 (114 million).

    python -m papers.pretrained FOLDER --out authors.pt
    python sample.py --checkpoint authors.pt

FOLDER is a copy of such a repository as google/ddpm-cifar10-32 or google/ddpm-ema-bedroom-256 on
the Hugging Face hub: config.json, diffusion_pytorch_model.safetensors or .bin, and, if it is there,
scheduler_config.json, without which the process is the paper's.  The network is the same function
of x_t and t to rounding (tested); what differs is its layout, where q, k and v are one layer, and
the time.  Their t counts from 0, ours from 1, and the weights that read it are rotated so that our
network called with t is theirs called with t - 1.  What ours cannot be is refused.
"""
import json
import math
import warnings
from pathlib import Path

import torch
from torch import nn

from papers.kit.program import program
from plumbing.checkpoint import write_checkpoint
from plumbing.cli import Parser, file_name
from sample import build
from train import preset
from unet import ResidualBlock, timestep_embedding

# What our network is, and where diffusers differs from that as long as config.json is silent.
OURS = {"time_embedding_type": "positional", "freq_shift": 1, "flip_sin_to_cos": False,
        "time_embedding_dim": None, "center_input_sample": False, "act_fn": "silu",
        "norm_eps": 1e-6, "attn_norm_num_groups": None, "attention_head_dim": None,
        "resnet_time_scale_shift": "default", "downsample_padding": 0, "downsample_type": "conv",
        "upsample_type": "conv", "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1,
        "add_attention": True, "class_embed_type": None, "num_class_embeds": None}
SILENT = {**OURS, "freq_shift": 0, "flip_sin_to_cos": True, "norm_eps": 1e-5,
          "attention_head_dim": 8, "downsample_padding": 1, "layers_per_block": 2,
          "norm_num_groups": 32, "in_channels": 3, "out_channels": 3, "dropout": 0.0}
# The same for the process, in scheduler_config.json.
PROCESS = {"_class_name": "DDPMScheduler", "prediction_type": "epsilon", "trained_betas": None,
           "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False,
           "rescale_betas_zero_snr": False}
SILENT_PROCESS = {**PROCESS, "num_train_timesteps": 1000, "beta_schedule": "linear",
                  "beta_start": 1e-4, "beta_end": 0.02, "variance_type": "fixed_small"}
# Ho et al. 2020, sec. 4, with the variance that the authors' CIFAR-10 script takes.
PAPERS_PROCESS = {**SILENT_PROCESS, "variance_type": "fixed_large"}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
VARIANCES = {"fixed_large": "beta", "fixed_small": "beta_tilde"}
TOP = {"emb.0": "time_embedding.linear_1", "emb.2": "time_embedding.linear_2",
       "conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
PARTS = {"norm1": "resnets.{}.norm1", "conv1": "resnets.{}.conv1", "norm2": "resnets.{}.norm2",
         "emb": "resnets.{}.time_emb_proj", "conv2": "resnets.{}.conv2",
         "shortcut": "resnets.{}.conv_shortcut", "attention.norm": "attentions.{}.group_norm",
         "attention.qkv": "attentions.{}.to_q attentions.{}.to_k attentions.{}.to_v",
         "attention.proj": "attentions.{}.to_out.0"}
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def convert(folder, dataset=None):
    """Read a network in the format of diffusers, and return it as the content of a checkpoint.

    What the config says of the training (steps, batch_size, lr, ...) is that of our preset cifar10.

    Args:
        folder: path of config.json and its weights, or of a pipeline with them in unet/.
        dataset: what the checkpoint is to name as its data; None is cifar10 for a network of 32 x
            32, else the name of the folder.

    Returns:
        dict of config, step and ema, as `sample.load` takes it from a file.

    Raises:
        ValueError: a file is damaged, or the network or the process is not one that ours can be.
        OSError: a file is missing.
    """
    folder = Path(folder).resolve()
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    network, process = {**SILENT, **read_json(unet_folder / "config.json")}, PAPERS_PROCESS
    for path in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"):
        if path.is_file():
            process = {**SILENT_PROCESS, **read_json(path)}
    for settings, ours in ((network, OURS), (process, PROCESS)):
        for key, value in ours.items():
            require(settings[key] == value, f"{key} is {settings[key]!r}, and here {value!r}")
    dataset = dataset or ("cifar10" if network.get("sample_size") == 32 else folder.name)
    try:
        config = make_config(network, process, dataset)
        _, unet = build(config)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{folder} holds no settings of a UNet2DModel: {error!r}") from error
    groups = {module.num_groups for module in unet.modules() if isinstance(module, nn.GroupNorm)}
    require(groups == {network["norm_num_groups"]},
            f"norm_num_groups is {network['norm_num_groups']}, and here {groups}")
    return {"config": config, "step": 0, "ema": translate(read_weights(unet_folder), unet)}


def make_config(network, process, dataset):
    """Return a config of ours, a dict, that says what config.json and scheduler_config.json say."""
    size, widths = network["sample_size"], network["block_out_channels"]
    down, up = network["down_block_types"], network["up_block_types"]
    levels = ["Attn" in name for name in down]
    require(down == [f"{'Attn' * attention}DownBlock2D" for attention in levels]
            and up == [f"{'Attn' * attention}UpBlock2D" for attention in reversed(levels)],
            f"the levels of {down} and {up} are not those of our network")
    mults = [width // widths[0] for width in widths]
    require(widths == [mult * widths[0] for mult in mults],
            f"block_out_channels {widths} are not multiples of the first")
    require(network["in_channels"] == network["out_channels"], "it does not predict epsilon alone")

    schedule, variance = process["beta_schedule"], process["variance_type"]
    require(schedule in SCHEDULES, f"there is no beta_schedule {schedule!r} here")
    require(schedule != "linear" or (process["beta_start"], process["beta_end"]) == (1e-4, 0.02),
            f"beta runs from {process['beta_start']} to {process['beta_end']}")
    require(variance in VARIANCES, f"there is no variance_type {variance!r} here")
    config = preset(
        "cifar10", data=dataset, image_size=size, image_channels=network["in_channels"],
        channels=widths[0], channel_mults=mults, num_res_blocks=network["layers_per_block"],
        attention_resolutions=[size // 2 ** i for i, on in enumerate(levels) if on],
        dropout=network["dropout"], T=process["num_train_timesteps"],
        schedule=SCHEDULES[schedule], variance=VARIANCES[variance])
    return json.loads(json.dumps(vars(config)))    # lists for tuples, as every checkpoint has it


def translate(theirs, unet):
    """Return the state dict of `unet` made of their {name: tensor}: each used, and none missing."""
    tensors = {}
    for name, tensor in theirs.items():
        for former, now in FORMER.items():
            name = name.replace(former, now)
        require(name not in tensors, f"{name} is there twice")
        require(tensor.isfinite().all(), f"{name} is not finite")
        tensors[name] = tensor.float()
    ours = {}
    for layer, names in layers(unet):
        for kind in ("weight", "bias"):
            old, parts = unet.get_parameter(f"{layer}.{kind}"), []
            for name in names:
                name = f"{name}.{kind}"
                require(name in tensors, f"there is no {name} in the file")
                part = tensors.pop(name)
                shape = old.shape[0] // len(names), *old.shape[1:]
                require(part.shape in (shape, shape[:2]) and part.numel() == math.prod(shape),
                        f"{name} has the shape {tuple(part.shape)}")
                parts.append(part.reshape(shape))                # a Linear is a 1 x 1 convolution
            ours[f"{layer}.{kind}"] = torch.cat(parts)
    require(not tensors, f"there is no place here for {', '.join(sorted(tensors)[:3])}")
    return {**ours, "emb.0.weight": count_from_1(ours["emb.0.weight"])}


def layers(unet):
    """Yield the name of each layer of ours that has weights, and the list of their names for it."""
    weights = dict(unet.named_parameters())
    blocks = [(f"mid.{i}", "mid_block", i) for i in range(len(unet.mid))]
    for side in ("down", "up"):
        level = j = 0
        for i, block in enumerate(getattr(unet, side)):
            if isinstance(block, ResidualBlock):
                blocks.append((f"{side}.{i}", f"{side}_blocks.{level}", j))
                j += 1
            else:
                yield f"{side}.{i}", [f"{side}_blocks.{level}.{side}samplers.0.conv"]
                level, j = level + 1, 0
    for ours, theirs, j in blocks:
        for part, names in PARTS.items():
            if f"{ours}.{part}.weight" in weights:
                yield f"{ours}.{part}", [f"{theirs}.{name.format(j)}" for name in names.split()]
    yield from ((ours, [theirs]) for ours, theirs in TOP.items())


def count_from_1(weight):
    """Return W with W emb(t) = weight emb(t - 1) for every t.

    The embedding has sin(t w_i) and cos(t w_i), see unet.timestep_embedding.  A shift of t rotates
    each such pair by the angle w_i:

        sin((t - 1) w) = cos(w) sin(t w) - sin(w) cos(t w)
        cos((t - 1) w) = sin(w) sin(t w) + cos(w) cos(t w)

    Args:
        weight: (C_out, C) of the layer that reads the embedding.

    Returns:
        (C_out, C) float32.
    """
    n = weight.shape[1] // 2
    W, emb = weight.double(), timestep_embedding(torch.ones(1), weight.shape[1])[0].double()
    sin, cos = emb[:n], emb[n:2 * n]                                 # of w_i: the embedding of 1
    of_sin, of_cos = W[:, :n], W[:, n:2 * n]
    return torch.cat([of_sin * cos + of_cos * sin, of_cos * cos - of_sin * sin, W[:, 2 * n:]],
                     dim=1).float()


def require(condition, message):
    if not condition:
        raise ValueError(f"this network cannot be loaded: {message}")


def read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    require(isinstance(content, dict), f"{path} holds no settings")
    return content


def read_weights(folder):
    """Return {name: tensor} of the file of weights in a folder."""
    path = folder / "diffusion_pytorch_model.safetensors"
    path = path if path.is_file() else path.with_suffix(".bin")
    if not path.is_file():
        raise OSError(f"there is no {path.stem}, .safetensors or .bin, in {folder}")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path.read_bytes())
        with open(path, "rb") as f, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.load(f, map_location="cpu", weights_only=True)
        return {str(name): tensor.detach() for name, tensor in theirs.items()}
    except OSError:
        raise
    except Exception as error:                       # a damaged or hostile file raises anything
        raise ValueError(f"{path} is not a whole file of weights (a tiny one is a pointer of "
                         "git-lfs: git lfs pull fetches the file)") from error


def read_safetensors(content):
    """Read the format safetensors: the length of a header in 8 bytes, the header in JSON, the data.

    Each entry of the header has a dtype, a shape, and two offsets into the data.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(bytearray(content[first:last]), dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def run(args):
    write_checkpoint(convert(args.folder, args.data), args.out)
    print(f"wrote {args.out}; now: python sample.py --checkpoint {args.out}")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="config.json and weights")
    parser.add_argument("--out", type=file_name(".pt"), default="authors.pt", help="(authors.pt)")
    parser.add_argument("--data", help="its data (cifar10 if it is for 32 x 32, else FOLDER)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
