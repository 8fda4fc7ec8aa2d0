"""The picture beside a construction's run: a column a class, a row each for x, the new image and their difference."""

import numpy as np
import torch
from PIL import Image

from notbugs.data.images import ImageData
from notbugs.pipeline.construct import write_samples


def test_the_picture_shows_x_the_new_image_and_their_difference(tmp_path):
    old = ImageData(torch.full((4, 1, 8, 8), 0.2), torch.tensor([0, 0, 1, 2]), ("a", "b", "c"))
    new = ImageData(torch.full((4, 1, 8, 8), 0.3), torch.tensor([1, 2, 0, 1]), ("a", "b", "c"))
    write_samples(tmp_path / "samples.png", old, new)
    picture = np.asarray(Image.open(tmp_path / "samples.png"))
    assert picture.shape == (3 * 68, 3 * 68)
    assert [int(picture[row * 68 + 34, 34]) for row in range(3)] == [51, 76, 255]


def test_colours_stay_colours(tmp_path):
    images = torch.zeros(2, 3, 100, 100)
    images[:, 0] = 1.0
    data = ImageData(images, torch.tensor([0, 1]), ("a", "b"))
    write_samples(tmp_path / "samples.png", data, data)
    picture = np.asarray(Image.open(tmp_path / "samples.png"))
    assert picture.shape == (3 * 104, 2 * 104, 3)
    assert picture[52, 52].tolist() == [255, 0, 0]
    assert picture[2 * 104 + 52, 52].tolist() == [128, 128, 128]
