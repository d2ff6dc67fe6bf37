"""Data: exact pixels in, exact pixels out."""
import functools

import numpy as np
import pytest
import torch

import data

RNG = np.random.default_rng(0)


def test_every_pixel_value_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = data.to_model(pixels)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)                            # IEEE rounds 255 / 127.5 to 2
    assert torch.equal(data.to_uint8(x), pixels)
    with pytest.raises(TypeError, match="uint8, 0..255, not torch.float32"):
        data.to_model(pixels / 255)


def test_to_uint8_rounds_and_clamps():
    x = torch.tensor([-3, -1, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 1, 3])
    assert data.to_uint8(x).tolist() == [0, 0, 1, 2, 255, 255]
    assert data.to_uint8(x.bfloat16())[[0, -1]].tolist() == [0, 255]


DRAW = data.digits                                              # before conftest.py replaces it


@functools.cache
def digits(n=2000, image_size=16, seed=0):
    return DRAW(image_size, n, seed)


def test_digits_are_the_same_every_time_and_others_for_another_seed():
    x, labels = digits()
    assert x.shape == (2000, 1, 16, 16) and x.dtype == np.uint8
    assert np.array_equal(DRAW(16, 100, 0)[0], DRAW(16, 100, 0)[0])         # Pillow draws
    assert not np.array_equal(digits(2000, 16, 1)[0], x)
    assert np.bincount(labels).tolist() == [200] * 10


def test_digits_show_what_their_labels_say():
    """The mean picture of each digit of one seed tells most digits of another."""
    (x, labels), (other, truth) = digits(), digits(2000, 16, 1)
    means = np.stack([x[labels == k].mean(0).ravel() for k in range(10)])
    distance = ((other.reshape(2000, 1, -1).astype(float) - means) ** 2).sum(2)
    assert (distance.argmin(1) == truth).mean() > 0.8           # 0.1 by chance


def test_digits_are_bright_on_black_whole_and_varied():
    x, labels = digits()
    assert x.max(axis=(1, 2, 3)).min() > 150                    # no face draws nothing
    assert 20 < x.mean() < 60
    edge = np.concatenate([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], axis=1)
    assert (edge.max(1) < 128).mean() > 0.99                    # nothing is cut off
    ones = x[labels == 1].reshape(200, -1).astype(float)
    assert len(np.unique(ones, axis=0)) == 200
    centre = (x * np.arange(16)).sum(axis=(1, 2, 3)) / x.sum(axis=(1, 2, 3))
    assert abs(centre.mean() - 7.5) < 0.3 and 0.3 < centre.std() < 1.2


def test_digits_turn_shear_scale_and_shift_within_their_limits():
    """The covariance of a bar-like 1 tells its slant; its extent the scale."""
    x, labels = digits()
    tall = [(image[0] > 60).any(1).sum() for image in x[labels == 0]]
    assert 8 <= min(tall) and max(tall) <= 15 and max(tall) - min(tall) >= 3
    slants = []
    for image in x[labels == 1].astype(float):
        rows, columns = np.mgrid[:16, :16]
        weight = image[0] / image.sum()
        dr, dc = rows - (weight * rows).sum(), columns - (weight * columns).sum()
        slants.append((weight * dr * dc).sum() / (weight * dr * dr).sum())
    assert np.std(slants) > 0.06 and np.abs(slants).max() < 0.6


def test_poses_are_the_draws_that_digits_have_always_been_drawn_from():
    faces, *pose = data.poses(50, 3)
    rng = np.random.default_rng(3)
    assert np.array_equal(faces, rng.integers(10, size=50))
    for got, most, middle in zip(pose, (np.radians(6), 0.1, 0.08, 0.04, 0.04), (0, 0, 1, 0, 0),
                                 strict=True):
        assert np.array_equal(got, middle + most * rng.uniform(-1, 1, 50))


def test_digits_are_drawn_in_the_face_and_at_the_place_that_poses_says(monkeypatch):
    def draw(face=0, angle=0.0, shear=0.0, scale=1.0, dx=0.0, dy=0.0):
        monkeypatch.setattr(data, "poses", lambda n, seed: [
            np.full(n, value) for value in (face, angle, shear, scale, dx, dy)])
        return DRAW(16, 10, 0)[0][:, 0].astype(float)

    def slopes(x):
        """How far to the right the ink is, a row further up."""
        up, right = 7.5 - np.mgrid[:16][:, None], np.mgrid[:16] - 7.5
        return (x * up * right).sum((1, 2)) / (x * up ** 2).sum((1, 2))

    plain = draw()
    assert np.array_equal(draw(dx=1 / 16)[:, :, :-1], plain[:, :, 1:])       # to the left
    assert np.array_equal(draw(dy=1 / 16)[:, :-1], plain[:, 1:])             # up
    assert (draw(face=1).sum((1, 2)) > 1.2 * plain.sum((1, 2))).all()        # DejaVuSans-Bold
    assert (draw(scale=1.08).sum((1, 2)) > 1.1 * plain.sum((1, 2))).all()
    assert (slopes(draw(shear=0.1)) > slopes(plain) + 0.05).all()      # its top to the right
    assert (slopes(draw(angle=0.1)) < slopes(plain) - 0.02).all()      # counterclockwise


@pytest.mark.parametrize("image_size", [8, 28])
def test_digits_come_in_any_size(image_size):
    x, _ = data.digits(image_size, 20)
    assert x.shape == (20, 1, image_size, image_size) and x.max() > 150


def test_load_digits_gives_tensors_and_a_test_split_of_its_own(monkeypatch):
    monkeypatch.setattr(data, "digits", lambda image_size, seed: DRAW(image_size, 30, seed))
    x, labels = data.load("digits")
    assert x.dtype == torch.uint8 and x.shape == (30, 1, 16, 16)
    assert labels.dtype == torch.int64 and labels.tolist() == [*range(10)] * 3
    held_out, _ = data.load("digits", split="test")
    assert not torch.equal(held_out, x)
    colour, _ = data.load("digits", 8, 3)
    assert colour.shape == (30, 3, 8, 8)
    assert torch.equal(colour[:, 0], colour[:, 2])


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor one of digits, mnist"):
        data.load("imagenet", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split"):
        data.load("digits", split="validation")
    with pytest.raises(ValueError, match="1 or 3, not 2"):
        data.load("digits", image_channels=2)
