"""Networks in the format of diffusers: the same function, or a refusal.

The proof against diffusers itself runs where that package is installed and is skipped elsewhere;
the rest writes the two formats by hand.
"""
import functools
import json
import os
import pickle
import struct

import pytest
import torch
from stand_ins import refused

import sample
from papers import pretrained, variational_bound
from papers.pretrained import OURS, PROCESS, convert, count_from_1
from plumbing import checkpoint
from unet import UNet, timestep_embedding

CONFIG = {"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 1, "out_channels": 1,
          "block_out_channels": [64, 128], "layers_per_block": 1, "dropout": 0.25,
          "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
          "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 32,
          "norm_eps": 1e-6, "attention_head_dim": None, "freq_shift": 1, "flip_sin_to_cos": False,
          "downsample_padding": 0}
CIFAR10 = {"sample_size": 32, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2,
           "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
           "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
           "norm_eps": 1e-6, "attention_head_dim": None, "freq_shift": 1,
           "flip_sin_to_cos": False, "downsample_padding": 0}

# The layers of a network of this CONFIG: theirs beside ours.
RESNET = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "emb", "norm2": "norm2",
          "conv2": "conv2", "conv_shortcut": "shortcut"}
BLOCKS = {"down_blocks.0.resnets.0": "down.0", "down_blocks.1.resnets.0": "down.2",
          "mid_block.resnets.0": "mid.0", "mid_block.resnets.1": "mid.1",
          "up_blocks.0.resnets.0": "up.0", "up_blocks.0.resnets.1": "up.1",
          "up_blocks.1.resnets.0": "up.3", "up_blocks.1.resnets.1": "up.4"}
ATTENTIONS = {"down_blocks.1.attentions.0": "down.2", "mid_block.attentions.0": "mid.0",
              "up_blocks.0.attentions.0": "up.0", "up_blocks.0.attentions.1": "up.1"}
REST = {"conv_in": "conv_in", "time_embedding.linear_1": "emb.0", "conv_out": "conv_out",
        "time_embedding.linear_2": "emb.2", "conv_norm_out": "norm_out",
        "down_blocks.0.downsamplers.0.conv": "down.1", "up_blocks.0.upsamplers.0.conv": "up.2"}


@functools.cache
def random_unet():
    """The network of CONFIG with no weight at 0 or 1, through which signals keep their size.

    Made once: no test changes it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(16, 1, 64, (1, 2), 1, (8,), dropout=0.25).eval()
        for name, weight in unet.named_parameters():
            if weight.dim() == 1:
                torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.2)
            else:
                gain = 3 if "qkv" in name else 1
                torch.nn.init.normal_(weight, std=gain * weight[0].numel() ** -0.5)
    return unet.requires_grad_(False)


def their_tensors(unet):
    """The same weights under the names of diffusers."""
    ours, theirs = dict(unet.named_parameters()), {}
    for kind in ("weight", "bias"):
        for name, block in BLOCKS.items():
            theirs.update({f"{name}.{part}.{kind}": ours.pop(f"{block}.{same}.{kind}")
                           for part, same in RESNET.items() if f"{block}.{same}.{kind}" in ours})
        for name, block in ATTENTIONS.items():
            qkv = ours.pop(f"{block}.attention.qkv.{kind}").flatten(1 if kind == "weight" else 0)
            for part, tensor in zip(("to_q", "to_k", "to_v"), qkv.chunk(3), strict=True):
                theirs[f"{name}.{part}.{kind}"] = tensor
            proj = ours.pop(f"{block}.attention.proj.{kind}")
            theirs[f"{name}.to_out.0.{kind}"] = proj.flatten(1) if kind == "weight" else proj
            theirs[f"{name}.group_norm.{kind}"] = ours.pop(f"{block}.attention.norm.{kind}")
        theirs.update({f"{name}.{kind}": ours.pop(f"{same}.{kind}") for name, same in REST.items()})
    assert not ours
    return {name: tensor.detach().clone() for name, tensor in theirs.items()}


def write_safetensors(tensors, path):
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
             torch.float64: "F64"}
    header, parts, start = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        parts.append(tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes())
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [start, start + len(parts[-1])]}
        start += len(parts[-1])
    header = json.dumps(header).encode()
    path.write_bytes(b"".join([struct.pack("<Q", len(header)), header, *parts]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of random_unet, to be linked to and not to be written."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(their_tensors(random_unet()), path)
    return path


@pytest.fixture
def folder(weights, tmp_path, monkeypatch):
    """A function that writes a folder, with some settings changed, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def make(tensors=None, scheduler=None, name="diffusion_pytorch_model.safetensors", **changes):
        tmp_path.joinpath("config.json").write_text(json.dumps({**CONFIG, **changes}))
        if scheduler is not None:
            tmp_path.joinpath("scheduler_config.json").write_text(json.dumps(scheduler))
        (tmp_path / name).unlink(missing_ok=True)
        if tensors is None and name.endswith("safetensors"):
            os.link(weights, tmp_path / name)
        else:
            write = write_safetensors if name.endswith("safetensors") else torch.save
            write(their_tensors(random_unet()) if tensors is None else tensors, tmp_path / name)
        return tmp_path
    return make


