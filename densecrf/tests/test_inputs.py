"""Inputs of other kinds than NumPy class probabilities of the photo's size."""

import copy
import pickle

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
    refine_many,
    unary_from_labels,
    unary_from_logits,
    unary_from_probabilities,
)
from densecrf.scores import upsampled
from scenes import scene

PHOTO, P, AREAS = scene(24, 36)
TWO = np.stack([P[[0, 1, 3]].sum(0), P[2]])


def test_the_foreground_alone_is_two_labels():
    expected = refine(PHOTO, TWO)[1]
    ours = refine(PHOTO, TWO[1])
    assert ours.shape == (24, 36)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    logits = np.log(TWO[1] / TWO[0])
    np.testing.assert_allclose(refine(PHOTO, logits, kind="logits"), expected, atol=1e-5)
    batch = refine(np.stack([PHOTO, PHOTO[::-1]]), np.stack([TWO[1], TWO[1][::-1]]))
    assert batch.shape == (2, 24, 36)
    np.testing.assert_allclose(batch[0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["logits", "energies"])
def test_kinds_of_scores_in_batches(kind):
    scores = np.log(P) if kind == "logits" else -np.log(P)
    ours = refine(np.stack([PHOTO] * 2), np.stack([scores] * 2), kind=kind, backend="exact")
    expected = refine(PHOTO, P, backend="exact")
    np.testing.assert_allclose(ours, np.stack([expected] * 2), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (1, 7), (24, 36), (40, 50), (9, 12)])
@pytest.mark.parametrize("alignment", ["centers", "corners"])
def test_upsampling_is_that_of_torch(shape, alignment):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    coarse = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None], (24, 36), mode="bilinear", align_corners=alignment == "corners"
    )
    np.testing.assert_allclose(upsampled(coarse, (24, 36), alignment), expected[0].numpy(), atol=5e-5)


def test_coarse_scores_are_enlarged_when_asked():
    coarse = P[:, ::5, ::7]
    expected = refine(PHOTO, upsampled(coarse, (24, 36)))
    assert np.array_equal(refine(PHOTO, coarse, upsample=True), expected)
    corners = refine(PHOTO, upsampled(coarse, (24, 36), "corners"))
    assert np.array_equal(refine(PHOTO, coarse, upsample="corners"), corners)
    assert np.array_equal(refine(PHOTO, P, upsample=True), refine(PHOTO, P))
    batch = refine(np.stack([PHOTO] * 2), np.stack([coarse] * 2), upsample=True)
    assert batch.shape == (2, 4, 24, 36)
    assert np.array_equal(batch[1], expected)
    assert refine(PHOTO, coarse[2], upsample=True).shape == (24, 36)
    with pytest.raises(ValueError, match="got upsample 'nearest', wanted one of: centers, corners"):
        refine(PHOTO, coarse, upsample="nearest")


def test_tensors_give_tensors():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    photo, scores = torch.from_numpy(PHOTO), torch.from_numpy(P)
    ours = refine(photo, scores)
    assert isinstance(ours, torch.Tensor)
    assert np.array_equal(ours.numpy(), refine(PHOTO, P))
    assert isinstance(refine(PHOTO, scores.float()), torch.Tensor)
    assert isinstance(refine(photo, P), np.ndarray)
    half = refine(PHOTO, scores.bfloat16(), params=Params(normalization="after"))
    np.testing.assert_allclose(half.sum(0), 1, rtol=1e-4)
    unary = unary_from_probabilities(scores)
    crf = DenseCRF([Bilateral(photo, 50, 3)])
    numbers = unary_from_probabilities(P)
    assert np.array_equal(unary.numpy(), numbers)
    assert np.array_equal(crf.infer(unary).numpy(), crf.infer(numbers))
    assert np.array_equal(crf.map(unary).numpy(), crf.map(numbers))
    assert isinstance(unary_from_logits(scores), torch.Tensor)
    assert isinstance(unary_from_labels(torch.from_numpy(AREAS), 4), torch.Tensor)
    lattice = Lattice(torch.zeros(5, 2))
    assert isinstance(lattice.filter(torch.ones(5, 1)), torch.Tensor)
    assert np.array_equal(next(refine_many([(photo, scores)])).numpy(), ours.numpy())
    with pytest.raises(ValueError, match=r"wanted scores\.detach\(\), or densecrf\.torch\.DenseCRF"):
        refine(photo, scores.clone().requires_grad_())


