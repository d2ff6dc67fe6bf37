"""What every program of papers/ does alike: it explains itself, and refuses in one line."""
import importlib
from pathlib import Path

import pytest
import torch
from stand_ins import refused

import papers

# The programs that draw one picture, and the least that some flags take.
OWN = ("classifier_free_guidance", "consistency", "dit", "flow_matching", "improved_ddpm",
       "latent_diffusion", "shapes", "stable_diffusion", "super_resolution",
       "text_to_image")                              # whose --checkpoint is of their own network
PROGRAMS = {
    "anomaly": {"--n": 2},
    "bits": {"--steps": 1},
    "classifier_free_guidance": {"--n": 2, "--steps": 1},
    "classifier_guidance": {"--n": 2},
    "clip": {"--n": 1, "--steps": 1},
    "compare": {"--n": 2},
    "consistency": {"--n": 2},
    "ddim": {"--n": 1},
    "dit": {"--n": 2},
    "dpm_solver": {"--n": 2},
    "dps": {"--n": 1, "--steps": 1},
    "edm": {"--n": 2},
    "flow_matching": {"--n": 2},
    "improved_ddpm": {"--n": 2},
    "latent_diffusion": {"--n": 1},
    "ncsn": {"--n": 1, "--steps": 1},
    "other_spaces": {},
    "parameterisations": {"--n": 2},
    "pndm": {},
    "processes": {},
    "repaint": {"--n": 1, "--steps": 1, "--r": 1, "--j": 1},
    "score_matching": {"--n": 1},
    "score_distillation": {"--n": 6},
    "score_sde": {"--n": 2},
    "sdedit": {"--n": 1},
    "shapes": {"--n": 10},
    "stable_diffusion": {"--n": 4, "--steps": 1},
    "star_shaped": {},
    "super_resolution": {"--n": 2, "--samples": 2},
    "text_to_image": {"--n": 4, "--steps": 1},
    "time_features": {"--steps": 1},
    "variational_bound": {"--n": 2},
}
HAVE_DATA = "ddim", "experiments", "score_sde", "variational_bound"
every = pytest.mark.parametrize("name", [*PROGRAMS, "experiments", "kit.judge"])


def load(name):
    return importlib.import_module(f"papers.{name}")


def test_the_programs_are_all_that_draw_one_picture():
    folder = Path(papers.__file__).parent
    assert set(PROGRAMS) == {path.stem for path in folder.glob("*.py")
                             if 'flags(__doc__, "' in path.read_text(encoding="utf-8")}


@every
def test_help_is_the_documentation(name, capsys):
    program = load(name)
    with pytest.raises(SystemExit) as caught:
        program.main(["--help"])
    said = capsys.readouterr()
    assert caught.value.code == 0 and not said.err
    assert program.__doc__.strip() in said.out
    for flag in (*PROGRAMS.get(name, {}), "--checkpoint", "--seed", "--device"):
        assert flag in said.out


@every
def test_an_unknown_flag_or_device_or_a_checkpoint_that_is_not_there_ends_in_one_line(
        name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, none = load(name).main, tmp_path / "none.pt"
    refused(capsys, ["--stpes", "5"], "--stpes", main=main)
    refused(capsys, ["--device", "abacus"], "abacus", main=main)
    refused(capsys, ["--seed", "-1"], "--seed", "0..", main=main)
    own = name in OWN                                # they say how one is made: a wrong value
    made = name if own else {"score_distillation": "classifier_free_guidance"}.get(name)
    refused(capsys, ["--checkpoint", none], "none.pt", *([f"papers.{made} train"] if made else []),
            code=2 if made else 1, main=main)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_cannot_be_drawn_is_refused_before_anything_is(name, tmp_path, monkeypatch, capsys):
    program = load(name)
    monkeypatch.setattr(program, "run", lambda args: 1 / 0)
    (tmp_path / "file").write_text("")
    for flag, least in PROGRAMS[name].items():
        refused(capsys, [flag, least - 1], flag, f"{least}..", main=program.main)
    refused(capsys, ["--out", "picture.jpg"], "--out", "ends in .png", main=program.main)
    refused(capsys, ["--out", tmp_path / "file" / "a.png"], "file", code=1, main=program.main)
    with pytest.raises(ZeroDivisionError):           # and a folder that is not there is made
        program.main(["--out", str(tmp_path / "new" / "a.png")])


@pytest.mark.parametrize("name", HAVE_DATA)
def test_data_that_is_no_name_and_no_folder_ends_in_one_line(name, trained, tmp_path, monkeypatch,
                                                             capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *args: 1 / 0)    # nothing is drawn
    refused(capsys, ["--checkpoint", trained[0], "--data", "nowhere"], "neither a", "nowhere",
            main=load(name).main)