def rebuilt(content):
    _, unet = sample.build(content["config"])
    unet.load_state_dict(content["ema"])
    return unet.eval()


# ---- without diffusers ----

@pytest.mark.parametrize("dim", [4, 5, 64, 128])
def test_rotated_weights_read_t_as_the_old_ones_read_t_minus_1(dim):
    weight = torch.randn(7, dim)
    t = torch.tensor([1, 2, 500, 1000])
    torch.testing.assert_close(timestep_embedding(t, dim) @ count_from_1(weight).T,
                               timestep_embedding(t - 1, dim) @ weight.T, rtol=0, atol=5e-4)
    angle = torch.arange(1, 4)[:, None] / 10_000 ** torch.linspace(0, 1, dim // 2,
                                                                   dtype=torch.float64)
    before = torch.cat([(angle - angle[0]).sin(), (angle - angle[0]).cos()], 1)
    after = torch.cat([angle.sin(), angle.cos()], 1)
    used = 2 * (dim // 2)
    torch.testing.assert_close(after @ count_from_1(weight).double()[:, :used].T,
                               before @ weight.double()[:, :used].T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors",
                                  "diffusion_pytorch_model.bin"])
def test_the_network_called_with_t_is_theirs_called_with_t_minus_1(folder, name):
    unet, x_t = random_unet(), torch.randn(3, 1, 16, 16)
    ours = rebuilt(convert(folder(their_tensors(unet), name=name)))
    for t in (torch.tensor([1, 2, 3]), torch.tensor([999, 1000, 100])):
        theirs = unet(x_t, t - 1)
        torch.testing.assert_close(ours(x_t, t), theirs, rtol=0, atol=1e-4)
        assert (ours(x_t, t) - unet(x_t, t)).abs().max() > 1e-3            # the shift is seen


