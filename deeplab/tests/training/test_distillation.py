from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.datasets.opening import Sample
from deeplab.network.architecture import VARIANTS
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation, CropWindow, augment, draw_crop_window
from deeplab.training.batches import Batches
from deeplab.training.distillation import Teacher
from deeplab.training.losses import cross_entropy_sum, soft_cross_entropy_sum
from deeplab.training.recipe import Recipe


def score_file(path, logits, width, height, canvas, name="a", scale=0.25, zero=100):
    """One photo's scores in 8 bits."""
    quantised = np.clip(np.rint(logits / scale) + zero, 0, 255).astype(np.uint8)
    np.savez(
        path,
        ids=np.array([name]),
        logits_u8=quantised[None],
        scale=np.float32(scale),
        zero_point=np.int32(zero),
        width_height_canvasw_canvash=np.array([[width, height, *canvas]]),
    )
    return path


def test_source_positions_by_hand():
    # a photo 10 rows × 20 columns, doubled; the crop of 24 shows rows 3.. and columns 5.. of the 20 × 40
    window = CropWindow((10, 20), (20, 40), top=3, left=5, height=17, width=24, mirror=False)
    rows, columns = window.source_positions(0, 8, 3)
    np.testing.assert_allclose(rows, [1.25, 5.25, 9.25])  # (3 + 0.5) / 2 − 0.5, …
    np.testing.assert_allclose(columns, [2.25, 6.25, 10.25])
    _, mirrored = replace(window, mirror=True).source_positions(0, 8, 3)
    np.testing.assert_allclose(
        mirrored, [13.75, 9.75, 5.75]
    )  # the crop's first column shows column 28 of the 40
    rows, _ = replace(window, height=16).source_positions(0, 8, 3)
    assert np.isnan(rows[2])  # padding


def test_source_positions_are_where_the_pixels_came_from():
    y, x = np.mgrid[:60, :83]
    photo = np.stack([y, x, y], axis=2).astype(np.uint8)
    for seed in range(30):
        augmentation = Augmentation(41, True, 0.6, 1.7)
        rng = np.random.default_rng(seed)
        window = draw_crop_window((60, 83), augmentation, rng)
        crop, ids = augment(photo, np.zeros((60, 83), np.uint8), augmentation, rng, (0, 0, 0), window)
        rows, columns = window.source_positions(0, 8, 6)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                assert (ids[8 * i, 8 * j] == 255) == (np.isnan(row) or np.isnan(column))
                if ids[8 * i, 8 * j] == 0 and 2 < row < 57 and 2 < column < 80:
                    np.testing.assert_allclose(crop[8 * i, 8 * j, :2], (row, column), atol=1.1)


def test_probabilities_of_a_ramp(tmp_path):
    # scores rise along the columns: class 1's by 1 for each score to the right, class 2's by 0.5 for each
    # further down
    logits = np.zeros((33, 33, 3))
    logits[..., 1] = np.arange(33)
    logits[..., 2] = 0.5 * np.arange(33)[:, None]
    path = score_file(tmp_path / "t.npz", logits, 500, 300, (513, 308))
    teacher = Teacher([path], 3, ["a"])
    window = CropWindow((300, 500), (300, 500), top=7, left=31, height=200, width=97, mirror=False)
    found = teacher.targets("a", window, 0, 13)
    assert found.shape == (3, 13, 13)
    columns = ((31 + 8 * np.arange(13) + 0.5) * 513 / 500 - 0.5) / 16
    rows = ((7 + 8 * np.arange(13) + 0.5) * 308 / 300 - 0.5) / 16
    expected = np.stack([np.zeros((13, 13)), np.tile(columns, (13, 1)), np.tile(0.5 * rows, (13, 1)).T])
    expected = np.exp(expected) / np.exp(expected).sum(0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_probabilities_are_zero_in_the_padding_and_sum_to_one_elsewhere(tmp_path):
    path = score_file(
        tmp_path / "t.npz", np.random.default_rng(0).normal(size=(33, 33, 4)), 40, 30, (513, 385)
    )
    window = CropWindow((30, 40), (30, 40), 0, 0, 30, 40, True)
    sums = Teacher([path], 4, ["a"]).targets("a", window, 0, 8).sum(0)
    np.testing.assert_allclose(sums[:4, :5], 1, atol=1e-5)
    assert not sums[4:].any()
    assert not sums[:, 5:].any()


def test_batches_with_a_teacher(tmp_path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "a-ids.png")
    path = score_file(tmp_path / "t.npz", np.ones((33, 33, 3)), 40, 30, (513, 385))
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a-ids.png")
    batches = Batches(
        [[sample]],
        VARIANTS["deeplab-largefov"],
        Preparation(),
        Augmentation(41),
        batch=2,
        extra=0,
        slots=slice(0, 2),
        seed=0,
        workers=1,
        warn=print,
        teacher=Teacher([path], 3, ["a"]),
    )
    stream = batches.from_step(0)
    photos, targets, soft = next(stream)
    stream.close()
    assert photos.shape == (2, 3, 41, 41)
    assert targets.shape == (2, 6, 6)
    assert soft.shape == (2, 3, 6, 6)
    assert torch.equal(soft.sum(1) > 0.5, targets != 255)


def test_soft_loss_of_a_certain_teacher_is_that_of_the_labels():
    scores = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(2))
    ids[0, 1, 2] = 255
    certain = torch.nn.functional.one_hot(ids.clamp(max=3), 4).movedim(-1, 1).float() * (ids != 255)[:, None]
    torch.testing.assert_close(soft_cross_entropy_sum(scores, certain), cross_entropy_sum(scores, ids))


def test_missing_scores_and_wrong_files_are_named(tmp_path):
    path = score_file(tmp_path / "t.npz", np.ones((33, 33, 3)), 40, 30, (513, 385))
    with pytest.raises(ValueError, match=r"lacks scores of 1 of 2 photos, first b"):
        Teacher([path], 3, ["a", "b"])
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        Teacher([tmp_path / "none.npz"], 3, [])
    with pytest.raises(ValueError, match="scores of 3 classes, wanted the data's 5"):
        Teacher([path], 5, ["a"])
    with pytest.raises(ValueError, match="go together"):
        Recipe(data="d", teacher=("t.npz",))
    window = CropWindow((31, 40), (31, 40), 0, 0, 31, 40, False)
    with pytest.raises(ValueError, match=r"scores of a photo \(30, 40\), but a is \(31, 40\)"):
        Teacher([path], 3, ["a"]).targets("a", window, 0, 4)
