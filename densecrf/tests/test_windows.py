import numpy as np
import pytest

from densecrf import Bilateral, Gaussian, Params, refine
from scenes import scene

NARROW = Params(appearance_xy_std=6, appearance_rgb_std=8, smoothness_xy_std=2)


def test_features_of_a_window_are_those_of_the_whole():
    photo, _, _ = scene()
    rows, columns = slice(7, 30), slice(11, 48)
    whole = Bilateral(photo, (9.0, 5.0), 8).features().reshape(36, 52, 5)[rows, columns].reshape(-1, 5)
    assert np.array_equal(Bilateral(photo[rows, columns], (9.0, 5.0), 8, origin=(7, 11)).features(), whole)
    whole = Gaussian((36, 52), 3).features().reshape(36, 52, 2)[rows, columns].reshape(-1, 2)
    assert np.array_equal(Gaussian((23, 37), 3, origin=(7, 11)).features(), whole)


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_far_from_its_edges_a_window_is_refined_as_the_whole(normalization):
    params = Params(**(vars(NARROW) | {"normalization": normalization}))
    photo, probabilities, _ = scene(120, 170)
    whole = refine(photo, probabilities, params=params)
    rows, columns, core = slice(21, 120), slice(33, 170), np.s_[:, 40:, 40:]
    cut = photo[rows, columns], probabilities[:, rows, columns]
    placed = refine(*cut, params=params, origin=(21, 33))
    unplaced = refine(*cut, params=params)
    expected = whole[:, rows, columns][core]
    assert np.abs(placed[core] - expected).max() < 1e-3
    assert (
        np.abs(unplaced[core] - expected).max() > 10 * np.abs(placed[core] - expected).max()
    )  # another lattice


def test_a_batch_has_one_origin():
    photo, probabilities, _ = scene()
    one = refine(photo, probabilities, params=NARROW, origin=(3, 5))
    both = refine(np.stack([photo] * 2), np.stack([probabilities] * 2), params=NARROW, origin=(3, 5))
    assert np.array_equal(both[0], one)
    assert np.array_equal(both[1], one)


@pytest.mark.parametrize("origin", [(1,), (1, 2, 3), (np.nan, 0)])
def test_unusable_origins_are_refused(origin):
    photo, probabilities, _ = scene()
    with pytest.raises(ValueError, match="got origin"):
        refine(photo, probabilities, origin=origin)
