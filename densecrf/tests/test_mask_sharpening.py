import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import densecrf
from densecrf import Params, sharpen


def disc_photo(height=60, width=84, seed=0):
    """A photo of a bright disc on dark ground with noise, and the disc's mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(y - 0.5 * height, x - 0.45 * width) < 0.3 * height
    photo = np.where(disc[..., None], [190, 150, 70], [60, 80, 100]) + rng.normal(
        scale=5, size=(height, width, 3)
    )
    return np.clip(photo, 0, 255).astype(np.uint8), disc


def coarse(mask, step=6):
    """A mask at a lower resolution."""
    padded = np.pad(mask, [(0, -length % step) for length in mask.shape], mode="edge")
    blocks = padded[step // 2 :: step, step // 2 :: step].repeat(step, 0).repeat(step, 1)
    return blocks[: mask.shape[0], : mask.shape[1]]


PHOTO, DISC = disc_photo()
COARSE = coarse(DISC)


def test_a_coarse_mask_becomes_the_object():
    assert (COARSE != DISC).mean() > 0.02
    sharp = sharpen(PHOTO, COARSE, radius=6)
    assert sharp.dtype == bool
    assert (sharp != DISC).mean() < 0.002
    grey = PHOTO.mean(2).astype(np.uint8)
    assert (sharpen(grey, COARSE, radius=6) != DISC).mean() < 0.004
    assert np.array_equal(sharpen(grey[..., None], COARSE, radius=6), sharpen(grey, COARSE, radius=6))


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_only_pixels_within_the_radius_change(radius):
    noise = np.random.default_rng(0).integers(0, 256, PHOTO.shape, np.uint8)
    changed = sharpen(noise, COARSE, radius=radius) != COARSE
    y, x = np.mgrid[: COARSE.shape[0], : COARSE.shape[1]]
    for row, column in zip(*np.nonzero(changed), strict=True):
        near = (np.abs(y - row) <= radius) & (np.abs(x - column) <= radius)
        assert len(np.unique(COARSE[near])) == 2


def test_the_kind_of_mask_is_kept():
    sharp = sharpen(PHOTO, COARSE, radius=6)
    for dtype, high in ((np.uint8, 1), (np.uint8, 255), (np.int64, 1), (np.int32, 255), (np.float64, 1)):
        given_mask = (COARSE * high).astype(dtype)
        before = given_mask.copy()
        result = sharpen(PHOTO, given_mask, radius=6)
        assert result.dtype == dtype
        assert np.array_equal(result, sharp * high)
        assert np.array_equal(given_mask, before)
    result = sharpen(PHOTO, COARSE.tolist(), radius=6)
    assert np.array_equal(result, sharp)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_give_probabilities(dtype):
    soft = np.where(COARSE, 0.8, 0.1).astype(dtype)
    result = sharpen(PHOTO, soft, radius=6)
    assert result.dtype == dtype
    assert ((result >= 0) & (result <= 1)).all()
    assert ((result > 0.5) != DISC).mean() < 0.01
    far = np.hypot(*(np.mgrid[:60, :84] - np.array([30, 0.45 * 84])[:, None, None])) > 32
    assert (result[far] == dtype(0.1)).all()


@pytest.mark.parametrize("fill", [False, True])
def test_masks_without_a_boundary_stay_as_they_are(fill):
    for mask in (
        np.full((60, 84), fill),
        np.full((60, 84), 255 * fill, np.uint8),
        np.full((60, 84), 0.2 + 0.6 * fill),
    ):
        for radius in (None, 40):
            result = sharpen(PHOTO, mask, radius=radius)
            assert np.array_equal(result, mask)
            assert result is not mask


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 23),
    st.integers(1, 23),
    st.integers(1, 90),
    st.sampled_from([bool, np.uint8, np.float32]),
    st.integers(0, 99),
)
def test_any_size_and_any_radius(height, width, radius, dtype, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.uniform(size=(height, width)) < 0.5
    result = sharpen(image, mask.astype(dtype), radius=radius)
    assert result.shape == (height, width)
    assert result.dtype == dtype
    assert set(np.unique(result)) <= {0, 1}
    if mask.all() or not mask.any():
        assert np.array_equal(result, mask)


@pytest.mark.parametrize("size", [(1, 1), (0, 5), (1, 9), (9, 1)])
def test_tiny_images(size):
    mask = np.arange(np.prod(size)).reshape(size) > 3
    assert sharpen(np.zeros((*size, 3), np.uint8), mask).shape == size


def test_a_boundary_at_the_border_of_the_image():
    """Columns 0–19 are bright; the mask is 4 columns short, over the whole height."""
    image = np.full((40, 61, 3), 40, np.uint8)
    image[:, :20] = 200
    mask = np.zeros((40, 61), bool)
    mask[:, :16] = True
    for turn in range(4):  # each border in turn
        result = sharpen(np.rot90(image, turn), np.rot90(mask, turn), radius=8)
        assert np.array_equal(np.rot90(result, -turn), image[..., 0] == 200)


def test_the_complement_gives_the_complement():
    inverse = sharpen(PHOTO, ~COARSE, radius=6)
    assert (inverse != ~sharpen(PHOTO, COARSE, radius=6)).mean() < 1e-3


def test_thin_parts_do_not_vanish():
    image = np.full((50, 70, 3), 60, np.uint8)
    image[20:23, 10:60] = 190
    mask = image[..., 0] == 190
    assert np.array_equal(sharpen(image, mask, radius=8), mask)
    assert np.array_equal(sharpen(image, ~mask, radius=8), ~mask)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_wide_bands_at_a_reduced_size(dtype):
    """A mask that is wrong by up to 24 pixels, at the borders too."""
    photo, disc = disc_photo(301, 403)
    photo, disc = photo[60:, 70:], disc[60:, 70:]  # cuts the disc at two borders, 241×333
    blocks = coarse(disc, 24)
    wide = sharpen(photo, blocks.astype(dtype), radius=30)
    assert (wide != disc).mean() < 0.1 * (blocks != disc).mean()
    soft = sharpen(photo, np.where(blocks, 0.9, 0.2), radius=30)
    assert ((soft > 0.5) != disc).mean() < 0.1 * (blocks != disc).mean()


def test_same_bits_for_any_number_of_threads():
    soft = np.where(COARSE, 0.8, 0.1).astype(np.float32)
    results = [sharpen(PHOTO, soft, radius=20, threads=threads) for threads in (1, 2, None)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_without_kernels_the_ramp_decides():
    """Weights of 0: the mask is believed, on either side of its boundary."""
    params = Params(appearance_weight=0, smoothness_weight=0)
    assert np.array_equal(sharpen(PHOTO, COARSE, params=params), COARSE)
    assert np.array_equal(sharpen(PHOTO, COARSE, iterations=0), COARSE)


def test_a_narrow_band_gives_the_result_of_the_whole_image():
    """With a mask whose band is the whole image, sharpen is a CRF over all pixels."""
    image, mask = PHOTO[22:38, 10:36], DISC[22:38, 10:36]
    soft = np.where(mask, 0.7, 0.3)
    params = Params(appearance_xy_std=20, appearance_rgb_std=8, appearance_weight=4)
    result = sharpen(image, soft, radius=16, params=params, iterations=3)
    whole = densecrf.refine(image, np.stack([1 - soft, soft]), params=params, iterations=3)
    decided = np.abs(whole[1] - 0.5) > 1e-3
    assert ((result > 0.5) == (whole[1] > 0.5))[decided].all()
    flipped = (whole[1] > 0.5) != (soft > 0.5)
    beside = np.zeros(mask.shape, bool)  # on either side of the given boundary
    beside[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    beside[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    same = decided & (flipped | beside)
    np.testing.assert_allclose(result[same], whole[1][same], atol=1e-3)
    low, high = np.minimum(soft, whole[1]), np.maximum(soft, whole[1])  # elsewhere a mean of the two
    assert ((result >= low - 1e-3) & (result <= high + 1e-3)).all()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (
            PHOTO / 255,
            COARSE,
            r"of float64, wanted \(H, W, 3\) or \(H, W\) uint8; scale other types to 0–255",
        ),
        (np.dstack([PHOTO, PHOTO[..., :1]]), COARSE, r"pass image\[..., :3\] without the alpha channel"),
        (PHOTO, COARSE[:-1], r"got a mask \(59, 84\), wanted \(60, 84\) as the image; resize it first"),
        (PHOTO, COARSE[None], r"got a mask \(1, 60, 84\), wanted \(60, 84\)"),
        (
            PHOTO,
            COARSE * 3,
            "got a mask with values 0, 3 …, wanted 0 and 1, or 0 and 255; of a label map take one",
        ),
        (PHOTO, COARSE.astype(int) - 1, "got a mask with values -1, 0 …"),
        (PHOTO, np.where(COARSE, 200, 90).astype(np.uint8), r"probabilities \(mask / 255\)"),
        (PHOTO, np.where(COARSE, 4.0, -4.0), "values from -4.0 to 4.0, wanted .* for logits compute 1 / "),
        (PHOTO, np.where(COARSE, np.nan, 0), "got a mask with values from nan to nan"),
        (PHOTO, COARSE.astype("U5"), "wanted bool, integers or probabilities"),
    ],
)
def test_what_does_not_fit_is_refused(image, mask, message):
    with pytest.raises(ValueError, match=message):
        sharpen(image, mask)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="got 0 radius, wanted at least 1"):
        sharpen(PHOTO, COARSE, radius=0)
    with pytest.raises(TypeError, match=r"got radius = 2\.5"):
        sharpen(PHOTO, COARSE, radius=2.5)
    with pytest.raises(TypeError, match=r"wanted densecrf.Params"):
        sharpen(PHOTO, COARSE, params={"appearance_weight": 3})
    with pytest.raises(TypeError, match="got iterations = '5'"):
        sharpen(PHOTO, COARSE, iterations="5")
    assert np.array_equal(sharpen(PHOTO, COARSE, radius=10**9), sharpen(PHOTO, COARSE, radius=84))
