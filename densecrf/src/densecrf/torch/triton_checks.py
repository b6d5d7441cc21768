"""Comparison of the Triton kernels with plain PyTorch on a device."""

from __future__ import annotations

import torch

from densecrf.torch import triton_kernels


def failed_checks(device: torch.device) -> list[str]:
    """Names of the kernels that give other numbers than plain PyTorch on a device."""
    rng = torch.Generator().manual_seed(0)
    results = {**_check_lattice(device, rng), "gaussian": _check_gaussian(device, rng)}
    return [
        name
        for name, (result, expected) in results.items()
        if not torch.allclose(result, expected, rtol=1e-4, atol=1e-4)
    ]


def _check_lattice(
    device: torch.device, rng: torch.Generator
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Results and expected results of the lattice's kernels."""
    values = torch.rand(90, 21, generator=rng).to(device)
    weights = torch.rand(90, 3, generator=rng).to(device)
    corners = torch.randint(0, 40, (90, 3), generator=rng).to(device)
    corners[:45] = 7  # one vertex with many points
    order = corners.flatten().argsort(stable=True)
    counts = torch.bincount(corners.flatten(), minlength=41)
    segment_counts = (counts + 7) // 8
    segments_of_vertex = torch.cat([segment_counts.new_zeros(1), segment_counts.cumsum(0)])
    vertex = torch.arange(41, device=device).repeat_interleave(segment_counts)
    number = torch.arange(len(vertex), device=device) - segments_of_vertex[vertex]
    starts = (counts.cumsum(0) - counts)[vertex] + 8 * number
    segments = torch.cat([starts, starts.new_full((1,), 270)])
    up, down = torch.randint(0, 41, (2, 41), generator=rng).to(device)

    sums = torch.zeros(41, 21, device=device)
    for c in range(3):
        sums.index_add_(0, corners[:, c], weights[:, c, None] * values)
    blurred = sums + 0.5 * (sums[up] + sums[down])
    sliced = 1.5 * (weights[:, :, None] * blurred[corners]).sum(1) + values

    splat_rows = triton_kernels.splat(values, weights, order.int(), segments.int(), segments_of_vertex.int())
    blur_rows = triton_kernels.blur(splat_rows, up.int(), down.int())
    slice_result = triton_kernels.slice_rows(blur_rows, weights, corners.int(), 21, 1.5, values)
    return {
        "splat": (splat_rows[:, :21], sums),
        "blur": (blur_rows[:, :21], blurred),
        "slice": (slice_result, sliced),
    }


def _check_gaussian(device: torch.device, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and expected result of the exact filter."""
    size = 2 * triton_kernels.QUERIES
    points = torch.rand(4, size, generator=rng).to(device)
    values = torch.rand(size, 32, generator=rng).to(device)
    coarse = values.half()
    fine = (values - coarse).half()
    kernel = torch.exp2(-(points[:, :, None] - points[:, None]).square().sum(0))
    tiles = torch.arange(size // triton_kernels.KEYS, device=device).int().repeat(2)
    bounds = torch.tensor(
        [0, size // triton_kernels.KEYS, 2 * (size // triton_kernels.KEYS)], device=device
    ).int()
    schedule = torch.tensor([1, 0], device=device).int()
    filtered = (
        triton_kernels.gaussian(points, coarse, fine, tiles, bounds, schedule) / 2.0**triton_kernels.SHIFT
    )
    return filtered, (kernel.double() @ values.double()).float()
