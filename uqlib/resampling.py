"""Bootstrap over questions by weights: a replicate is a count for each question, not a copy of it.

Correlations of many measures and replicates are then a handful of matrix products.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 2**21
RESOLUTION = 1e-6  # measures are float32: what varies less, relative to its size, is constant


class Moments(NamedTuple):
    """Weighted moments of series x and of y within groups, for each set of weights.

    Axes: b sets of weights, g groups, m series of x.
    """

    weight: np.ndarray
    """Total weight of a group, shape (b, g, 1)."""
    mean_x: np.ndarray
    """Weighted means, shape (b, g, m)."""
    mean_y: np.ndarray
    """Weighted means, shape (b, g, 1)."""
    xx: np.ndarray
    """Weighted sums of squares about the means, shape (b, g, m)."""
    yy: np.ndarray
    """The same, shape (b, g, 1)."""
    xy: np.ndarray
    """Weighted sums of products about the means, shape (b, g, m)."""


def bootstrap_weights(n: int, replicates: int, seed: int | np.random.Generator) -> np.ndarray:
    """Draw how often each of n questions occurs in each bootstrap replicate.

    Parameters
    ----------
    n, replicates : int
    seed : int or Generator
        A generator goes on where it stands.

    Returns
    -------
    ndarray of float64, shape (replicates, n)
        Whole numbers; every row sums to n.

    Examples
    --------
    >>> bootstrap_weights(4, 2, seed=0).sum(axis=1)
    array([4., 4.])
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, n))
    for row in weights:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return weights


def bootstrap_blocks(n: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Draw bootstrap weights over n questions in blocks of at most `BLOCK` numbers.

    The blocks together are `bootstrap_weights`; memory does not grow with the
    number of replicates.

    Yields
    ------
    ndarray of float64, shape (block, n)

    Examples
    --------
    >>> [block.shape for block in bootstrap_blocks(2**20, 3, seed=0)]
    [(2, 1048576), (1, 1048576)]
    """
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // n)
    for start in range(0, replicates, step):
        yield bootstrap_weights(n, min(step, replicates - start), rng)


def interval(replicates: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis; NaN replicates are left out, all NaN gives NaN.

    Examples
    --------
    >>> low, high = interval(np.linspace(0, 1, 1001))
    >>> round(float(low), 3), round(float(high), 3)
    (0.025, 0.975)
    """
    tail = (1 - level) / 2
    quantile = np.nanquantile if np.isnan(replicates).any() else np.quantile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")
        low, high = quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def weighted_pearson(x, y, weights, groups=None) -> np.ndarray:
    """Pearson correlation of each row of x with y, for each set of weights.

    Parameters
    ----------
    x : array_like, shape (m, n)
    y : array_like, shape (n,)
    weights : array_like, shape (b, n)
        Not negative, e.g. from `bootstrap_weights`; ones give the plain correlation.
    groups : array_like, shape (n,), optional
        Correlate within groups: the partial correlation given a dummy for each group.

    Returns
    -------
    ndarray of float64, shape (b, m)
        In [-1, 1]; NaN where x or y does not vary.

    Examples
    --------
    >>> weighted_pearson([[1, 2, 3]], [2, 4, 6], np.ones((1, 3)))
    array([[1.]])
    """
    moments = group_moments(x, y, weights, groups)
    return moments_correlation(moments, within=groups is not None)


def group_moments(x, y, weights, groups=None) -> Moments:
    """Compute the moments from which correlations over and within groups follow.

    Groups whose x or y are to be multiplied by a factor of their own need no second pass over the
    data: `moments_correlation` takes the factors.

    Parameters
    ----------
    x : array_like, shape (m, n)
    y : array_like, shape (n,)
    weights : array_like, shape (b, n)
        Not negative; quickest if the questions are sorted by group.
    groups : array_like, shape (n,), optional
        One group if left out.

    Returns
    -------
    Moments
        Groups in ascending order.

    Examples
    --------
    >>> group_moments([[1, 3, 7]], [0, 0, 1], np.ones((1, 3)), ["a", "a", "b"]).mean_x.ravel()
    array([2., 7.])
    """
    x, y, weights = (np.asarray(a, dtype=float) for a in (x, y, weights))
    groups = np.zeros(len(y)) if groups is None else np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    if not (np.diff(order) == 1).all():
        x, y, weights, groups = x[:, order], y[order], weights[:, order], groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    parts = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(y)], strict=True)]
    found = [_moments(x[:, part], y[part], weights[:, part]) for part in parts]
    return Moments(*(np.stack(values, axis=1) for values in zip(*found, strict=True)))