class Foreign:
    """An array of a library that speaks DLPack and the array API standard."""

    def __init__(self, values, device=1):
        self.values, self.device = values, device

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device, 0

    def __array_namespace__(self):
        return Library


class Library:
    asarray = Foreign


def test_arrays_of_other_libraries_give_their_kind():
    ours = refine(PHOTO, Foreign(P))
    assert isinstance(ours, Foreign)
    assert np.array_equal(ours.values, refine(PHOTO, P))
    with pytest.raises(ValueError, match=r"got scores on a CUDA device, wanted .*\.cpu\(\)"):
        refine(PHOTO, Foreign(P, device=2))


def test_widths_for_each_channel():
    params = Params(appearance_rgb_std=[3, 5.0, np.float32(9)])
    assert params.appearance_rgb_std == (3, 5.0, 9.0)
    assert hash(params) == hash(Params(appearance_rgb_std=(3, 5, 9)))
    ours = refine(PHOTO, P, params=params)
    scaled = PHOTO / np.array([3, 5, 9])
    np.testing.assert_allclose(ours, refine(scaled, P, params=Params(appearance_rgb_std=0.999999)), atol=1e-3)
    with pytest.raises(ValueError, match="one for each of 3 channels"):
        refine(PHOTO, P, params=Params(appearance_rgb_std=(3, 5)))
    with pytest.raises(ValueError, match="wanted one number, or one for each channel"):
        Params(appearance_rgb_std=[])


COPIES = [lambda crf: pickle.loads(pickle.dumps(crf)), copy.copy, copy.deepcopy]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("backend", ["lattice", "exact"])
def test_models_can_be_copied_and_pickled(copied, backend):
    photo = PHOTO.copy()
    features = np.random.default_rng(0).normal(size=(24 * 36, 3))
    kernels = [Gaussian((24, 36), (3, 2), 2), Bilateral(photo, 50, (3, 4, 5), 4), Features(features)]
    options = {"compatibility": np.ones(4), "normalization": "after", "include_self": False}
    crf = DenseCRF(kernels, backend=backend, threads=1, merge_threshold=0, **options)
    unary = unary_from_probabilities(P)
    expected = crf.infer(unary)
    photo[:] = 0  # the model keeps what it was made from
    features[:] = 0
    assert np.array_equal(copied(crf).infer(unary), expected)


@pytest.mark.parametrize("copied", COPIES)
def test_lattices_can_be_copied_and_pickled(copied):
    features = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    values = np.random.default_rng(1).normal(size=(70, 2))
    lattice = Lattice(features, rings=1)
    expected = lattice.filter(values)
    features[:] = 0
    again = copied(lattice)
    assert np.array_equal(again.filter(values), expected)
    assert again.vertices == lattice.vertices


def scenes_of_many_sizes(count):
    return [scene(11 + 3 * n, 20 - n, labels=2 + n % 3, seed=n)[:2] for n in range(count)]


@pytest.mark.parametrize("threads", [1, 2, None])
def test_many_images_of_any_size(threads, monkeypatch):
    monkeypatch.setattr("densecrf.threads.processors", lambda: 3)
    pairs = scenes_of_many_sizes(7)
    results = list(refine_many(pairs, iterations=4, threads=threads))
    for (photo, probabilities), ours in zip(pairs, results, strict=True):
        assert np.array_equal(ours, refine(photo, probabilities, iterations=4))


def test_many_images_are_taken_as_they_are_needed(monkeypatch):
    monkeypatch.setattr("densecrf.threads.processors", lambda: 2)
    taken = []

    def pairs():
        for number in range(100):
            taken.append(number)
            yield scene(8, 9, seed=number)[:2]

    results = refine_many(pairs(), threads=2)
    assert not taken
    next(results)
    assert len(taken) <= 4
    results.close()
    assert len(taken) <= 4


def test_a_pair_that_cannot_be_refined_is_named():
    photo, probabilities, _ = scene(8, 9)
    results = refine_many([(photo, probabilities), (photo, probabilities - 1)])
    next(results)
    with pytest.raises(ValueError, match=r"pair 1: got .* negative"):
        next(results)
    with pytest.raises(TypeError, match="pair 0: got a int, wanted an image and its scores"):
        next(refine_many([3]))
    with pytest.raises(TypeError, match=r"got iterations = 2\.5"):
        refine_many([], iterations=2.5)
    assert list(refine_many([])) == []
