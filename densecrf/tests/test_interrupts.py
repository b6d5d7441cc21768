"""Ctrl-C ends native work in the main thread of a program, and a mean field is for one thread at a time."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from densecrf import DenseCRF, Features, Gaussian, lattice

TIMEOUT = 120  # seconds; without the interrupt, the work would take hours

# A shell makes its background processes ignore Ctrl-C, and child processes inherit that.
ENABLE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
RUN = """
import numpy as np, densecrf
crf = densecrf.DenseCRF([densecrf.Gaussian((240, 370), 3)], threads={threads}, convergence_tolerance=0)
unary = np.random.default_rng(0).normal(size=(3, 240, 370))
print("ready", flush=True)
crf.infer(unary, iterations=2**31 - 1)
"""
BUILD = """
import numpy as np, densecrf
features = np.zeros((400_000, 128), np.float32)  # excluding a point's own message takes milliseconds
print("ready", flush=True)
densecrf.DenseCRF([densecrf.Features(features)], include_self=False, threads={threads})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole group of processes")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("program", [RUN, BUILD])
def test_ctrl_c_ends_a_run_and_a_build(program, threads):
    code = ENABLE_CTRL_C + program.format(threads=threads)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout.readline().strip() == b"ready"
        time.sleep(1)  # until the native code runs
        child.send_signal(signal.SIGINT)
        try:
            _, errors = child.communicate(timeout=TIMEOUT)
        finally:
            child.kill()
    assert errors.strip().endswith(b"KeyboardInterrupt")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_other_signal_handlers_run_in_the_meantime_and_change_nothing():
    unary = np.random.default_rng(0).normal(size=(3, 24, 37))
    crf = DenseCRF([Gaussian((24, 37), 3)], convergence_tolerance=0)
    expected = crf.infer(unary, iterations=30)
    calls = []

    def handler(number, frame):
        calls.append(number)
        found = crf.infer(unary, iterations=30)  # a handler may use the same kernels
        np.testing.assert_array_equal(found, expected)
        if len(calls) == 3:
            raise InterruptedError("enough")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(InterruptedError, match="enough"):
            crf.infer(unary, iterations=2**31 - 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(calls) == 3
    np.testing.assert_array_equal(crf.infer(unary, iterations=30), expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_a_mean_field_that_was_stopped_refuses_further_calls():
    kernel = lattice.Kernel(Gaussian((24, 37), 3).features(), "symmetric", True)
    unary = np.random.default_rng(0).normal(size=(3, 24 * 37)).astype(np.float32)
    field = lattice.MeanField(
        unary, [kernel], [np.ones(3)], merge_threshold=0, convergence_tolerance=0, threads=1
    )

    def handler(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            field.run(2**31 - 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    for call in (field.marginals, field.finish, lambda: field.run(1), lambda: field.start_from(unary)):
        with pytest.raises(RuntimeError, match="stopped in the middle of a step; wanted a new one"):
            call()


def test_one_mean_field_is_for_one_thread_at_a_time():
    rng = np.random.default_rng(0)
    kernel = lattice.Kernel(rng.normal(size=(20_000, 3)), "symmetric", True)
    unary = rng.normal(size=(9, 20_000)).astype(np.float32)

    def field():
        return lattice.MeanField(
            unary, [kernel], [np.ones(9)], merge_threshold=0, convergence_tolerance=0, threads=2
        )

    def attempt():
        barrier.wait()
        try:
            shared.run(10)
        except RuntimeError as error:
            refused.append(str(error))

    shared = field()
    refused = []
    barrier = threading.Barrier(4)
    workers = [threading.Thread(target=attempt) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all("in use by another thread" in message for message in refused)
    alone = field()
    alone.run(10 * (4 - len(refused)))
    np.testing.assert_allclose(shared.marginals(), alone.marginals(), atol=1e-5)
    shared.finish()
    with pytest.raises(RuntimeError, match="is finished; wanted a new one"):
        shared.run(1)


def test_threads_other_than_the_main_one_do_not_check_signals():
    unary = np.random.default_rng(0).normal(size=(3, 500))
    crf = DenseCRF([Features(np.random.default_rng(1).normal(size=(500, 2)))])
    expected = crf.infer(unary)
    results = []
    worker = threading.Thread(target=lambda: results.append(crf.infer(unary)))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(results[0], expected)
