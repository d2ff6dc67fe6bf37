"""Sampling: a checkpoint is enough, pictures are exact, bad files are refused and not run."""
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import refused

import data
import sample
import train
from ddpm import DDPM
from plumbing.checkpoint import read_checkpoint, write_checkpoint
from plumbing.pictures import grid
from schedules import cosine_beta_schedule
from train import Config
from unet import UNet


def zero(x_t, t):
    return torch.zeros_like(x_t)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- checkpoints ----

def test_load_rebuilds_everything_from_the_file_alone(trained):
    path, ema = trained
    config, ddpm, model = sample.load(path)
    assert (config["T"], config["schedule"]) == (5, "cosine")
    expected = DDPM(cosine_beta_schedule(5), "beta_tilde")
    for name, value in expected.named_buffers():
        assert torch.equal(getattr(ddpm, name), value)
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 5])
    for name, weight in ema.state_dict().items():               # moved, and not computed
        assert torch.equal(model.state_dict()[name], weight)
    torch.testing.assert_close(model(x_t, t), ema(x_t, t))
    assert model(x_t, t).abs().max() > 0.01
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    raw = torch.load(path, weights_only=True)["model"]
    assert not torch.equal(raw["conv_out.weight"], model.conv_out.weight)   # the EMA, not these


def test_load_fills_a_network_that_is_handed_over(trained):
    path, ema = trained
    mine = UNet(8, 1, 4, (1, 2), 1, (4,))
    _, _, model = sample.load(path, model=mine)
    assert model is mine and torch.equal(mine.conv_out.weight, ema.conv_out.weight)
    with pytest.raises(ValueError, match="do not fit"):
        sample.load(path, model=UNet(8, 3, 4, (1, 2), 1, (4,)))


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("content", ["nothing", "text", "half", "pickle", "torch pickle", "other",
                                     "list"])
