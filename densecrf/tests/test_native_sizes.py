"""What the native kernels refuse: sizes that do not fit, strengths, numbers of threads, too little memory."""

import subprocess
import sys

import numpy as np
import pytest

from densecrf import DenseCRF, Gaussian, Lattice, lattice, refine
from densecrf import threads as counts

POINTS = 24 * 37


def kernel(points=POINTS):
    return lattice.Kernel(np.random.default_rng(0).normal(size=(points, 2)), "symmetric", True)


def field(labels=3, points=POINTS, kernels=None, strengths=None):
    unary = np.zeros((labels, points), np.float32)
    kernels = [kernel()] if kernels is None else kernels
    strengths = [np.ones(labels)] * len(kernels) if strengths is None else strengths
    return lattice.MeanField(
        unary, kernels, strengths, merge_threshold=0.1, convergence_tolerance=1e-4, threads=2
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel().filter(np.zeros((POINTS - 1, 2))), "another number of rows than points"),
        (lambda: kernel().filter(np.zeros((POINTS + 1, 2))), "another number of rows than points"),
        (lambda: field(kernels=[kernel(POINTS - 1)]), "another number of points than the unaries"),
        (lambda: field(kernels=[kernel(POINTS + 1)]), "another number of points than the unaries"),
        (lambda: field(strengths=[np.ones(2)]), "another number of strengths than labels"),
        (lambda: field(strengths=[np.ones((2, 3))]), "another number of strengths than labels"),
        (lambda: field(strengths=[]), "another number of strengths than kernels"),
        (lambda: field(labels=0), "got no labels"),
        (lambda: field().start_from(np.zeros((2, POINTS))), "another shape than the unaries"),
        (lambda: field().start_from(np.zeros((3, POINTS - 1))), "another shape than the unaries"),
        (lambda: lattice.Kernel(np.zeros((5, 2)), "sym", True), "wanted one of: symmetric"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_messages_refuse_sizes_that_do_not_fit():
    one = kernel()
    values = np.zeros((3, POINTS), np.float32)
    for weights, inputs, factors in (
        ([1.0], values[:, 1:].copy(), None),
        ([], values, None),
        ([1.0], values, values[1:]),
    ):
        with pytest.raises(ValueError, match=r"^got "):
            lattice.weighted_messages([one], weights, inputs, factors=factors, threads=1)


@pytest.mark.parametrize("option", ["merge_threshold", "convergence_tolerance"])
@pytest.mark.parametrize("value", [-0.1, 1.0, np.nan])
def test_thresholds_out_of_range_are_refused(option, value):
    options = {"merge_threshold": 0.0, "convergence_tolerance": 0.0} | {option: value}
    with pytest.raises(ValueError, match=f"got a {option.replace('_', ' ')} that is not from 0 to under 1"):
        lattice.MeanField(np.zeros((2, POINTS)), [kernel()], [np.ones(2)], **options, threads=1)


@pytest.mark.parametrize("labels", [1, 2, 3, 9])
@pytest.mark.parametrize("floor", [0.0, 1e-10])
def test_the_largest_allowed_strengths_give_finite_marginals(labels, floor):
    unary = np.random.default_rng(0).uniform(size=(labels, POINTS))
    for strength in (1e20, -1e20):
        options = {"merge_threshold": 0.1, "convergence_tolerance": 1e-4, "threads": 2, "floor": floor}
        mean_field = lattice.MeanField(unary, [kernel()], [np.full(labels, strength)], **options)
        mean_field.run(5)
        np.testing.assert_allclose(mean_field.finish().sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("labels", [1, 2, 3, 9])
@pytest.mark.parametrize("strength", [3e38, -3e38, np.inf, np.nan])
def test_strengths_whose_sums_would_overflow_are_refused(labels, strength):
    with pytest.raises(ValueError, match="over 1e20; wanted at most that"):
        field(labels=labels, strengths=[np.full(labels, strength)])


def test_no_more_threads_than_processors(monkeypatch):
    monkeypatch.setattr(counts, "processors", lambda: 6)
    assert [counts.thread_count(threads) for threads in (None, 1, 6, 7, 10**9, np.int64(3))] == [
        6,
        1,
        6,
        6,
        6,
        3,
    ]
    photo, probabilities = np.zeros((24, 37, 3), np.uint8), np.full((2, 24, 37), 0.5)
    np.testing.assert_array_equal(
        refine(photo, probabilities, threads=10**9), refine(photo, probabilities, threads=1)
    )


@pytest.mark.parametrize("threads", [0, -1, 2**31, 10**20])
def test_impossible_numbers_of_threads_are_refused_in_one_line(threads):
    with pytest.raises(
        ValueError, match=rf"^got {threads} threads, wanted at least 1 and at most 2147483647$"
    ):
        Lattice(np.zeros((5, 2)), threads=threads)
    with pytest.raises(ValueError, match=rf"^got {threads} threads"):
        refine(np.zeros((4, 6, 3), np.uint8), np.full((2, 4, 6), 0.5), threads=threads)


@pytest.mark.parametrize("value", [2.0, "2", [2]])
def test_values_that_are_not_whole_numbers_are_refused_in_one_line(value):
    crf = DenseCRF([Gaussian((4, 6), 3)])
    with pytest.raises(TypeError, match=r"^got iterations = .*, wanted a whole number$"):
        crf.infer(np.zeros((2, 4, 6)), iterations=value)
    with pytest.raises(TypeError, match=r"^got threads = .*, wanted a whole number$"):
        DenseCRF([Gaussian((4, 6), 3)], threads=value)
    with pytest.raises(ValueError, match=r"^got 10000000000 iterations, wanted at least 0 and at most"):
        crf.infer(np.zeros((2, 4, 6)), iterations=10**10)


LOW_MEMORY = """
import os, resource
import numpy as np
from densecrf import Bilateral, DenseCRF, Gaussian, threads

threads.processors = lambda: 8
rng = np.random.default_rng(0)
photo = rng.integers(0, 256, size=(120, 170, 3), dtype=np.uint8)
unary = rng.normal(size=(9, 120, 170)).astype(np.float32)
exit_codes = []
for megabytes in range(1, 61, 2):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 10**6,) * 2)
            crf = DenseCRF([Gaussian((120, 170), 3), Bilateral(photo, 50, 3)], threads=8)
            crf.infer(unary)
            code = 0
        except MemoryError:
            code = 10
        finally:
            os._exit(code)
    exit_codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(sorted(set(exit_codes)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process in this way")
def test_too_little_memory_is_a_memory_error_and_never_ends_the_process():
    done = subprocess.run([sys.executable, "-c", LOW_MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[10]", "[0, 10]"), done.stderr