def test_each_tensor_gets_to_its_place_and_every_place_matters(folder):
    unet, x_t, t = random_unet(), torch.randn(2, 1, 16, 16), torch.tensor([1, 500])
    tensors = their_tensors(unet)
    ema, q = convert(folder(tensors))["ema"], "mid_block.attentions.0.to_q.weight"
    assert all(torch.equal(ema[name], weight) for name, weight in unet.state_dict().items()
               if name != "emb.0.weight")
    k = q.replace("to_q", "to_k")
    swapped = {**tensors, q: tensors[k], k: tensors[q]}
    with torch.no_grad():
        outputs = [rebuilt(convert(folder(weights)))(x_t, t) for weights in (tensors, swapped)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3         # so that the test above sees it


def test_the_names_that_diffusers_had_first_are_known(folder):
    tensors = their_tensors(random_unet())
    expected = convert(folder(tensors))["ema"]
    for name in list(tensors):
        former = name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
        tensors[former.replace("to_out.0", "proj_attn")] = tensors.pop(name)
    assert any("proj_attn" in name for name in tensors)
    ema = convert(folder(tensors))["ema"]
    assert all(torch.equal(ema[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_precision_become_float32(folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in their_tensors(random_unet()).items()}
    ema = convert(folder(tensors))["ema"]
    assert all(tensor.dtype == torch.float32 for tensor in ema.values())
    assert torch.equal(ema["conv_in.weight"], tensors["conv_in.weight"].float())


def test_a_pipeline_keeps_its_network_in_a_folder_of_its_own(folder, tmp_path):
    path = folder()
    (path / "unet").mkdir()
    (path / "scheduler").mkdir()
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        os.rename(path / file, path / "unet" / file)
    (path / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": 500}')
    assert convert(path)["config"]["T"] == 500


@pytest.mark.parametrize("scheduler, expected", [
    (None, (1000, "linear", "beta")), ({}, (1000, "linear", "beta_tilde")),
    ({"variance_type": "fixed_large"}, (1000, "linear", "beta")),
    ({"variance_type": "fixed_small", "num_train_timesteps": 600}, (600, "linear", "beta_tilde")),
    ({"beta_schedule": "squaredcos_cap_v2", "beta_end": 0.5}, (1000, "cosine", "beta_tilde"))])
def test_the_process_is_the_papers_unless_the_scheduler_says_otherwise(folder, tmp_path,
                                                                       scheduler, expected):
    config = convert(folder(scheduler=scheduler), "my/images")["config"]
    assert (config["T"], config["schedule"], config["variance"]) == expected
    assert (config["data"], config["dropout"]) == ("my/images", 0.25)
    assert convert(tmp_path)["config"]["data"] == tmp_path.name
    assert config["channel_mults"] == [1, 2] and config["attention_resolutions"] == [8]


def test_the_result_is_a_checkpoint_like_any_other(folder, tmp_path, capsys):
    path = folder(scheduler={"num_train_timesteps": 3, "beta_schedule": "squaredcos_cap_v2"})
    out = tmp_path / "new" / "authors.pt"
    pretrained.main([str(path), "--out", str(out), "--data", "digits"])
    assert f"wrote {out}" in capsys.readouterr().out
    sample.main(["--checkpoint", str(out), "--n", "1", "--out", str(tmp_path / "s.png")])
    variational_bound.main(["--checkpoint", str(out), "--n", "2", "--out", str(tmp_path / "b.png")])
    assert (tmp_path / "s.png").exists() and (tmp_path / "b.png").exists()


@pytest.mark.parametrize("key", OURS)
def test_every_setting_that_ours_does_not_have_is_refused(folder, capsys, key):
    other = {"freq_shift": 0, "time_embedding_dim": 512, "norm_eps": 1e-5, "downsample_padding": 1,
             "attn_norm_num_groups": 16, "attention_head_dim": 8, "mid_block_scale_factor": 2,
             "num_class_embeds": 10}
    value = other.get(key, not OURS[key] if isinstance(OURS[key], bool) else "other")
    refused(capsys, [folder(**{key: value})], f"{key} is {value!r}", main=pretrained.main)


@pytest.mark.parametrize("changes, word", [
    ({"norm_num_groups": 16}, "norm_num_groups is 16"), ({"out_channels": 2}, "epsilon"),
    ({"block_out_channels": [64, 96]}, "multiples"), ({"block_out_channels": []}, "UNet2DModel"),
    ({"block_out_channels": [64, 64]}, "shape"), ({"layers_per_block": 2}, "there is no"),
    ({"down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D"]}, "levels"),
    ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "levels"),
    ({"sample_size": 15}, "--image-size"),
    ({"sample_size": None}, "UNet2DModel"), ({"layers_per_block": 1.0}, "--num-res-blocks"),
    ({"block_out_channels": [64.0, 128.0]}, "--channels"), ({"in_channels": 2}, "epsilon"),
    ({"in_channels": 2, "out_channels": 2}, "image-channels")])
def test_a_network_that_ours_cannot_be_is_refused(folder, tmp_path, capsys, changes, word):
    refused(capsys, [folder(**changes), "--out", tmp_path / "o.pt"], word, main=pretrained.main)
    assert not (tmp_path / "o.pt").exists()


@pytest.mark.parametrize("key, word", [
    ("freq_shift", "is 0"), ("flip_sin_to_cos", "is True"), ("attention_head_dim", "is 8"),
    ("norm_eps", "is 1e-05"), ("downsample_padding", "is 1"), ("layers_per_block", "there is no")])
def test_where_a_config_is_silent_it_means_what_diffusers_takes_then(folder, capsys, key, word):
    path = folder()
    config = json.loads((path / "config.json").read_text())
    del config[key]
    (path / "config.json").write_text(json.dumps(config))
    refused(capsys, [path], word, main=pretrained.main)


@pytest.mark.parametrize("key", PROCESS)
def test_every_process_that_ours_is_not_is_refused(folder, capsys, key):
    other = {"clip_sample_range": 3.0, "trained_betas": [0.1, 0.2]}
    value = other.get(key, not PROCESS[key] if isinstance(PROCESS[key], bool) else "other")
    scheduler = {"beta_schedule": "squaredcos_cap_v2", key: value}
    refused(capsys, [folder(scheduler=scheduler)], f"{key} is {value!r}", main=pretrained.main)


@pytest.mark.parametrize("scheduler, word", [
    ({"beta_schedule": "scaled_linear"}, "scaled_linear"), ({"beta_end": 0.012}, "0.012"),
    ({"beta_start": 1e-3}, "0.001"), ({"variance_type": "learned"}, "learned"),
    ({"num_train_timesteps": 10.5}, "--T"), ({"num_train_timesteps": 0}, "--T")])
def test_a_schedule_that_ours_does_not_have_is_refused(folder, capsys, scheduler, word):
    refused(capsys, [folder(scheduler=scheduler)], word, main=pretrained.main)


def test_every_tensor_is_used_and_none_is_missing(folder, capsys):
    tensors = their_tensors(random_unet())
    extra = {**tensors, "mid_block.extra.weight": torch.zeros(1)}
    refused(capsys, [folder(extra)], "no place here for mid_block.extra", main=pretrained.main)
    for name in ("mid_block.attentions.0.to_k.bias", "up_blocks.1.resnets.0.conv_shortcut.weight"):
        fewer = {key: tensor for key, tensor in tensors.items() if key != name}
        refused(capsys, [folder(fewer)], name.rsplit(".", 1)[0], main=pretrained.main)
    q, k = (f"mid_block.attentions.0.to_{x}.weight" for x in "qk")
    nan = tensors["conv_in.bias"].clone()
    nan[3] = torch.nan
    for change, words in (
            ({"conv_in.weight": tensors["conv_in.weight"].transpose(0, 1)}, "conv_in.weight has"),
            ({q: tensors[q][:9], k: torch.cat([tensors[k], tensors[q][9:]])}, "to_q.weight has"),
            ({q: tensors[q][:, :64]}, "to_q.weight has"), ({q: torch.tensor(1.0)}, "has the shape"),
            ({q.replace("to_q", "query"): tensors[q]}, "is there twice"),
            ({"conv_in.bias": nan}, "conv_in.bias is not finite")):
        refused(capsys, [folder({**tensors, **change})], words, main=pretrained.main)
    path = folder({**tensors, 3: torch.zeros(2).long()}, name="diffusion_pytorch_model.bin")
    (path / "diffusion_pytorch_model.safetensors").unlink()
    refused(capsys, [path], "no place here for 3", main=pretrained.main)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_file_cut_short_is_refused(folder, capsys, keep):
    path = folder() / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()[:keep]
    path.unlink()                                    # a link to what other tests read
    path.write_bytes(content)
    refused(capsys, [path.parent], "not a whole file of weights", main=pretrained.main)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(folder, tmp_path, capsys):
    path = folder(name="diffusion_pytorch_model.bin")
    (path / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload(str(path / "harm"))))
    refused(capsys, [path], "not a whole file", main=pretrained.main)
    assert not (path / "harm").exists()


def test_missing_and_broken_files_are_one_line(folder, tmp_path, capsys):
    refused(capsys, [tmp_path / "nowhere"], "config.json", code=1, main=pretrained.main)
    path = folder()
    (path / "diffusion_pytorch_model.safetensors").unlink()
    refused(capsys, [path], "no diffusion_pytorch_model, .saf", code=1, main=pretrained.main)
    refused(capsys, [path, "--out", "weights.txt"], "ends in .pt", main=pretrained.main)
    for content, word in (("{", "not JSON"), ("[]", "no settings"), ("{}", "freq_shift")):
        (path / "config.json").write_text(content)
        refused(capsys, [path], word, main=pretrained.main)


# ---- with diffusers ----

SMALL = {"sample_size": 16, "block_out_channels": (64, 128), "layers_per_block": 1,
         "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)


@pytest.mark.parametrize("size, changes", [
    (16, SMALL), thorough(32, {}),
    thorough(32, {"in_channels": 1, "out_channels": 1, "layers_per_block": 1}),
    thorough(64, {"sample_size": 64, "block_out_channels": (64, 64, 128, 128, 256, 256),   # LSUN's
                  "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
                  "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4})],
    ids=["small", "cifar10", "grey", "lsun"])
def test_a_network_of_diffusers_gives_the_same_output(tmp_path, size, changes):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(**{**CIFAR10, **changes}).eval()
    theirs.save_pretrained(tmp_path)
    if not changes:
        assert sum(weight.numel() for weight in theirs.parameters()) == 35_746_307
    content = convert(tmp_path)
    assert (content["config"]["data"] == "cifar10") == (size == 32)
    ours = rebuilt(content)
    x_t = torch.randn(2, theirs.config.in_channels, size, size)
    with torch.no_grad():
        for t in (1, 2, 10, 500, 1000):
            expected = theirs(x_t, t - 1).sample
            assert expected.std() > 0.1
            torch.testing.assert_close(ours(x_t, torch.full((2,), t)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("start, steps, variance, name, changes, atol", [
    (1000, 3, "beta", "fixed_large", SMALL, 1e-4),
    (4, 4, "beta_tilde", "fixed_small", SMALL, 1e-3),
    thorough(1000, 20, "beta", "fixed_large", {}, 1e-4),
    thorough(1000, 20, "beta_tilde", "fixed_small", SMALL, 1e-4),
    thorough(20, 20, "beta", "fixed_large", SMALL, 1e-3),
    thorough(20, 20, "beta_tilde", "fixed_small", SMALL, 1e-3)],
    ids=["first", "last", "cifar10", "first of beta_tilde", "last of beta", "last of beta_tilde"])
def test_ancestral_sampling_agrees_with_that_of_diffusers(tmp_path, start, steps, variance, name,
                                                          changes, atol):
    """Less so in the last steps, where diffusers takes 1 - alpha_bar_t in float32: 1.7e-4 off."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(**{**CIFAR10, **changes}).eval()
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(variance_type=name))
    pipeline.save_pretrained(tmp_path)
    checkpoint.write_checkpoint(convert(tmp_path), tmp_path / "authors.pt")
    _, ddpm, model = sample.load(tmp_path / "authors.pt")
    torch.testing.assert_close(ddpm.sigma, getattr(ddpm, variance).sqrt())
    ours = expected = torch.randn(2, 3, unet.config.sample_size, unet.config.sample_size)
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    with torch.no_grad():
        for t in range(start, start - steps, -1):
            ours = ddpm.p_sample(model, ours, t, generator=one)
            expected = pipeline.scheduler.step(unet(expected, t - 1).sample, t - 1, expected,
                                               generator=two).prev_sample
            torch.testing.assert_close(ours, expected, rtol=0, atol=atol)