def test_a_file_that_is_no_checkpoint_is_refused_and_not_run(trained, tmp_path, monkeypatch, capsys,
                                                           content):
    monkeypatch.chdir(tmp_path)
    whole, path = trained[0].read_bytes(), tmp_path / "bad.pt"
    path.write_bytes({"nothing": b"", "text": b"hello", "half": whole[:len(whole) // 2],
                      "pickle": pickle.dumps(Payload())}.get(content, b""))
    made = {"torch pickle": {"config": Payload(), "step": 1, "ema": {}}, "list": [1, 2],
            "other": {"state_dict": {"w": torch.zeros(2)}}}
    if content in made:
        torch.save(made[content], path)
    refused(capsys, ["--checkpoint", path], "bad.pt is not a whole checkpoint", main=sample.main)
    assert not Path("executed").exists() and not Path("samples.png").exists()
    run = tmp_path / "r"
    run.mkdir()
    (run / "checkpoint.pt").write_bytes(path.read_bytes())
    refused(capsys, ["--resume", "--out", run], "checkpoint.pt is not a whole checkpoint")


@pytest.mark.parametrize("change, words", [
    ({"channels": 8}, "do not fit"), ({"schedule": "sigmoid"}, "no schedule 'sigmoid'"),
    ({"channels": None}, "do not fit"), ({"T": 0}, "at least 1")])
def test_a_config_that_does_not_fit_its_weights_is_refused(trained, capsys, change, words):
    content = torch.load(trained[0], weights_only=True)
    content["config"].update(change)
    torch.save(content, trained[0])
    refused(capsys, ["--checkpoint", trained[0]], words, main=sample.main)


def test_a_checkpoint_for_sampling_only_samples_but_does_not_resume(trained, capsys, config):
    content = torch.load(trained[0], weights_only=True)
    torch.save({key: content[key] for key in ("config", "step", "ema")}, trained[0])
    assert sample.load(trained[0])[0] == content["config"]
    refused(capsys, ["--resume", "--out", config().out], "for sampling only")
    content["config"]["from_the_future"] = 1
    torch.save(content, trained[0])
    refused(capsys, ["--resume", "--out", config().out], "another version")


# ---- Algorithm 2 ----

def test_draw_is_algorithm_2_with_noise_of_its_own():
    ddpm, state = DDPM(cosine_beta_schedule(20)), torch.get_rng_state()
    x_0 = sample.draw(ddpm, zero, (2, 1, 4, 4), noise(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x_0, ddpm.sample(zero, (2, 1, 4, 4), generator=noise(3)))
    assert not torch.equal(x_0, sample.draw(ddpm, zero, (2, 1, 4, 4), noise(4)))


@pytest.mark.parametrize("T, expected", [(200, 51), (20, 21), (130, 45), (1, 2)])
def test_frames_show_the_whole_way(T, expected):
    ddpm, frames = DDPM(cosine_beta_schedule(T)), []
    x_0 = sample.draw(ddpm, zero, (70, 1, 1, 1), noise(), frames=frames)
    assert len(frames) == expected
    x_T = torch.randn((70, 1, 1, 1), generator=noise())
    x_T, x_0 = data.to_uint8(x_T[:64]), data.to_uint8(x_0[:64])
    assert torch.equal(frames[0][0], x_T)
    assert torch.equal(frames[-1][0], x_0) and torch.equal(frames[-1][1], x_0)


def test_draw_stops_when_told(capsys):
    asked = []

    def model(x_t, t):
        asked.append(t)
        return zero(x_t, t)

    ddpm = DDPM(cosine_beta_schedule(20))
    assert sample.draw(ddpm, model, (1, 1, 2, 2), noise(), stop=[15]) is None
    assert len(asked) == 1


def test_many_images_come_in_batches_of_bounded_size_and_none_twice(monkeypatch):
    ddpm, config = DDPM(cosine_beta_schedule(3)), {"image_channels": 1, "image_size": 4}
    frames = []
    starts, xs = zip(*sample.batches(ddpm, zero, config, 300, 0, frames), strict=True)
    assert starts == (0, 256)
    assert len(frames) == 4 and torch.equal(frames[-1][0], data.to_uint8(xs[0][:64]))
    assert [tuple(x.shape) for x in xs] == [(256, 1, 4, 4), (44, 1, 4, 4)]
    assert len(torch.cat(xs).flatten(1).unique(dim=0)) == 300
    again = [x for _, x in sample.batches(ddpm, zero, config, 300, seed=0)]
    assert torch.equal(torch.cat(xs), torch.cat(again))
    others = [x for seed in (1, 256, 2 ** 24)
              for _, x in sample.batches(ddpm, zero, config, 300, seed)]
    assert len(torch.cat([*xs, *others]).flatten(1).unique(dim=0)) == 1200
    config = {"image_channels": 3, "image_size": 256}
    assert [len(x) for _, x in sample.batches(ddpm, zero, config, 5, seed=0)] == [4, 1]
    assert sample.batch_size(1024) == 1


@pytest.mark.parametrize("precision, used", [("float32", "float32"), ("bf16", "auto"),
                                             (None, "auto")])
def test_a_run_in_float32_is_sampled_in_float32(monkeypatch, precision, used):
    asked = []
    original = sample.autocast
    monkeypatch.setattr(sample, "autocast", lambda *args: asked.append(args[1]) or original(*args))
    config = {"image_channels": 1, "image_size": 4, "precision": precision}
    next(sample.batches(DDPM(cosine_beta_schedule(3)), zero, config, 1, seed=0))
    assert asked == [used]


# ---- the command line ----

def run(*argv):
    sample.main([str(arg) for arg in argv])


def test_without_a_checkpoint_the_newest_run_is_sampled(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, age in (("old", 1e9), ("new", 2e9), ("older", 0.5e9)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        steps = sample.YOUNG - (name == "new")       # the newest is too young to be of use
        write_checkpoint({**read_checkpoint(trained[0]), "step": steps},
                         tmp_path / "runs" / name / "checkpoint.pt")
        os.utime(tmp_path / "runs" / name / "checkpoint.pt", (age, age))
    run()
    said = capsys.readouterr().out
    assert "runs/new/checkpoint.pt: not 200 steps yet, so runs/old/checkpoint.pt" in said
    assert "64 samples of runs/old/checkpoint.pt, step 200 of 3, digits, on cpu" in said
    assert "noise" not in said and "wrote samples.png" in said
    _, ddpm, model = sample.load(trained[0])         # the same operations, to the same bits
    expected = grid(data.to_uint8(sample.draw(ddpm, model, (64, 1, 8, 8), noise(), "float32")))
    assert np.array_equal(np.asarray(Image.open("samples.png")), np.asarray(expected))


def test_without_any_run_the_checkpoint_that_ships_is_sampled(tmp_path, monkeypatch, trained,
                                                              capsys):
    monkeypatch.chdir(tmp_path)
    assert sample.newest_checkpoint() == Path(sample.__file__).parent / "assets" / "digits.pt"
    assert capsys.readouterr().out == ""
    shutil.copytree(trained[0].parent, "runs/young")
    assert sample.newest_checkpoint() == sample.SHIPPED
    assert "runs/young/checkpoint.pt: not 200 steps yet" in capsys.readouterr().out


def test_a_program_says_how_far_its_checkpoint_is_trained_and_what_to_expect(trained, tmp_path,
                                                                             capsys):
    run("--checkpoint", trained[0], "--n", 1, "--out", tmp_path / "a.png")
    assert "step 3 of 3, digits (a network of so few steps draws" in capsys.readouterr().out
    path = tmp_path / "strange.pt"                   # a stranger's config may lack what we print
    content = read_checkpoint(trained[0])
    write_checkpoint({**content, "config": {}, "step": 700}, path)
    assert sample.progress(path) == "step 700 of ?, ?"


@pytest.mark.skipif(not sample.SHIPPED.exists(), reason="a copy of the source alone")
def test_the_checkpoint_that_ships_is_the_default_run_and_small():
    config, ddpm, model = sample.load(sample.SHIPPED)
    default = train.preset()
    assert {**vars(Config(**config)), "precision": "auto"} == vars(default)
    assert sample.SHIPPED.stat().st_size <= 3_000_000
    x_t = torch.randn(4, 1, 16, 16)                             # and it has learned what noise is
    loss = ddpm.loss(model, data.to_model(data.load("digits", 16)[0]))
    assert model(x_t, torch.full((4,), ddpm.T)).sub(x_t).square().mean() < 0.05 and loss < 0.15


def test_a_seed_fixes_the_pictures(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("--checkpoint", trained[0], "--n", 3, "--seed", seed, "--out", f"{name}.png")
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_folder_gets_lossless_pngs_and_no_grid(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("--checkpoint", trained[0], "--n", 3, "--folder", "many", "--device", "cpu")
    assert "many holds all 3 images, 0 of them from before" in capsys.readouterr().out
    assert sorted(os.listdir("many")) == ["000000.png", "000001.png", "000002.png"]
    assert not Path("samples.png").exists()
    _, ddpm, model = sample.load(trained[0])         # the same operations, to the same bits
    expected = data.to_uint8(sample.draw(ddpm, model, (3, 1, 8, 8), noise(), "float32"))
    for i in range(3):
        assert np.array_equal(np.asarray(Image.open(f"many/{i:06}.png")), expected[i, 0].numpy())


def test_file_numbers_go_on_from_batch_to_batch(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches = [(0, torch.full((2, 1, 4, 4), -1.0)), (2, torch.full((1, 1, 4, 4), 1.0))]
    monkeypatch.setattr(sample, "batches", lambda *args, done=(): iter(batches))
    run("--checkpoint", trained[0], "--n", 3, "--folder", "many")
    assert [np.asarray(Image.open(f"many/00000{i}.png")).max() for i in range(3)] == [0, 0, 255]
    run("--checkpoint", trained[0], "--n", 3)
    assert np.asarray(Image.open("samples.png")).shape == (100, 100)


def test_the_gif_shows_x_t_beside_x_0_hat(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("--checkpoint", trained[0], "--n", 4, "--gif", "d.gif", "--out", "new/s.png")
    assert "wrote d.gif" in capsys.readouterr().out
    gif = Image.open("d.gif")
    assert gif.n_frames == 6 and gif.size == (2 * 100 + 8, 100)              # t = 5..0
    assert gif.info["loop"] == 0 and gif.info["duration"] == 80
    gif.seek(5)
    last = np.asarray(gif.convert("L")).astype(int)
    grid = np.asarray(Image.open("new/s.png")).astype(int)
    for half in (last[:, :100], last[:, 108:]):                 # a GIF has 256 colours: near enough
        assert np.abs(half - grid).mean() < 4
    assert (last[:, 101:107] > 250).all() and gif.info["duration"] == 3000


@pytest.mark.parametrize("argv, words", [
    (["--n", "0"], ["--n", "must be in 1.."]), (["--n", "-3"], ["--n"]),
    (["--n", "x"], ["--n", "integer"]),
    (["--seed", "-1"], ["--seed", "must be in 0..4294967295, not -1"]),
    (["--seed", str(2 ** 32)], ["--seed"]),
    (["--out", "s.jpg"], ["s.jpg must be a file name that ends in .png"]),
    (["--gif", "s.png"], ["ends in .gif"]),
    (["--device", "tpu9"], ["no device 'tpu9'"]), (["--guidance", "3"], ["unrecognized"]),
    (["--check", "x"], ["unrecognized"])])
def test_a_wrong_value_is_one_line_and_writes_nothing(trained, tmp_path, monkeypatch, capsys, argv,
                                                     words):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    refused(capsys, ["--checkpoint", trained[0], *argv], *words, main=sample.main)
    assert os.listdir() == []


def test_a_missing_checkpoint_and_an_unwritable_out_are_one_line(trained, tmp_path, monkeypatch,
                                                                capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["--checkpoint", "none.pt"], "none.pt", code=1, main=sample.main)
    Path("file").write_text("")
    monkeypatch.setattr(sample, "draw", None)                   # it is known before any sampling
    for flag, name in (("--out", "s.png"), ("--gif", "s.gif"), ("--folder", "s")):
        refused(capsys, ["--checkpoint", trained[0], flag, f"file/{name}"], "file", code=1,
                main=sample.main)
    Path("folder.png").mkdir()
    refused(capsys, ["--checkpoint", trained[0], "--out", "folder.png"], "file name",
            main=sample.main)


def test_old_and_new_samples_never_mix(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("--checkpoint", trained[0], "--n", 2, "--folder", "many")
    before = Path("many/000000.png").read_bytes()
    other = tmp_path / "other.pt"
    torch.save({**torch.load(trained[0], weights_only=True), "step": 99}, other)
    for argv in (["--seed", "1"], ["--n", "1"], ["--checkpoint", other]):
        refused(capsys, ["--checkpoint", trained[0], "--n", "2", "--folder", "many", *argv],
                "many is not empty: 00000", main=sample.main)
    for name, content in (("notes.txt", b""), ("000001.png", before[:-9]), ("7.png", before[:-20]),
                          ("000000.jpg", before), ("x.png", before), ("000009.png", before)):
        kept = Path("many", name).read_bytes() if Path("many", name).exists() else None
        Path("many", name).write_bytes(content)
        refused(capsys, ["--checkpoint", trained[0], "--n", "2", "--folder", "many"],
                f"many is not empty: {name} is not", main=sample.main)
        Path("many", name).write_bytes(kept) if kept else Path("many", name).unlink()
    assert Path("many/000000.png").read_bytes() == before
    run("--checkpoint", trained[0], "--n", 2, "--folder", "many")
    assert sorted(path.name for path in Path("many").iterdir()) == ["000000.png", "000001.png"]


def test_another_n_shares_the_batches_that_are_full_in_both(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "batch_size", lambda H: 2)
    for n in (5, 8):
        run("--checkpoint", trained[0], "--n", n, "--folder", f"{n}")
    pictures = [[np.asarray(Image.open(path)).tolist() for path in sorted(Path(n).iterdir())]
                for n in ("5", "8")]
    assert pictures[0][:4] == pictures[1][:4] and pictures[1][0] != pictures[1][2]


def test_samples_that_are_there_are_kept_and_the_missing_ones_made(trained, tmp_path, monkeypatch,
                                                                   capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "batch_size", lambda H: 2)
    argv = ["--checkpoint", trained[0], "--n", 7, "--folder"]
    run(*argv, "whole")
    run(*argv, "parts")
    for i in (3, 4, 5, 6):                                      # half a batch, and two whole ones
        Path(f"parts/{i:06}.png").unlink()
    Path("parts/000003.png.1.tmp").write_text("half a picture, of a program that was killed")
    numbers, starts = {path.name: path.stat().st_ino for path in Path("parts").iterdir()}, []
    original = sample.draw

    def draw(ddpm, model, shape, generator, precision, label, frames):
        starts.append(int(label.split()[1].split("..")[0]) - 1)
        return original(ddpm, model, shape, generator, precision, label, frames)

    monkeypatch.setattr(sample, "draw", draw)
    run(*argv, "parts")
    assert starts == [2, 4, 6] and "7 images, 3 of them from before" in capsys.readouterr().out
    assert all(path.stat().st_ino == numbers.get(path.name, path.stat().st_ino)
               for path in Path("parts").iterdir())
    assert {path.name: path.read_bytes() for path in Path("parts").iterdir()} == \
        {path.name: path.read_bytes() for path in Path("whole").iterdir()}
    starts.clear()
    run(*argv, "parts", "--gif", "d.gif")                       # the first batch, for its frames
    assert starts == [0] and Path("d.gif").exists()


def test_ctrl_c_is_quiet(trained, monkeypatch, capsys):
    monkeypatch.setattr(sample, "load", lambda *args: exec("raise KeyboardInterrupt"))
    with pytest.raises(SystemExit) as caught:
        run("--checkpoint", trained[0])
    assert caught.value.code == 130 and capsys.readouterr() == ("", "")
