import numpy as np

class Lattice:
    def __init__(self, features: np.ndarray, threads: int) -> None: ...
    @property
    def vertices(self) -> int: ...
    def filter(self, values: np.ndarray, threads: int) -> np.ndarray: ...

def mean_field(
    logits: np.ndarray,
    lattices: list[Lattice],
    weights: list[float],
    normalization: str,
    iterations: int,
    threads: int,
) -> np.ndarray: ...
