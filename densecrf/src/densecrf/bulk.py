"""Many images refined at a time, of any sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from numpy.typing import ArrayLike

from densecrf.params import Params
from densecrf.refinement import refine
from densecrf.threads import thread_count, whole_number
from densecrf.workers import map_in_order, split_threads


def refine_many(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    kind: str = "probabilities",
    upsample: bool | str = False,
    params: Params | None = None,
    iterations: int = 10,
    threads: int | None = None,
    backend: str = "lattice",
) -> Iterator[Any]:
    """Refine the class scores of many images, several images at a time.

    Each image is worked on by one thread, which takes less time in all than several threads for one image
    after the other. Images may differ in size and number of labels. Pairs are taken from the iterable as they
    are needed, so a generator can read them from files; at most ``threads`` + 1 of them are in memory at a
    time, beside the one whose result is being used.

    Args:
        pairs: an image and its scores each, see ``refine``.
        kind: see ``refine``.
        upsample: see ``refine``.
        params: see ``refine``.
        iterations: see ``refine``.
        threads: number of images at a time; by default, and at most, one for each processor that this process
            may use. Memory grows with it.
        backend: see ``refine``.

    Yields:
        The marginals of each pair, in order; they are those of ``refine``.

    Raises:
        TypeError: see ``refine``.
        ValueError: see ``refine``; the message begins with the number of the pair, from 0.
        MemoryError: see ``refine``.
    """
    whole_number("iterations", iterations)
    count = len(pairs) if isinstance(pairs, Sized) else None
    workers, each = split_threads(thread_count(threads), count)
    options: dict[str, Any] = {
        "kind": kind,
        "upsample": upsample,
        "params": params,
        "iterations": iterations,
        "threads": each,
        "backend": backend,
    }
    return _results(pairs, options, workers)


def _results(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]], options: dict[str, Any], workers: int
) -> Iterator[Any]:
    def refine_pair(pair: tuple[ArrayLike, ArrayLike]) -> Any:
        try:
            image, scores = pair
        except (TypeError, ValueError):
            raise TypeError(f"got a {type(pair).__name__}, wanted an image and its scores") from None
        return refine(image, scores, **options)

    for number, (_, result) in enumerate(map_in_order(refine_pair, pairs, workers)):
        if isinstance(result, (ValueError, TypeError, MemoryError)):
            raise type(result)(f"pair {number}: {result}") from result
        if isinstance(result, Exception):
            raise result
        yield result
