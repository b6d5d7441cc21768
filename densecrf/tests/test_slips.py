"""Common mistakes: each is refused or warned about, and the message says what would work."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densecrf
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
from densecrf.cli import main
from densecrf.exact import gaussian_filter
from scenes import scene

PHOTO, P, AREAS = scene(24, 36)
SIZE = (24, 36)
FOREGROUND = P[2]


def ramp(top, dtype):
    return np.linspace(0, top, 24 * 36).reshape(24, 36).astype(dtype)


IMAGES = {
    "0 to 1": (PHOTO / 255, "multiply by 255"),
    "0 to 1, float32": ((PHOTO / 255).astype(np.float32), "appearance_rgb_std"),
    "standardised": ((PHOTO / 255 - 0.45) / 0.225, "(image * std + mean) * 255"),
    "16 bits": (PHOTO.astype(np.uint16) * 257, "16 bits: image / 257"),
    "12 bits": (PHOTO.astype(np.uint16) * 16, "12 bits: image / 16"),
    "16 bits as float": (PHOTO.astype(np.float32) * 257, "257 times that for 8 bits"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_levels_in_other_units_than_the_width_are_told(case):
    image, advice = IMAGES[case]
    with pytest.warns(UserWarning, match=r"^got an image with ") as caught:
        refine(image, P, iterations=1)
    assert advice in str(caught[0].message)
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    with pytest.warns(UserWarning, match="wanted .*, or a width in the image's units"):
        DenseCRF([Bilateral(image, 50, 3)])


@pytest.mark.parametrize(
    ("image", "std"),
    [
        (PHOTO, 3),
        (PHOTO.astype(np.float64), 3),
        (PHOTO / 255, 3 / 255),
        (PHOTO.astype(np.uint16) * 257, 3 * 257),
        (PHOTO - np.float32(120), 3),  # mean subtracted: the same differences
        (np.zeros((24, 36, 3)), 3),
        (ramp(3000, np.int16) - 1000, 20),  # Hounsfield units
        (np.stack([ramp(255, np.float32), ramp(1, np.float32)], axis=2), (3.0, 0.1)),
    ],
)
def test_levels_that_fit_the_width_are_not_told(image, std):
    refine(image, P, params=Params(appearance_rgb_std=std), iterations=1)  # a warning is an error here


def test_levels_multiplied_as_told_give_the_same():
    expected = refine(PHOTO, P)
    np.testing.assert_allclose(refine(PHOTO / 255 * 255, P), expected, atol=1e-3)
    divided = refine(PHOTO / 255, P, params=Params(appearance_rgb_std=3 / 255))
    np.testing.assert_allclose(divided, expected, atol=1e-3)


def test_a_warning_is_shown_once_for_each_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for image in (PHOTO / 255, PHOTO / 300):
            refine(image, P, iterations=1)
    assert len(caught) == 1


SCORES = {
    "logits": (np.log(P) + 1, "kind='logits'"),
    "positive logits": (np.log(P) + 30, "kind='logits'"),
    "energies": (-np.log(P), "kind='energies'"),
    "levels": (np.round(P * 255).astype(np.uint8), "divide levels of 0–255 by 255"),
    "votes": (np.round(P * 7), "counts by their sum"),
    "one label": (FOREGROUND[None], "scores[0], or both labels, np.stack([1 - p, p])"),
    "labels last": (np.moveaxis(P, 0, -1), "np.moveaxis(scores, -1, -3)"),
    "width first": (np.swapaxes(P, 1, 2), "np.swapaxes(scores, -1, -2)"),
    "coarse": (P[:, ::8, ::8], "upsample=True (--upsample)"),
    "mask": (AREAS == 2, "np.where(mask, 0.9, 0.1)"),
    "mask of 0 and 255": ((AREAS == 2).astype(np.uint8) * 255, "np.where(mask > 0, 0.9, 0.1)"),
    "saliency of 0 to 255": (np.round(FOREGROUND * 255), "divide levels of 0–255 by 255"),
    "foreground logits": (np.log(FOREGROUND / (1 - FOREGROUND)), "kind='logits'"),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores_that_are_no_probabilities_are_refused(case):
    scores, advice = SCORES[case]
    with pytest.raises(ValueError, match=r"^got ") as caught:
        refine(PHOTO, scores)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kinds_that_are_named_give_the_same():
    expected = refine(PHOTO, P)
    np.testing.assert_allclose(refine(PHOTO, np.log(P) + 1, kind="logits"), expected, atol=1e-5)
    np.testing.assert_allclose(refine(PHOTO, -np.log(P), kind="energies"), expected, atol=1e-5)
    with pytest.raises(ValueError, match="wanted one of: probabilities, logits, energies"):
        refine(PHOTO, P, kind="softmax")
    with pytest.raises(ValueError, match=r"got energies of the foreground alone, wanted \(2, H, W\)"):
        refine(PHOTO, FOREGROUND, kind="energies")


def test_channels_first_are_told():
    with pytest.raises(ValueError, match=r"np\.moveaxis\(image, -3, -1\)"):
        refine(np.moveaxis(PHOTO, -1, 0), P)


def test_sums_other_than_one_are_told_and_normalised():
    sigmoids = np.clip(P * 0.7 + 0.1, 0, 1)
    normalised = sigmoids / sigmoids.sum(0)
    with pytest.warns(UserWarning, match=r"divided by their sum\. Divide by values\.sum\(0\)"):
        ours = refine(PHOTO, sigmoids)
    np.testing.assert_allclose(ours, refine(PHOTO, normalised), atol=1e-5)
    with pytest.warns(UserWarning, match="for logits use unary_from_logits"):
        energies = unary_from_probabilities(sigmoids)
    np.testing.assert_allclose(energies, -np.log(normalised), rtol=1e-4, atol=1e-6)
    refine(PHOTO, P.astype(np.float16))  # within a hundredth of 1
    empty = P.copy()
    empty[:, 3:5] = 0
    with pytest.warns(UserWarning, match="all labels count as equally probable there") as caught:
        ours = refine(PHOTO, empty)
    assert len(caught) == 1
    empty[:, 3:5] = 1 / len(P)
    np.testing.assert_allclose(ours, refine(PHOTO, empty), atol=1e-5)


def test_unary_helpers_name_each_other():
    with pytest.raises(ValueError, match=r"negative .* for logits use unary_from_logits"):
        unary_from_probabilities(np.log(P))
    with pytest.raises(ValueError, match=r"up to .*energies −log p need no conversion"):
        unary_from_probabilities(-np.log(P))
    with pytest.raises(ValueError, match="sums of 1 over the first axis, or over the second of a batch"):
        unary_from_probabilities(np.stack([P, P]) * 0.5)
    with pytest.raises(ValueError, match="for a mask of 0 and 255 use labels > 0"):
        unary_from_labels((AREAS == 2).astype(np.uint8) * 255, 2)
    with pytest.raises(ValueError, match="use unary_from_probabilities"):
        unary_from_labels(FOREGROUND, 2)


def test_one_label_is_told():
    with pytest.warns(UserWarning, match=r"unary_from_probabilities\(np\.stack\(\[1 - p, p\]\)\)"):
        DenseCRF([Gaussian(SIZE, 3)]).infer(-np.log(FOREGROUND)[None])


def test_hard_foreground_probabilities_are_told():
    with pytest.warns(UserWarning, match=r"np\.where\(mask > 0\.5, 0\.9, 0\.1\)"):
        refine(PHOTO, (AREAS == 2).astype(np.float32))


def test_swapped_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(36, 24\) and \(24, 36\): width and height are swapped"):
        DenseCRF([Gaussian(SIZE[::-1], 3), Bilateral(PHOTO, 50, 3)])
    with pytest.raises(ValueError, match=r"\(24, 36\) and \(12, 72\): wanted one size"):
        DenseCRF([Bilateral(np.stack([PHOTO] * 2), 50, 3), Gaussian((12, 72), 3)])
    crf = DenseCRF([Gaussian(SIZE, 3), Bilateral(PHOTO, 50, 3)])
    unary = unary_from_probabilities(P)
    with pytest.raises(ValueError, match=r"wanted np\.swapaxes\(array, -1, -2\)"):
        crf.infer(unary.swapaxes(1, 2))
    flat = crf.infer(unary.reshape(len(P), -1))
    assert np.array_equal(flat.reshape(unary.shape), crf.infer(unary))


def test_map_coordinates_lose_no_digits():
    rng = np.random.default_rng(0)
    near = rng.uniform(0, 6, size=(400, 2))
    values = rng.uniform(size=(400, 3))
    far = near + np.array([499_980, 5_412_345]) / 3  # UTM coordinates in metres, widths of 3 m
    exact = gaussian_filter(near, values)
    error = np.abs(Lattice(near).filter(values) / exact - 1).mean()
    assert np.abs(Lattice(far).filter(values) / exact - 1).mean() < 1.3 * error
    unary = unary_from_logits(values.T)
    ours = DenseCRF([Features(far)], backend="exact").infer(unary)
    np.testing.assert_allclose(ours, DenseCRF([Features(near)], backend="exact").infer(unary), atol=1e-4)
    with pytest.warns(UserWarning, match="wanted float64, or offsets .* subtracted before"):
        Lattice(far.astype(np.float32))


def test_offsets_keep_the_lattice():
    rng = np.random.default_rng(1)
    near = rng.uniform(0, 4, size=(300, 3)).astype(np.float32).astype(np.float64)
    values = rng.uniform(size=(300, 2))
    periods = np.sqrt(1.5 * np.array([1 * 2, 2 * 3, 3 * 4]))  # by which the lattice repeats along each axis
    moved = Lattice(near + 1e6 * periods * (1, -2, 3)).filter(values)
    np.testing.assert_allclose(moved, Lattice(near).filter(values), rtol=1e-3)


@pytest.mark.parametrize("bands", [200, 224])
def test_hyperspectral_images(bands):
    rng = np.random.default_rng(bands)
    _, probabilities, areas = scene(12, 18)
    spectra = rng.uniform(1000, 3000, size=(4, bands))
    cube = (spectra[areas] + rng.normal(scale=15, size=(*areas.shape, bands))).astype(np.uint16)
    marginals = refine(cube, probabilities, params=Params(appearance_rgb_std=400))
    assert (marginals.argmax(0) == areas).mean() > (probabilities.argmax(0) == areas).mean()
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-4)
    with pytest.raises(ValueError, match="d from 1 to 255"):
        Lattice(np.zeros((3, 256)))


def test_memory_of_many_bands_is_foreseen(monkeypatch):
    monkeypatch.setattr("densecrf.memory.available", lambda: 4 * 10**9)
    cube = np.random.default_rng(0).uniform(0, 9, size=(145, 145, 200)).astype(np.float32)
    with pytest.raises(
        MemoryError, match=r"a lattice over 21025 points of 202 features needs about 10\.\d GB"
    ):
        DenseCRF([Bilateral(cube, 3, 0.1)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    np.save("p.npy", P)
    return tmp_path


def run(capsys, *words):
    code = main(["refine", *words])
    shown = capsys.readouterr()
    assert shown.err.count("\n") <= 1
    return code, shown.out, shown.err


def read(name):
    with Image.open(name) as image:
        return image.mode, np.asarray(image)


def test_command_line_reads_masks(folder, capsys):
    mask = AREAS == 2
    mask = np.where(np.random.default_rng(0).uniform(size=SIZE) < 0.1, ~mask, mask)
    Image.fromarray(mask.astype(np.uint8) * 255).save("mask.png")
    Image.fromarray(mask).save("bits.png")
    for name in ("mask.png", "bits.png"):
        code, out, _ = run(capsys, "photo.png", name, "-o", "out.png")
        assert code == 0
        assert "scores taken as a mask, right with probability 0.9" in out
        mode, values = read("out.png")
        assert mode == "L"
        assert set(np.unique(values)) == {0, 255}
        assert ((values > 0) == (AREAS == 2)).mean() > 0.97


def test_command_line_asks_what_a_saliency_map_is(folder, capsys):
    soft = np.round(FOREGROUND * 255).astype(np.uint8)
    Image.fromarray(soft).save("soft.png")
    code, _, error = run(capsys, "photo.png", "soft.png", "-o", "out.png")
    assert code == 1
    assert "different levels; wanted --kind foreground for a saliency map" in error
    code, out, _ = run(capsys, "photo.png", "soft.png", "-o", "q.npy", "--kind", "foreground")
    assert code == 0
    assert "probabilities of the foreground, 0 to 255" in out
    np.testing.assert_allclose(np.load("q.npy"), refine(PHOTO, soft / 255), atol=1e-6)


def test_command_line_has_the_same_rule_for_scores(folder, capsys):
    np.save("logits.npy", np.log(P) + 1)
    code, _, error = run(capsys, "photo.png", "logits.npy", "-o", "out.png")
    assert code == 1
    assert "(--kind logits)" in error
    code, out, _ = run(capsys, "photo.png", "logits.npy", "-o", "q.npy", "--kind", "logits")
    assert code == 0
    assert "scores taken as logits of 4 labels" in out
    np.testing.assert_allclose(np.load("q.npy"), refine(PHOTO, P), atol=1e-5)
    np.save("sigmoids.npy", P / 2 + 0.2)
    code, _, error = run(capsys, "photo.png", "sigmoids.npy", "-o", "out.png")
    assert code == 0
    assert error.startswith("densecrf: warning: got probabilities that do not sum to 1")
    np.save("one.npy", FOREGROUND[None])
    code, _, error = run(capsys, "photo.png", "one.npy", "-o", "out.png")
    assert code == 1
    assert "wanted --kind foreground" in error
    np.save("coarse.npy", P[:, ::8, ::8])
    code, _, error = run(capsys, "photo.png", "coarse.npy", "-o", "out.png")
    assert code == 1
    assert "for coarse scores --upsample" in error
    assert run(capsys, "photo.png", "coarse.npy", "-o", "out.png", "--upsample")[0] == 0


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "float.tif"])
def test_command_line_keeps_all_bits_of_grey_images(folder, capsys, name):
    grey = PHOTO[:, :, 0].astype(np.uint16) * 257
    if name == "float.tif":
        Image.fromarray(grey.astype(np.float32)).save(name)
    else:
        Image.fromarray(grey).save(name)
    code, _, error = run(capsys, name, "p.npy", "-o", "q.npy")
    assert code == 0
    assert "densecrf: warning: got an image with levels over 255" in error
    code, _, error = run(capsys, name, "p.npy", "-o", "q.npy", "--appearance-rgb-std", str(3 * 257))
    assert (code, error) == (0, "")
    np.testing.assert_allclose(np.load("q.npy"), densecrf.refine(PHOTO[:, :, 0], P), atol=1e-3)
