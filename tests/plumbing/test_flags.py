"""A dataclass as a command line: what is taken, what is refused, and in which words."""
from dataclasses import fields
from pathlib import Path

import pytest

import train
from plumbing.flags import parse
from stand_ins import refused
from train import PRESETS, Config

TRAIN = Config, PRESETS, (), "what --help shows", None


@pytest.mark.parametrize("argv, words", [
    (["imagenet"], ["there is no preset 'imagenet'", "cifar10"]),
    (["--stepz", "5"], ["unrecognized arguments: --stepz"]),
    (["--step", "5"], ["unrecognized arguments: --step"]),
    (["--steps", "many"], ["--steps", "'many'"]),
    (["--steps", "0"], ["--steps must be at least 1, not 0"]),
    (["--T", "0"], ["--T must be at least 1, not 0"]),
    (["--seed", "-1"], ["--seed must be at least 0, not -1"]),
    (["--seed", str(2 ** 32)], ["--seed must be below 4294967296"]),
    (["--channels", "2"], ["--channels must be at least 4"]),
    (["--batch-size", "0"], ["--batch-size must be at least 1"]),
    (["--num-res-blocks", "0"], ["--num-res-blocks"]),
    (["--sample-every", "-1"], ["--sample-every must be at least 0"]),
    (["--warmup", "-1"], ["--warmup must be at least 0"]),
    (["--schedule", "sigmoid"], ["--schedule must be linear or cosine, not 'sigmoid'"]),
    (["--variance", "learned"], ["--variance must be beta or beta_tilde"]),
    (["--precision", "fp16"], ["--precision must be auto or bf16 or float32, not 'fp16'"]),
    (["--image-channels", "4"], ["--image-channels must be 1 or 3, not 4"]),
    (["--image-size", "9"], ["--image-size must be divisible by 2, for 2 levels"]),
    (["--attention-resolutions", "3"], ["--attention-resolutions must be heights of levels, 8,4"]),
    (["--channel-mults", "1,0"], ["--channel-mults must be one positive integer per level"]),
    (["--channel-mults", ""], ["--channel-mults must be one positive integer per level"]),
    (["--channel-mults", "1,x"], ["--channel-mults"]),
    (["--lr", "0"], ["--lr must be above 0"]), (["--lr", "nan"], ["--lr must be above 0"]),
    (["--lr", "inf"], ["--lr must be below inf"]),
    (["--grad-clip", "0"], ["--grad-clip must be above 0"]),
    (["--ema-decay", "1"], ["--ema-decay must be below 1"]),
    (["--ema-decay", "-0.1"], ["--ema-decay must be at least 0"]),
    (["--dropout", "1"], ["--dropout must be below 1"]),
    (["--dropout", "-0.1"], ["--dropout"]),
    (["--device", "tpu9"], ["there is no device 'tpu9' here"]),
    (["--out", ""], ["--out must be given: folder of the run"]),
    (["--data", "no/such/folder"], ["'no/such/folder' is neither a folder nor one of digits"]),
])
def test_a_wrong_value_is_one_line_and_writes_nothing(config, flags, capsys, argv, words):
    refused(capsys, flags(*argv), *words)
    assert not Path(config().out).exists()


def test_the_folder_preset_asks_for_its_folder(capsys):
    refused(capsys, ["folder"], "--data must be given: digits, mnist", "or a folder")


def test_every_field_is_a_flag_and_help_explains_it(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for f in fields(Config):
        assert f"--{f.name.replace('_', '-')}" in said and f.metadata["help"] in said
    assert said.count("DIR") == 1                    # the folder's; what is off needs no mention
    assert "--image-size 32 --image-channels 3 --flip --schedule linear --channels 128" in said
    assert "--channel-mults 1,2,2,2" in said and "(cosine)" in said and "folder: --data DIR" in said


def test_flags_are_parsed_by_the_type_of_their_field():
    config, resume = parse(["mnist", "--lr", "3e-4", "--channel-mults", "1,2,4", "--flip",
                                  "--attention-resolutions", "", "--T", "7", "--out", "x"],
                           *TRAIN)
    assert not resume and config.data == "mnist" and config.image_size == 28
    assert (config.lr, config.channel_mults, config.attention_resolutions) == (3e-4, (1, 2, 4), ())
    assert (config.T, config.flip, config.out) == (7, True, "x")
    assert parse([], *TRAIN)[0] == Config()
    assert parse(["mnist"], *TRAIN)[0].schedule == "linear"
    assert parse(["cifar10", "--no-flip"], *TRAIN)[0].out == "runs/cifar10"
