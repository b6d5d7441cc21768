"""A function applied to many items by threads, the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Apply a function to items by several threads.

    Items are taken from the iterable as they are needed, at most one more than there are threads at a time,
    so a generator of any length can be given. If the caller stops early, items that have begun are finished
    and no others begin.

    Ctrl-C does not wait for items that have begun.

    Args:
        function: called in a worker thread; it should release the interpreter's lock.
        items: what to apply it to.
        workers: number of threads, at least 1.

    Yields:
        Each item with the function's result, or with the exception that it raised, in the order of the items.
    """
    source = iter(items)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="densecrf")
    is_interrupted = False
    try:
        while True:
            while len(waiting) <= workers:
                try:
                    item = next(source)
                except StopIteration:
                    break
                waiting.append((item, pool.submit(function, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            error = future.exception()
            if error is None:
                yield item, future.result()
            elif isinstance(error, Exception):
                yield item, error
            else:
                raise error
            del item, future
    except KeyboardInterrupt:
        is_interrupted = True
        raise
    finally:
        pool.shutdown(wait=not is_interrupted, cancel_futures=True)


def split_threads(threads: int, items: int | None) -> tuple[int, int]:
    """How to divide threads between items that are worked on at the same time.

    Args:
        threads: number of threads in all, at least 1.
        items: number of items; None if it is not known.

    Returns:
        workers: number of items at a time.
        threads: number of threads for each item.
    """
    workers = threads if items is None else max(1, min(threads, items))
    return workers, max(1, threads // workers)
