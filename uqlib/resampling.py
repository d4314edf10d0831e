"""Bootstrap over questions by weights: a replicate is a count for each question, not a copy of it.

Correlations of many measures and replicates are then a handful of matrix products.
"""

import warnings

import numpy as np


def bootstrap_weights(n: int, replicates: int, seed: int) -> np.ndarray:
    """Draw how often each of n questions occurs in each bootstrap replicate.

    Returns
    -------
    ndarray of float64, shape (replicates, n)
        Whole numbers; every row sums to n.

    Examples
    --------
    >>> bootstrap_weights(4, 2, seed=0).sum(axis=1)
    array([4., 4.])
    """
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates)
    return counts.astype(float)


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
    x, y, weights = (np.asarray(a, dtype=float) for a in (x, y, weights))
    groups = np.zeros(len(y)) if groups is None else np.asarray(groups)
    total = np.zeros((3, len(weights), len(x)))
    for group in np.unique(groups):
        chosen = groups == group
        total += _products(x[:, chosen], y[chosen], weights[:, chosen])
    xy, xx, yy = total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 0) & (yy > 0), xy / np.sqrt(xx * yy), np.nan).clip(-1, 1)


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


def _products(x, y, weights) -> np.ndarray:
    """Weighted sums of squares and products about the weighted means, shape (3, b, m)."""
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean()
    n = weights.sum(axis=1, keepdims=True)
    safe = np.where(n > 0, n, 1)
    sum_x, sum_y = weights @ x.T, (weights @ y)[:, None]
    xy = weights @ (x * y).T - sum_x * sum_y / safe
    xx = weights @ (x**2).T - sum_x**2 / safe
    yy = (weights @ y**2)[:, None] - sum_y**2 / safe
    tiny = 1e-12 * n
    return np.stack([xy, np.where(xx > tiny, xx, 0), np.broadcast_to(yy * (yy > tiny), xy.shape)])