def moments_correlation(moments: Moments, x_scale=1.0, y_scale=1.0, within=False) -> np.ndarray:
    """Correlate x with y, each multiplied by a factor of its group.

    By the law of total covariance: what lies within groups, and what lies between their means.

    Parameters
    ----------
    moments : Moments
    x_scale, y_scale : array_like, shapes (g, 1) or (g, m)
    within : bool
        Leave out what lies between: the partial correlation given a dummy for each group.

    Returns
    -------
    ndarray of float64, shape (b, m)
        In [-1, 1]; NaN where the scaled x or y does not vary.

    Examples
    --------
    >>> x, y, n = np.array([[0.1, 0.5, 0.9]]), np.array([0.6, 0.8, 0.7]), np.array([2, 2, 3])
    >>> moments, ln_n = group_moments(x, y, np.ones((1, 3)), n), np.log([[2], [3]])
    >>> expected = np.corrcoef(x[0] * np.log(n), y * np.log(n))[0, 1]
    >>> bool(np.isclose(moments_correlation(moments, ln_n, ln_n)[0, 0], expected))
    True
    """
    weight, mean_x, mean_y, xx, yy, xy = moments
    x_scale, y_scale = np.asarray(x_scale, dtype=float), np.asarray(y_scale, dtype=float)
    mean_x, mean_y = mean_x * x_scale, mean_y * y_scale
    xx, yy, xy = xx * x_scale**2, yy * y_scale**2, xy * x_scale * y_scale
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=1, keepdims=True)
        centre_x = (weight * mean_x).sum(axis=1, keepdims=True) / total
        centre_y = (weight * mean_y).sum(axis=1, keepdims=True) / total
    tiny_x = RESOLUTION**2 * (xx + weight * mean_x**2).sum(axis=1)
    tiny_y = RESOLUTION**2 * (yy + weight * mean_y**2).sum(axis=1)
    if not within:
        xx = xx + weight * (mean_x - centre_x) ** 2
        yy = yy + weight * (mean_y - centre_y) ** 2
        xy = xy + weight * (mean_x - centre_x) * (mean_y - centre_y)
    xx, yy, xy = (values.sum(axis=1) for values in (xx, yy, xy))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > tiny_x) & (yy > tiny_y), xy / np.sqrt(xx * yy), np.nan).clip(-1, 1)


def weighted_spearman(x, y, weights) -> np.ndarray:
    """Spearman correlation of x with y, for each set of whole-number weights; ties share ranks.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    weights : array_like, shape (b, n)

    Returns
    -------
    ndarray of float64, shape (b,)
        In [-1, 1]; NaN where x or y does not vary.

    Examples
    --------
    >>> weighted_spearman([1, 2, 30], [0, 1, 1], np.ones((1, 3))).round(3)
    array([0.866])
    """
    weights = np.asarray(weights, dtype=float)
    ranks_x, ranks_y = weighted_ranks(x, weights), weighted_ranks(y, weights)
    n = weights.sum(axis=1)
    mean = (n + 1) / 2
    xy = (weights * ranks_x * ranks_y).sum(axis=1) / n - mean**2
    xx = (weights * ranks_x**2).sum(axis=1) / n - mean**2
    yy = (weights * ranks_y**2).sum(axis=1) / n - mean**2
    tiny = 1e-9 * n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > tiny) & (yy > tiny), xy / np.sqrt(xx * yy), np.nan).clip(-1, 1)


def weighted_ranks(x, weights) -> np.ndarray:
    """Rank of each value among its replicate's copies, ties at their mean rank.

    Parameters
    ----------
    x : array_like, shape (n,)
    weights : array_like, shape (b, n)
        How many copies of each value there are.

    Returns
    -------
    ndarray of float64, shape (b, n)

    Examples
    --------
    >>> weighted_ranks([10, 20, 20], [[1, 1, 1], [2, 1, 0]])
    array([[1. , 2.5, 2.5],
           [1.5, 3. , 3. ]])
    """
    _, level = np.unique(np.asarray(x), return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    copies = np.add.reduceat(np.asarray(weights, dtype=float)[:, order], starts, axis=1)
    ranks = copies.cumsum(axis=1) - (copies - 1) / 2
    return ranks[:, level]


def _moments(x, y, weights) -> Moments:
    """Moments of one group; sums are taken about the plain means, to lose no digits."""
    centre_x, centre_y = x.mean(axis=1), y.mean()
    x, y = x - centre_x[:, None], y - centre_y
    columns = np.vstack([np.ones_like(y), y, y**2, x, x**2, x * y])
    n, sum_y, yy, rest = np.split(weights @ columns.T, [1, 2, 3], axis=1)
    sum_x, xx, xy = np.split(rest, 3, axis=1)
    mean_x, mean_y = (total / np.where(n > 0, n, 1) for total in (sum_x, sum_y))
    return Moments(
        weight=n,
        mean_x=centre_x + mean_x,
        mean_y=centre_y + mean_y,
        xx=(xx - sum_x * mean_x).clip(min=0),
        yy=(yy - sum_y * mean_y).clip(min=0),
        xy=xy - sum_x * mean_y,
    )
