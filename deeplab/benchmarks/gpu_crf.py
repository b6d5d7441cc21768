"""Used by gpu.py: the sections about the CRF: parity with the CPU, lattice, exact mode, gradients."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from gpu_record import Record
from gpu_scene import SETTINGS, appearance_features, grid_axes, scenes

import densecrf
from densecrf.torch import DenseCRF, Kernel, Lattice, fused
from densecrf.torch.attention import Attention
from densecrf.torch.inference import FusedMessages
from densecrf.torch.kernel import grid_kernel

LABELS = 21
STEPS = 10
SAMPLE = 256
"""Number of points at which the exact filter is compared with float64 sums over all points."""
TILE_SIZES = ((64, 64, 4), (128, 64, 8), (128, 128, 8))
"""Number of points summed for, number of points summed over, warps."""
METHODS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "kernels": nullcontext,
    "plain PyTorch": fused.plain_pytorch,
}


def parity(record: Record) -> None:
    """Compare marginals and gradients with plain PyTorch on the CPU."""
    labels = 5 if record.small else LABELS
    for backend, full in (("torch", (97, 129)), ("exact", (65, 97))):
        height, width = (33, 45) if record.small else full
        for name, params in SETTINGS.items():
            title = f"{backend}, {name}, {width}×{height}, {labels} labels"
            work = partial(_compare, record.device, params, backend, (height, width, labels))
            record.attempt("parity with the CPU", title, work)


def _compare(
    device: torch.device, params: densecrf.Params, backend: str, size: tuple[int, int, int]
) -> dict[str, float]:
    expected, logit_gradient, weight_gradient = _outcome(torch.device("cpu"), params, backend, size)
    marginals, logit_gradient_here, weight_gradient_here = _outcome(device, params, backend, size)
    difference = (marginals - expected).abs()
    return {
        "largest difference of marginals": float(difference.max()),
        "share of marginals off by more than 1e-3": float((difference > 1e-3).float().mean()),
        "labels that differ": int((marginals.argmax(1) != expected.argmax(1)).sum()),
        "gradient to logits, difference of largest": _relative(logit_gradient_here, logit_gradient),
        "gradient to weights, difference of largest": _relative(weight_gradient_here, weight_gradient),
    }


def _outcome(
    device: torch.device, params: densecrf.Params, backend: str, size: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Marginals after ten steps, and gradients after five with respect to logits and weights."""
    image, logits = scenes(1, *size, device)
    with torch.no_grad():
        marginals = DenseCRF(params, backend=backend, marginals=True).to(device)(image, logits)
    scores = logits.clone().requires_grad_()
    crf = DenseCRF(params, backend=backend, iterations=5).to(device)
    crf(image, scores).logsumexp(1).square().mean().backward()
    assert scores.grad is not None
    assert crf.weights.grad is not None
    return marginals.cpu(), scores.grad.cpu(), crf.weights.grad.cpu()


