"""The smallest whole DDPM: exercise 9's checks show that it learns; here, that it can be run."""
import torch
from PIL import Image
from stand_ins import refused

from papers.kit import plane


def test_the_plane_draws_its_picture(tmp_path, capsys):
    plane.main(["--steps", "2", "--out", str(tmp_path / "plane.png")])
    assert "wrote" in capsys.readouterr().out
    assert Image.open(tmp_path / "plane.png").size[0] > 500
    refused(capsys, ["--out", tmp_path / "plane.txt"], ".png", main=plane.main)


def test_the_moons_lie_in_the_square_of_the_images():
    x = plane.moons(2000, torch.Generator().manual_seed(0))
    assert x.shape == (2000, 2) and x.abs().max() <= 1
