"""A model for tests of the server: it needs no weights, and takes as long as a test wants."""

import threading
from types import SimpleNamespace

import numpy as np

import densecrf
from deeplab.model.segmentation import Segmentation

NAMES = ("background", "cat", "dog")


class StubModel:
    """Labels the left half 0 and the right half 1, or 2 without the CRF; counts how many calls run at a time.

    Args:
        wait: called in every segmentation.
    """

    class_names = NAMES
    card = SimpleNamespace(variant="stub")
    crf_params = densecrf.Params()

    def __init__(self, wait=lambda: None):
        self.wait = wait
        self.lock = threading.Lock()
        self.running = 0
        self.max_running = 0
        self.done = 0

    def segment(self, photo, *, crf=True, size=None):
        with self.lock:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        try:
            self.wait()
        finally:
            with self.lock:
                self.running -= 1
                self.done += 1
        probabilities = np.zeros((3, *photo.shape[:2]), np.float32)
        middle = photo.shape[1] // 2
        probabilities[0, :, :middle] = 1
        probabilities[1 if crf else 2, :, middle:] = 1
        return Segmentation(photo, probabilities, NAMES, {"network": 0.5})

    def refine(self, plain, **_):
        return plain