def _relative(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((values - expected).abs().max() / expected.abs().max())


def lattice(record: Record) -> None:
    """Time ten steps with the lattice: as a whole, in parts, and as a CUDA graph."""
    height, width = (33, 45) if record.small else (375, 500)
    labels, section = (5 if record.small else LABELS), "lattice"
    for name, params in SETTINGS.items():
        image, logits = scenes(1, height, width, labels, record.device)
        for method, context in METHODS.items():
            title = f"{name}, {width}×{height}, {labels} labels, {STEPS} iterations, {method}"
            grid_kernel.cache_clear()
            with context(), torch.no_grad():
                crf = DenseCRF(params, backend="torch", iterations=STEPS).to(record.device)
                record.time(section, title, partial(crf, image, logits))
                features = appearance_features(image[0], params)
                record.time(section, f"{title}: building the appearance lattice", partial(Kernel, features))
                record.attempt(section, f"{title}: parts", partial(_parts, record, features, params, logits))
                if record.device.type == "cuda" and method == "kernels":
                    graph = f"{title}: steps alone, as a graph"
                    record.attempt(section, graph, partial(_graph, record, features, params, logits))
        grid_kernel.cache_clear()
    images, scores = scenes(2 if record.small else 16, height, width, labels, record.device)
    with torch.no_grad():
        crf = DenseCRF(SETTINGS["A"], backend="torch", iterations=STEPS).to(record.device)
        record.time(section, f"A, batch of {len(images)}, {width}×{height}", lambda: crf(images, scores))


def _rows(
    features: torch.Tensor, params: densecrf.Params, logits: torch.Tensor
) -> tuple[FusedMessages, Kernel]:
    """The messages of both kernels, and the appearance kernel."""
    height, width = logits.shape[2:]
    positions = torch.stack(
        [
            grid.flatten()
            for grid in torch.meshgrid(*grid_axes(height, width, params, logits.device), indexing="ij")[::-1]
        ],
        dim=1,
    )
    appearance = Kernel(features)
    weights = torch.tensor([params.appearance_weight, params.smoothness_weight], device=features.device)
    return FusedMessages([appearance, Kernel(positions)], weights), appearance


def _parts(
    record: Record, features: torch.Tensor, params: densecrf.Params, logits: torch.Tensor
) -> dict[str, Any]:
    """Milliseconds of a step and of the parts of the appearance filter, and the bytes these must move."""
    rows, appearance = _rows(features, params, logits)
    start = logits[0].flatten(1).t().contiguous()
    appearance_lattice: Lattice = appearance.gaussian  # type: ignore[assignment]
    vertices, weights = appearance_lattice.graph, appearance_lattice.weights
    points, labels = start.shape
    collected = vertices.splat_and_blur(start, weights)
    axes = len(vertices.up)
    row = 4 * collected.shape[1]  # bytes of one vertex
    pieces = len(vertices.segments) - 1
    work = {
        "a step of both kernels": lambda: rows.step(start, start, None),
        "softmax": lambda: start.softmax(dim=1),
        "splat and blurs": lambda: vertices.splat_and_blur(start, weights),
        "slice": lambda: vertices.slice(collected, weights, labels, start),
    }
    if vertices.tables:
        kernels, tables = vertices.tables.kernels, vertices.tables
        work["splat"] = lambda: kernels.splat(
            start, weights, tables.order, tables.segments, tables.segments_of_vertex
        )
        work["one blur"] = lambda: kernels.blur(collected, tables.up[0], tables.down[0])
    min_bytes = {
        "splat": 4 * points * labels
        + 8 * points * axes
        + row * pieces
        + row * (pieces + len(vertices)) * (pieces > len(vertices)),
        "one blur": 2 * row * len(vertices) + 8 * len(vertices),
        "slice": row * len(vertices) + 8 * points * axes + 8 * points * labels,
    }
    return {
        "vertices": len(vertices),
        "pieces": pieces,
        "launches of a filter": (1 if vertices.segments_of_vertex is None else 2) + axes + 1,
        "ms": {name: round(min(record.milliseconds(each, 20)), 4) for name, each in work.items()},
        "least MB moved": {name: round(count / 1e6, 1) for name, count in min_bytes.items()},
    }


def _graph(
    record: Record, features: torch.Tensor, params: densecrf.Params, logits: torch.Tensor
) -> dict[str, Any]:
    """Time a step captured as a CUDA graph and replayed, and the same steps launched one by one."""
    rows, _ = _rows(features, params, logits)
    start = logits[0].flatten(1).t().contiguous()
    state = start.clone()

    def steps() -> torch.Tensor:
        current = start
        for _ in range(STEPS):
            current = rows.step(current, start, None)
        return current

    expected = steps()
    torch.cuda.synchronize()
    started = time.perf_counter()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        state.copy_(rows.step(state, start, None))
    torch.cuda.synchronize()
    capture = 1000 * (time.perf_counter() - started)

    def replay() -> None:
        state.copy_(start)
        for _ in range(STEPS):
            graph.replay()

    replay()
    difference = float((state - expected).abs().max())
    return {
        "median ms": round(statistics.median(record.milliseconds(replay)), 3),
        "launched one by one, ms": round(min(record.milliseconds(steps)), 3),
        "capture, ms": round(capture, 3),
        "largest difference": difference,
    }


def exact(record: Record) -> None:
    """Time ten steps in the exact mode and tile sizes, and compare with float64."""
    height, width = (33, 45) if record.small else (375, 500)
    labels, section = (5 if record.small else LABELS), "exact"
    for name, params in SETTINGS.items():
        image, logits = scenes(1, height, width, labels, record.device)
        features = appearance_features(image[0], params)
        title = f"{name}, {width}×{height}, {labels} labels, {STEPS} iterations"
        with torch.no_grad():
            record.attempt(section, f"{title}: accuracy", partial(_accuracy, features, logits))
            crf = DenseCRF(params, backend="exact", iterations=STEPS).to(record.device)
            record.time(section, title, partial(crf, image, logits))
            record.time(section, f"{title}: preparing", partial(Attention, features))
            values = logits[0].flatten(1).softmax(0)
            axes = grid_axes(height, width, params, record.device)
            grid = Kernel.of_grid(axes)
            record.time(section, f"{title}: one smoothness filter", partial(grid, values))
            for sizes in TILE_SIZES:
                record.attempt(
                    section,
                    f"{title}: one filter, tiles {sizes}",
                    partial(_tiles, record, features, values, sizes),
                )


def exact_plain(record: Record) -> None:
    """Time the exact mode with attention in plain PyTorch."""
    height, width = (33, 45) if record.small else (375, 500)
    image, logits = scenes(1, height, width, 5 if record.small else LABELS, record.device)
    with fused.plain_pytorch(), torch.no_grad():
        features = appearance_features(image[0], SETTINGS["A"])
        values = logits[0].flatten(1).softmax(0)
        record.attempt("exact", "A: accuracy, plain PyTorch", lambda: _accuracy(features, logits))
        one = Attention(features)
        record.time("exact", "A: one filter, plain PyTorch", lambda: one.filter(values))


def _accuracy(features: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """Error of weighted means of probabilities at some points, against float64 sums over all pairs."""
    values = logits[0].flatten(1).softmax(0)
    one = Attention(features)
    sums = one.filter(values)
    weights = one.filter(torch.ones_like(values[:1]))
    chosen = torch.linspace(0, len(features) - 1, min(SAMPLE, len(features)), device=features.device).long()
    double = features.double()
    squares = torch.zeros(len(chosen), len(features), dtype=torch.float64, device=features.device)
    for axis in range(features.shape[1]):
        squares += (double[chosen, axis, None] - double[:, axis]).square()
    kernel = (-squares / 2).exp()
    expected, total = values.double() @ kernel.t(), kernel.sum(1)
    error = (sums[:, chosen].double() / weights[0, chosen].double() - expected / total).abs()
    result: dict[str, Any] = {
        "largest error of means of probabilities": float(error.max()),
        "mean error": float(error.mean()),
        "largest relative error of row sums": float((weights[0, chosen].double() / total - 1).abs().max()),
    }
    if one.tiles:
        result["share of pairs computed"] = round(one.tiles.computed_share, 4)
    return result


def _tiles(record: Record, features: torch.Tensor, values: torch.Tensor, sizes: tuple[int, int, int]) -> Any:
    kernels: Any = fused.kernels_for(features)
    if kernels is None:
        return {"left out": "no Triton kernels here"}
    before = kernels.QUERIES, kernels.KEYS, kernels.WARPS
    kernels.QUERIES, kernels.KEYS, kernels.WARPS = sizes
    try:
        one = Attention(features)
        assert one.tiles is not None
        times = record.milliseconds(lambda: one.filter(values))
        pairs = one.tiles.computed_share * len(features) ** 2
        return {
            "median ms": round(statistics.median(times), 3),
            "share": round(one.tiles.computed_share, 4),
            "pairs": f"{pairs:.3g}",
        }
    finally:
        kernels.QUERIES, kernels.KEYS, kernels.WARPS = before


def backward(record: Record) -> None:
    """Time forward and backward of five steps, with gradients of logits and weights."""
    height, width = (33, 45) if record.small else (375, 500)
    labels = 5 if record.small else LABELS
    image, logits = scenes(1, height, width, labels, record.device)
    for backend, method in (("torch", "kernels"), ("exact", "kernels"), ("torch", "plain PyTorch")):
        grid_kernel.cache_clear()
        with METHODS[method]():
            crf = DenseCRF(SETTINGS["A"], backend=backend, iterations=5).to(record.device)

            def step(crf: DenseCRF = crf) -> None:
                crf.zero_grad()
                crf(image, logits.clone().requires_grad_()).logsumexp(1).mean().backward()

            record.time(
                "backward, 5 iterations", f"{backend}, A, {width}×{height}, {labels} labels, {method}", step
            )
    grid_kernel.cache_clear()
