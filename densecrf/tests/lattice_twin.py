"""The permutohedral filter in plain Python, written from the geometry of the paper: slow, for comparison."""

import numpy as np


def filter_points(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N, d), (N, v) -> (N, v), in double precision."""
    d = features.shape[1]
    corners = [simplex(elevate(f)) for f in features.astype(np.float64)]
    vertices = {vertex: np.zeros(values.shape[1]) for point in corners for vertex, _ in point}
    for point, value in zip(corners, values.astype(np.float64), strict=True):
        for vertex, weight in point:
            vertices[vertex] += weight * value
    for axis in range(d + 1):
        step = np.full(d + 1, -1)
        step[axis] = d
        vertices = {
            vertex: own
            + 0.5 * vertices.get(tuple(np.array(vertex) + step), 0)
            + 0.5 * vertices.get(tuple(np.array(vertex) - step), 0)
            for vertex, own in vertices.items()
        }
    alpha = 1 / (1 + 2.0**-d)
    return np.array([alpha * sum(weight * vertices[vertex] for vertex, weight in point) for point in corners])


def elevate(feature: np.ndarray) -> np.ndarray:
    """The feature in the hyperplane of coordinates that sum to zero; the basis is scaled to a unit blur."""
    d = len(feature)
    out = np.zeros(d + 1)
    for i, x in enumerate(feature):  # column i: i + 1 ones, then -(i + 1), then zeros
        column = np.zeros(d + 1)
        column[: i + 1], column[i + 1] = 1, -(i + 1)
        out += x * column / np.sqrt((i + 1) * (i + 2))
    return out * (d + 1) * np.sqrt(2 / 3)


def simplex(x: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """The d + 1 lattice points around x, with the weights whose weighted mean is x."""
    d = len(x) - 1
    zero = np.round(x / (d + 1)) * (d + 1)
    excess = round(zero.sum() / (d + 1))
    order = np.argsort(-(x - zero), kind="stable")
    if excess > 0:  # the coordinates that were rounded up most come down again
        zero[order[-excess:]] -= d + 1
    elif excess < 0:
        zero[order[:-excess]] += d + 1
    offset = x - zero
    order = np.argsort(-offset, kind="stable")
    ranked = offset[order]
    weights = np.empty(d + 1)
    weights[0] = 1 - (ranked[0] - ranked[d]) / (d + 1)
    for k in range(1, d + 1):
        weights[k] = (ranked[k - 1] - ranked[k]) / (d + 1)
    points = []
    for k in range(
        d + 1
    ):  # the vertex of remainder k: k everywhere, but k - (d + 1) in the last k of the order
        vertex = zero + k
        vertex[order[d + 1 - k :]] -= d + 1
        points.append(tuple(int(c) for c in vertex))
    # the vertex of remainder k has the gap behind the (d + 1 - k)-th largest offset as its weight
    reordered = [weights[0], *weights[:0:-1]]
    return list(zip(points, reordered, strict=True))
