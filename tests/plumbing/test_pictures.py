"""Pictures are exact: of uint8 pixels, near-square, and lossless."""
import numpy as np
import pytest
import torch
from PIL import Image

from plumbing.pictures import fill, grid, save_grid


@pytest.mark.parametrize("N, rows, columns", [(1, 1, 1), (2, 1, 2), (5, 2, 3), (64, 8, 8),
                                              (65, 8, 9)])
def test_the_grid_is_near_square_and_every_pixel_exact(tmp_path, N, rows, columns):
    pixels = torch.randint(0, 256, (N, 3, 60, 50), dtype=torch.uint8)
    save_grid(pixels, tmp_path / "new" / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert picture.shape == (rows * 62, columns * 52, 3)
    for i in range(N):
        top, left = i // columns * 62 + 1, i % columns * 52 + 1
        tile = picture[top:top + 60, left:left + 50]
        assert np.array_equal(tile, pixels[i].permute(1, 2, 0).numpy())
    assert (picture[0] == 127).all() and (picture[:, 0] == 127).all()
    assert (picture[-1] == 127).all() and (picture[:, -1] == 127).all()


def test_small_images_are_enlarged_pixel_by_pixel_and_grey_stays_grey():
    image = grid(torch.tensor([[[[0, 255], [128, 0]]]], dtype=torch.uint8))
    assert image.mode == "L" and image.size == (50, 50)
    pixels = np.asarray(image)
    assert (pixels[1:25, 1:25] == 0).all() and (pixels[1:25, 25:49] == 255).all()
    assert (pixels[25:49, 1:25] == 128).all() and (pixels[25:49, 25:49] == 0).all()
    widths = [grid(torch.zeros(1, 1, n, n, dtype=torch.uint8)).width for n in (16, 28, 32, 64)]
    assert widths == [50, 58, 66, 66]


def test_floats_are_refused_since_they_may_lie_anywhere():
    with pytest.raises(TypeError, match="uint8"):
        grid(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", [".DS_Store", "._000000.png", "Thumbs.db", "desktop.ini", "Icon\r",
                                  "000000.png~", ".ipynb_checkpoints/x.png", "@eaDir/x.jpg",
                                  "__MACOSX/x", "lost+found/x", ".directory", ".hidden"])
def test_what_the_system_left_in_a_folder_of_samples_does_not_matter(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"a few settings")
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    for n in (0, 2):                                            # how many are there already
        assert fill(tmp_path, "here", 2, lambda done: [(0, x)]) == n
    assert (tmp_path / name).read_bytes() == b"a few settings"
    (tmp_path / "strange.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="not empty: strange.jpg"):
        fill(tmp_path, "here", 2, lambda done: [(0, x)])
