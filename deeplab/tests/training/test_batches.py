from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab.datasets.opening import Sample
from deeplab.network.architecture import VARIANTS
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation, augment, jittered, resized
from deeplab.training.batches import Batches, draw_batch

MEAN = (124, 117, 104)


def numbered(height=30, width=47):
    """A photo whose colours say where each pixel was, and labels that say the same."""
    y, x = np.mgrid[:height, :width]
    photo = np.stack([y, x, np.full_like(x, 7)], axis=2).astype(np.uint8)
    return photo, ((y * 3 + x * 5) % 200).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([9, 25, 41, 65]), st.booleans())
def test_photo_and_labels_stay_together(seed, crop, mirror):
    photo, labels = numbered()
    cut, ids = augment(photo, labels, Augmentation(crop, mirror), np.random.default_rng(seed), MEAN)
    assert cut.shape == (crop, crop, 3)
    assert ids.shape == (crop, crop)
    inside = ids != 255
    assert inside.sum() == min(crop, 30) * min(crop, 47)
    y, x = cut[..., 0].astype(int), cut[..., 1].astype(int)
    np.testing.assert_array_equal(ids[inside], ((y * 3 + x * 5) % 200)[inside])
    assert (cut[~inside] == MEAN).all()  # padding is the mean, at the bottom and right
    assert not inside[30:].any()
    assert not inside[:, 47:].any()


def test_crops_are_mirrored_half_of_the_time_and_lie_everywhere():
    photo, labels = numbered(12, 17)
    corners = Counter()
    for seed in range(400):
        cut, _ = augment(photo, labels, Augmentation(9), np.random.default_rng(seed), MEAN)
        mirrored = cut[0, 0, 1] > cut[0, 1, 1]
        corners[(int(cut[0, 0, 0]), int(cut[0, 8 if mirrored else 0, 1]), bool(mirrored))] += 1
    assert len(corners) == 4 * 9 * 2
    assert 150 < sum(count for (_, _, mirrored), count in corners.items() if mirrored) < 250


def test_scaled_labels_are_never_blended():
    _, labels = numbered()
    labels = np.where(labels > 100, 255, 0).astype(np.uint8)
    for scale in (0.5, 0.77, 1.5):
        photo, ids = resized(np.zeros((30, 47, 3), np.uint8), labels, scale)
        assert ids.shape == photo.shape[:2] == (round(30 * scale), round(47 * scale))
        assert set(np.unique(ids)) <= {0, 255}


def test_jitter_stays_within_its_bounds():
    photo = np.full((5, 8, 3), 100, np.uint8)
    levels = [jittered(photo, 0.2, np.random.default_rng(seed))[0, 0, 0] for seed in range(200)]
    assert 80 <= min(levels) < 90
    assert 110 < max(levels) <= 120
    assert (jittered(photo, 1e-6, np.random.default_rng(0)) == photo).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"got a photo \(30, 47\) and labels \(47, 30\), wanted one size"):
        augment(*(numbered()[0], numbered()[1].T), Augmentation(9), np.random.default_rng(0), MEAN)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5))
def test_every_photo_is_drawn_once_an_epoch(size, batch, extra, seed):
    extra = min(extra, batch - 1)
    drawn = [d for step in range(size * 2) for d in draw_batch(step, batch, [size, 4], extra, seed)]
    first = [d.index for d in drawn if d.source == 0]
    for start in range(0, len(first) - size + 1, size):
        assert sorted(first[start : start + size]) == list(range(size))
    assert len([d for d in drawn if d.source == 1]) == extra * size * 2
    assert len({d.seed for d in drawn}) == len(drawn)


def test_draws_depend_on_step_and_seed_alone():
    assert draw_batch(7, 4, [10], 0, 3) == draw_batch(7, 4, [10], 0, 3)
    assert draw_batch(7, 4, [10], 0, 3) != draw_batch(7, 4, [10], 0, 4)


@pytest.fixture
def samples(tmp_path):
    found = []
    for i in range(5):
        photo, labels = numbered(40 + i, 60)
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
        Image.fromarray(labels).save(tmp_path / f"{i}_ids.png")
        found.append(Sample(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}_ids.png"))
    return found


def reader(samples, slots=slice(0, 4), variant="deeplab-largefov", crop=33, **options):
    return Batches(
        [samples],
        VARIANTS[variant],
        Preparation(),
        Augmentation(crop),
        batch=4,
        extra=0,
        slots=slots,
        seed=1,
        workers=options.get("workers", 2),
        warn=options.get("warn", print),
    )


def test_targets_are_every_eighth_label(samples):
    photos, targets = next(reader(samples).from_step(0))
    assert photos.shape == (4, 3, 33, 33)
    assert targets.shape == (4, 5, 5)
    mean = torch.tensor(Preparation().mean)[:, None, None]
    levels = (photos + mean).round().long()  # B, G, R = 7, x, y
    expected = (levels[:, 2, ::8, ::8] * 3 + levels[:, 1, ::8, ::8] * 5) % 200
    assert torch.equal(targets.long(), expected)


def test_targets_of_the_plain_variants_begin_at_the_second_pixel(samples):
    photos, targets = next(reader(samples, variant="deeplab", crop=34).from_step(0))
    assert targets.shape == (4, 5, 5)  # as (H + 6) // 8 of the network in training
    mean = torch.tensor(Preparation().mean)[:, None, None]
    levels = (photos + mean).round().long()
    expected = (levels[:, 2, 1::8, 1::8] * 3 + levels[:, 1, 1::8, 1::8] * 5) % 200
    assert torch.equal(targets.long(), expected)


def test_shares_of_processes_make_up_the_batch_and_any_step_can_be_first(samples):
    whole = reader(samples).from_step(0)
    first, second = next(whole), next(whole)
    shares = [next(reader(samples, slice(2 * rank, 2 * rank + 2), workers=1).from_step(1)) for rank in (0, 1)]
    for part in (0, 1):
        assert torch.equal(torch.cat([share[part] for share in shares]), second[part])
    assert not torch.equal(first[0], second[0])


def test_unreadable_photos_are_reported_once_and_replaced(samples):
    samples[2].photo.write_bytes(b"no photo")
    warnings = []
    batches = reader(samples, warn=warnings.append).from_step(0)
    for _ in range(6):
        assert next(batches)[0].shape == (4, 3, 33, 33)
    batches.close()
    assert len(warnings) == 1
    assert "2.png" in warnings[0]
    for sample in samples:
        sample.photo.write_bytes(b"no photo")
    with pytest.raises(ValueError, match="deeplab check-data"):
        next(reader(samples).from_step(0))
    with pytest.raises(ValueError, match="a split without photos"):
        reader([])
