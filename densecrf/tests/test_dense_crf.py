"""The API of DenseCRF: kernels, compatibilities, energies, batches; by lattice and exactly."""

import itertools

import numpy as np
import pytest

from densecrf import (
    Bilateral,
    DenseCRF,
    Features,
    Gaussian,
    Lattice,
    Params,
    refine,
    unary_from_labels,
    unary_from_logits,
    unary_from_probabilities,
)
from scenes import scene

BACKENDS = ("lattice", "exact")


def tiny(seed=0, labels=3):
    """Six pixels (2×3) of two features, and energies."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, 2)), rng.uniform(0, 2, size=(labels, 2, 3)).astype(np.float32)


def pairs(features):
    """exp(−|f_i − f_j|² / 2), (N, N)."""
    return np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))


@pytest.mark.parametrize(
    "compatibility", [None, np.array([1.0, 0.5, 2.0]), np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]])]
)
@pytest.mark.parametrize("include_self", [True, False])
def test_one_step_and_energy_written_out(compatibility, include_self):
    features, unary = tiny()
    crf = DenseCRF(
        [Features(features, weight=1.5)],
        compatibility=compatibility,
        normalization="none",
        include_self=include_self,
        backend="exact",
    )
    k = 1.5 * (pairs(features) - (0 if include_self else np.eye(6)))
    u = unary.reshape(3, 6).astype(float)
    q = np.exp(-u) / np.exp(-u).sum(0)
    if compatibility is None:
        mu, gain = 1 - np.eye(3), q @ k
    elif compatibility.ndim == 1:
        mu, gain = -np.diag(compatibility), compatibility[:, None] * (q @ k)
    else:
        mu, gain = compatibility, -compatibility @ (q @ k)
    expected = np.exp(-u + gain) / np.exp(-u + gain).sum(0)
    np.testing.assert_allclose(crf.infer(unary, iterations=1).reshape(3, 6), expected, rtol=1e-4)
    labels = np.array([[0, 1, 2], [2, 1, 1]])
    x = labels.ravel()
    energy = u[x, range(6)].sum() + 0.5 * sum(k[i, j] * mu[x[i], x[j]] for i in range(6) for j in range(6))
    assert crf.energy(labels, unary) == pytest.approx(energy, rel=1e-5)
    divergence = (q * u).sum() + 0.5 * np.einsum("ki,lj,kl,ij->", q, q, mu, k) + (q * np.log(q)).sum()
    assert crf.kl_divergence(q.reshape(3, 2, 3), unary) == pytest.approx(divergence, rel=1e-4)


def test_mean_field_finds_what_enumeration_finds():
    features, unary = tiny(seed=3)
    crf = DenseCRF(
        [Features(features, weight=0.3)], normalization="none", include_self=False, backend="exact"
    )
    labellings = np.array(list(itertools.product(range(3), repeat=6)))
    energies = np.array([crf.energy(labels.reshape(2, 3), unary) for labels in labellings])
    weights = np.exp(-(energies - energies.min()))
    exact = np.stack([(weights[:, None] * (labellings == k)).sum(0) for k in range(3)]) / weights.sum()
    result = crf.infer(unary, iterations=200, tolerance=1e-7)
    # Mean field is an approximation; the error is small for weak pairwise terms.
    assert np.abs(result.reshape(3, 6) - exact).max() < 0.05
    assert np.array_equal(crf.map(unary).ravel(), exact.argmax(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fixed_point_stays_and_is_a_minimum(backend):
    features, unary = tiny(seed=1)
    crf = DenseCRF(
        [Features(features, weight=0.5)], normalization="symmetric", backend=backend, merge_threshold=0
    )
    q = crf.infer(unary, iterations=500, tolerance=1e-7)
    np.testing.assert_allclose(crf.infer(unary, iterations=1, start=q), q, atol=1e-5)
    rng = np.random.default_rng(0)
    least = crf.kl_divergence(q, unary)
    for _ in range(20):
        other = np.maximum(q + rng.normal(scale=0.02, size=q.shape), 1e-6)
        assert crf.kl_divergence(other / other.sum(0), unary) > least - 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compatibility", [None, np.array([1, 2, 0.5, 1]), 1 - np.eye(4)])
def test_callback_tolerance_and_start(backend, compatibility):
    photo, probabilities, _ = scene(20, 31)
    unary = unary_from_probabilities(probabilities)
    crf = DenseCRF(
        [Gaussian((20, 31), 3, 1), Bilateral(photo, 20, 10, 2)], backend=backend, compatibility=compatibility
    )
    seen = []
    crf.infer(unary, iterations=4, callback=lambda step, q: seen.append((step, q.copy())))
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    for step, q in seen:
        np.testing.assert_allclose(q, crf.infer(unary, iterations=step), atol=1e-6)
    assert np.array_equal(crf.infer(unary, callback=lambda step, q: step == 2), seen[1][1])
    np.testing.assert_allclose(crf.infer(unary, iterations=2, start=seen[1][1]), seen[3][1], atol=1e-4)
    still = crf.infer(unary, iterations=300, tolerance=1e-4)
    assert np.abs(crf.infer(unary, iterations=1, start=still) - still).max() < 1e-3


def test_potts_in_three_ways():
    photo, probabilities, _ = scene(20, 31, labels=3)
    unary = unary_from_probabilities(probabilities)
    kernels = [Bilateral(photo, 20, 10, 2)]
    potts = DenseCRF(kernels, convergence_tolerance=0).infer(unary)
    np.testing.assert_allclose(
        DenseCRF(kernels, compatibility=np.ones(3), convergence_tolerance=0).infer(unary), potts, atol=1e-5
    )
    np.testing.assert_allclose(DenseCRF(kernels, compatibility=-np.eye(3)).infer(unary), potts, atol=1e-4)
    # With row sums of one a constant penalty cancels.
    after = DenseCRF(kernels, normalization="after", convergence_tolerance=0)
    np.testing.assert_allclose(
        DenseCRF(kernels, compatibility=1 - np.eye(3), normalization="after").infer(unary),
        after.infer(unary),
        atol=1e-4,
    )


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
def test_without_own_message_the_lattice_is_near_the_exact_crf(normalization):
    photo, probabilities, _ = scene()
    unary = unary_from_probabilities(probabilities)
    kernels = [Bilateral(photo, 10, 3, 4)]  # few pixels are alike, so that a pixel's own belief matters
    options = {"normalization": normalization, "include_self": False}
    ours = DenseCRF(kernels, **options).infer(unary)
    expected = DenseCRF(kernels, backend="exact", **options).infer(unary)
    with_own_message = DenseCRF(kernels, normalization=normalization).infer(unary)
    assert np.abs(ours - expected).mean() < 0.02
    assert np.abs(ours - expected).mean() < np.abs(with_own_message - expected).mean()


def test_a_batch_gives_the_same_as_its_images_one_by_one():
    scenes = [scene(17, 26, seed=seed) for seed in range(3)]
    photos, probabilities = np.stack([s[0] for s in scenes]), np.stack([s[1] for s in scenes])
    single = [refine(photo, p) for photo, p in zip(photos, probabilities, strict=True)]
    assert np.array_equal(refine(photos, probabilities), np.stack(single))
    unary = unary_from_probabilities(probabilities)
    shared = DenseCRF([Gaussian((17, 26), 3, 3)])
    assert np.array_equal(shared.infer(unary), np.stack([shared.infer(one) for one in unary]))
    crf = DenseCRF([Gaussian((17, 26), 3, 3), Bilateral(photos, 50, 3, 5)])
    np.testing.assert_allclose(crf.infer(unary), np.stack(single), atol=1e-6)
    labels = crf.map(unary)
    assert labels.shape == (3, 17, 26)
    assert crf.energy(labels, unary).shape == (3,)
    assert crf.kl_divergence(crf.infer(unary), unary).shape == (3,)


def test_volumes_and_other_features():
    rng = np.random.default_rng(0)
    volume = rng.uniform(size=(5, 6, 7))
    unary = unary_from_probabilities(np.stack([volume, 1 - volume]))
    space = Gaussian((5, 6, 7), xy_std=(1.0, 2.0, 2.0), weight=2)
    assert space.features().shape == (210, 3)
    assert space.features()[-1].tolist() == [3, 2.5, 4]  # x / 2, y / 2, z / 1
    levels = Features(np.concatenate([space.features(), volume.reshape(-1, 1) / 0.1], axis=1), weight=3)
    marginals = DenseCRF([space, levels]).infer(unary)
    assert marginals.shape == (2, 5, 6, 7)
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-5)
    hyperspectral = Bilateral(rng.uniform(size=(8, 9, 33)), xy_std=(4, 5), channel_std=0.5)
    assert hyperspectral.features().shape == (72, 35)


@pytest.mark.parametrize("parameters", [(50.0, 3.0), (121.0, 5.0)])
def test_merging_labels_changes_next_to_nothing(parameters):
    photo, probabilities, _ = scene(90, 130, labels=4, seed=5)
    rng = np.random.default_rng(1)
    rare = 0.03 * rng.uniform(size=(17, 90, 130)) ** 3  # seventeen more labels of low, uneven probability
    noisy = np.concatenate([probabilities * (1 - rare.sum(0)), rare])
    kernels = [Gaussian((90, 130), 3, 3), Bilateral(photo, *parameters, 4)]
    unary = unary_from_probabilities(noisy)
    merged = DenseCRF(kernels).infer(unary)
    separate = DenseCRF(kernels, merge_threshold=0).infer(unary)
    assert not np.array_equal(merged, separate)  # labels were merged
    assert np.abs(merged - separate).max() < 1e-3
    assert np.abs(merged - separate).mean() < 1e-6
    assert np.array_equal(merged.argmax(0), separate.argmax(0))
    np.testing.assert_allclose(merged.sum(0), 1, rtol=1e-4)


@pytest.mark.parametrize("parameters", [(50.0, 3.0), (121.0, 5.0)])
@pytest.mark.parametrize("labels", [2, 6])
def test_leaving_out_converged_pixels_changes_next_to_nothing(labels, parameters):
    photo, probabilities, _ = scene(120, 170, labels=labels, seed=3)
    kernels = [Gaussian((120, 170), 3, 3), Bilateral(photo, *parameters, 4)]
    unary = unary_from_probabilities(probabilities)
    approximate = DenseCRF(kernels).infer(unary)
    complete = DenseCRF(kernels, convergence_tolerance=0).infer(unary)
    assert not np.array_equal(approximate, complete)  # pixels were left out
    assert np.abs(approximate - complete).max() < 1e-2
    assert np.abs(approximate - complete).mean() < 1e-5
    np.testing.assert_allclose(approximate.sum(0), 1, rtol=1e-4)
    steps = []
    DenseCRF(kernels).infer(unary, callback=lambda step, q: steps.append(q))  # a callback needs every pixel
    np.testing.assert_array_equal(steps[-1], complete)


def test_leaving_out_converged_pixels_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr("densecrf.threads.processors", lambda: 8)
    # All pixels that change are in the range of one of eight threads.
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, size=(450, 1000, 3), dtype=np.uint8)
    first = np.full((450, 1000), 0.999)
    first[:45] = rng.uniform(0.3, 0.7, size=(45, 1000))
    unary = unary_from_probabilities(np.stack([first, 1 - first]))
    kernels = [Gaussian((450, 1000), 3, 1), Bilateral(photo, 20, 60, 1)]
    one, eight = (DenseCRF(kernels, threads=threads).infer(unary) for threads in (1, 8))
    complete = DenseCRF(kernels, convergence_tolerance=0).infer(unary)
    assert not np.array_equal(one, complete)  # pixels were left out
    np.testing.assert_array_equal(one, eight)


def test_the_accurate_backend_halves_the_error():
    photo, probabilities, _ = scene(36, 48, labels=5, seed=2)
    kernels = [Gaussian((36, 48), 3, 3), Bilateral(photo, 50, 3, 4)]
    unary = unary_from_probabilities(probabilities)
    exact = DenseCRF(kernels, backend="exact").infer(unary)
    error = {
        name: np.abs(DenseCRF(kernels, backend=name).infer(unary) - exact).mean()
        for name in ("lattice", "accurate")
    }
    assert error["accurate"] < 0.75 * error["lattice"]


def test_large_images_with_compact_splat_weights_agree_with_small_ones():
    # Over 2^20 points the lattice stores its splat weights in six bytes each; half of the points have eight.
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(5300, 3))
    half = np.repeat(positions, 100, axis=0).astype(np.float32)  # a hundred points at each position
    far = half + np.float32([1000, 0, 0])
    probabilities = rng.dirichlet([0.5, 0.5, 0.5], size=len(half)).T
    unary = unary_from_probabilities(np.concatenate([probabilities, probabilities], axis=1))
    both = DenseCRF([Features(np.concatenate([half, far]), weight=3)]).infer(unary, iterations=3)
    alone = DenseCRF([Features(half, weight=3)]).infer(unary[:, : len(half)], iterations=3)
    np.testing.assert_allclose(both[:, : len(half)], alone, atol=2e-3)
    np.testing.assert_allclose(both[:, : len(half)].mean(1), alone.mean(1), atol=1e-5)


def test_merged_labels_are_separated_if_their_probability_grows():
    # Labels with low probability by their unaries, one of which the start makes almost certain.
    probabilities = scene(30, 43, labels=2)[1]
    rare = np.full((12, 30, 43), 0.01)
    unary = unary_from_probabilities(np.concatenate([probabilities * 0.88, rare]))
    kernels = [Gaussian((30, 43), 20, 40)]
    start = np.full(unary.shape, 1e-4, np.float32)
    start[5] = 1 - 13e-4
    merged = DenseCRF(kernels).infer(unary, start=start)
    separate = DenseCRF(kernels, merge_threshold=0).infer(unary, start=start)
    assert (separate.argmax(0) == 5).mean() > 0.9
    np.testing.assert_allclose(merged, separate, atol=1e-2)


def test_energies_by_hand():
    logits = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, np.log(2)]])
    p = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(unary_from_logits(logits), -np.log(p), rtol=1e-5)
    np.testing.assert_allclose(unary_from_logits(logits + 500), -np.log(p), rtol=1e-3)
    labels = np.array([[0, 2, 255]])
    energies = unary_from_labels(labels, 3, confidence=0.8, ignore=255)
    sure, rest, any_label = -np.log(0.8), -np.log(0.1), np.log(3)
    np.testing.assert_allclose(
        energies[:, 0], [[sure, rest, any_label], [rest, rest, any_label], [rest, sure, any_label]], rtol=1e-6
    )
    each = unary_from_labels(labels, 3, confidence=[0.8, 0.5, 0.6], ignore=255)
    np.testing.assert_allclose(each[:, 0, 1], [-np.log(0.2), -np.log(0.2), -np.log(0.6)], rtol=1e-6)
    for bad, message in (([[3]], "got label 3 at 1 pixels, wanted 0 to 2"), ([[0.5]], "wanted integers")):
        with pytest.raises(ValueError, match=message):
            unary_from_labels(np.array(bad), 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        unary_from_labels(labels, 3, confidence=1.0, ignore=255)


def test_scribbles_fill_their_areas():
    photo, _, areas = scene(36, 52, labels=3)
    scribbles = np.full(areas.shape, 255)
    for label in range(3):
        rows, columns = np.nonzero(areas == label)
        chosen = np.random.default_rng(label).choice(len(rows), 30, replace=False)
        scribbles[rows[chosen], columns[chosen]] = label
    unary = unary_from_labels(scribbles, 3, confidence=0.95, ignore=255)
    labels = DenseCRF([Bilateral(photo, 30, 15, 10)]).map(unary, iterations=20)
    assert (labels == areas).mean() > 0.97


def test_without_kernels_the_result_is_the_softmax():
    _, unary = tiny()
    p = np.exp(-unary) / np.exp(-unary).sum(0)
    np.testing.assert_allclose(DenseCRF([]).infer(unary), p, rtol=1e-5)


@pytest.mark.parametrize("labels", [2, 3, 300])
def test_any_number_of_labels(labels):
    rng = np.random.default_rng(labels)
    photo = rng.integers(0, 256, size=(6, 7, 3), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(labels), size=(6, 7)).transpose(2, 0, 1)
    marginals = refine(photo, probabilities, params=Params(normalization="after"))
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseCRF([Gaussian((4, 5), 3), Gaussian((4, 6), 3)]), r"over \[20, 24\] points"),
        (lambda: DenseCRF([Gaussian((4, 5), 0)]), "got xy_std = 0"),
        (lambda: DenseCRF([Gaussian((4, 5), (3.0,))]), "one for each axis"),
        (lambda: DenseCRF([Features(np.zeros(5))]), r"wanted \(N, d\)"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)], normalization="sym"), "wanted one of: symmetric"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)], backend="gpu"), "wanted one of: lattice"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)], merge_threshold=2), "got merge_threshold = 2"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)], convergence_tolerance=-1), "got convergence_tolerance = -1"),
        (lambda: Lattice(np.zeros((4, 2)), rings=2), "got rings = 2"),
        (lambda: DenseCRF([Gaussian((4, 5), 3, weight=np.nan)]), "got weight = nan, wanted a finite number"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)]).infer(np.zeros((2, 21))), r"with 20 points"),
        (lambda: DenseCRF([Gaussian((4, 5), 3)]).infer(np.zeros(20)), r"wanted \(K, …\)"),
        (
            lambda: DenseCRF([Gaussian((4, 5), 3)]).infer(np.full((2, 20), np.nan)),
            "40 unary energies that are NaN",
        ),
        (
            lambda: DenseCRF([Gaussian((4, 5), 3)], compatibility=np.ones(3)).infer(np.zeros((2, 20))),
            "2 labels",
        ),
        (
            lambda: DenseCRF([Gaussian((4, 5), 3)]).infer(np.zeros((2, 20)), start=np.zeros((3, 20))),
            "wanted one shape",
        ),
        (
            lambda: DenseCRF([Gaussian((4, 5), 3)]).energy(np.full((4, 5), 2), np.zeros((2, 4, 5))),
            "wanted 0 to 1",
        ),
        (
            lambda: DenseCRF([Gaussian((4, 5), 3)]).energy(np.zeros((4, 5)), np.zeros((2, 4, 5))),
            "an integer for each point",
        ),
    ],
)
def test_unusable_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
