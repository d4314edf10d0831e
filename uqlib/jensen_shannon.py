"""Jensen-Shannon shift: are the letters given nearer to the right letters when a model is sure?

The statistic depends on the answers only through how often each letter was given and was right, in
the uncertain half and in the certain half. So a permutation is drawn on the table of
(letter given x right letter) counts, never on the questions, and costs the same for a hundred
questions as for ten thousand.
"""

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.special import xlogy
from scipy.stats import binom

from uqlib.calibration import CALIBRATED, check_answers, uncertainty
from uqlib.resampling import interval
from uqlib.significance import holm

METHODS = ("permutation", "published")
GRID = 4096
BATCH = 2**14
ROUNDING = 1e-12


def letter_table(predicted, answer, letters: int) -> np.ndarray:
    """Count the questions by letter given (rows) and right letter (columns).

    Returns
    -------
    ndarray of int64, shape (letters, letters)

    Raises
    ------
    ValueError
        If a letter is not in ``range(letters)``.

    Examples
    --------
    >>> letter_table([0, 0, 1], [0, 1, 1], 2)
    array([[1, 1],
           [0, 1]])
    """
    predicted, answer = (np.asarray(x, dtype=int) for x in (predicted, answer))
    for name, values in (("predicted", predicted), ("answer", answer)):
        for value in values[(values < 0) | (values >= letters)]:
            raise ValueError(f"{name} is {value}, but there are {letters} letters")
    counts = np.bincount(letters * predicted + answer, minlength=letters**2)
    return counts.reshape(letters, letters)


def uncertain_half(values, rng: np.random.Generator) -> np.ndarray:
    """Tell which questions lie above the mean of an uncertainty; those at the mean by a fair coin.

    Examples
    --------
    >>> uncertain_half([0.1, 0.2, 0.9], np.random.default_rng(0))
    array([False, False,  True])
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    return np.where(values == mean, rng.random(len(values)) < 0.5, values > mean)


def jensen_shannon_shift(predicted, answer, high, letters: int) -> tuple[float, float, float]:
    """Jensen-Shannon distance between letters given and right letters: uncertain less certain half.

    Parameters
    ----------
    predicted, answer : array_like of int, shape (n,)
        Letter given and right letter of each question.
    high : array_like of bool, shape (n,)
        The uncertain half, e.g. from `uncertain_half`.
    letters : int

    Returns
    -------
    shift, distance_high, distance_low : float
        Square roots of divergences in nats: distances lie in [0, .833]. NaN where a half is empty.

    Notes
    -----
    Moore et al. (2025), section 5.1.2. Its text calls the first half the certain one; the released
    code takes the uncertain one, and only so does a positive shift speak for calibration.

    Examples
    --------
    >>> high = [True, True, False, False]
    >>> np.round(jensen_shannon_shift([0, 0, 0, 1], [0, 1, 0, 1], high, 2), 3)
    array([0.465, 0.465, 0.   ])
    """
    high = np.asarray(high, dtype=bool)
    predicted, answer = np.asarray(predicted), np.asarray(answer)
    distances = [np.nan, np.nan]
    for half, chosen in enumerate((high, ~high)):
        if chosen.any():
            table = letter_table(predicted[chosen], answer[chosen], letters)
            distances[half] = float(jensenshannon(table.sum(axis=1), table.sum(axis=0)))
    return distances[0] - distances[1], *distances


def shift_null(
    table: np.ndarray, n_high: int, permutations: int, seed: int, method: str = "permutation"
) -> np.ndarray:
    """Draw the shift for questions that are called uncertain at random.

    Parameters
    ----------
    table : ndarray of int, shape (letters, letters)
        From `letter_table`.
    n_high : int
        Size of the uncertain half, kept by every permutation.
    permutations, seed : int
    method : {"permutation", "published"}
        `published`: a fair coin for every question, so that the sizes vary around one half
        whatever the measure; `n_high` is ignored.

    Returns
    -------
    ndarray of float64, shape (permutations,)

    Raises
    ------
    ValueError
        If the method is unknown, or one half would be empty.

    Examples
    --------
    >>> null = shift_null(np.array([[40, 10], [10, 40]]), 50, 2000, seed=0)
    >>> bool(abs(null.mean()) < 0.002)
    True
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    n = int(table.sum())
    if method == "permutation" and not 0 < n_high < n:
        raise ValueError(f"{n_high} of {n} questions in the uncertain half: the other is empty")
    rng = np.random.default_rng(seed)
    size = n_high if method == "permutation" else None
    given, right = split_margins(np.asarray(table), size, permutations, rng)
    all_given, all_right = table.sum(axis=1)[:, None], table.sum(axis=0)[:, None]
    return _distance(given, right, n) - _distance(all_given - given, all_right - right, n)


def split_margins(
    table: np.ndarray, n_high: int | None, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Put questions into the uncertain half at random; count its letters given and right letters.

    Parameters
    ----------
    table : ndarray of int, shape (letters, letters)
    n_high : int or None
        How many questions are drawn without replacement; None: a fair coin each.
    size : int
        Number of draws.
    rng : Generator

    Returns
    -------
    given, right : ndarray of int64, shape (letters, size)

    Notes
    -----
    The counts drawn without replacement from the cells are multivariate hypergeometric, which is
    also the law of independent binomial counts given their sum. The binomials have fixed
    parameters and are quick to draw; the largest cell takes what is left of `n_high`, and a draw
    is kept with the probability of that, relative to its largest.
    """
    cells = np.flatnonzero(table)
    rows, columns = np.unravel_index(cells[np.argsort(table.ravel()[cells])], table.shape)
    counts = table[rows, columns]
    share = 0.5 if n_high is None else n_high / table.sum()
    last = binom.pmf(np.arange(counts[-1] + 1), counts[-1], share)
    inverses = [_inverse_binomial(count, share) for count in counts]
    batch = min(BATCH, 4 * size)
    given, right, kept = [], [], 0
    while kept < size:
        margins = np.zeros((2, len(table), batch), dtype=int)
        for row, column, inverse in zip(rows[:-1], columns[:-1], inverses, strict=False):
            drawn = _draw(*inverse, batch, rng)
            margins[0, row] += drawn
            margins[1, column] += drawn
        if n_high is None:
            left, keep = _draw(*inverses[-1], batch, rng), slice(None)
        else:
            left = n_high - margins[0].sum(axis=0)
            possible = (left >= 0) & (left <= counts[-1])
            chance = np.where(possible, last.take(left, mode="clip"), 0)
            keep = np.flatnonzero(rng.random(batch) * last.max() < chance)
        margins[0, rows[-1]] += left
        margins[1, columns[-1]] += left
        given.append(margins[0][:, keep])
        right.append(margins[1][:, keep])
        kept += given[-1].shape[1]
    return tuple(np.concatenate(parts, axis=1)[:, :size] for parts in (given, right))


def shift_table(
    responses: pd.DataFrame,
    permutations: int = 1000,
    seed: int = 0,
    method: str = "permutation",
    measures: tuple[str, ...] = CALIBRATED,
) -> pd.DataFrame:
    """Jensen-Shannon shift of every model and measure, with its permutation test.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions, all with an answer.
    permutations, seed : int
    method : {"permutation", "published"}
        See `shift_null`; `published` draws one null for each model and reports the share of it
        that reaches the size of the shift, which may be 0.
    measures : tuple of str

    Returns
    -------
    DataFrame
        `model`, `measure`, `shift`, `distance_high`, `distance_low`, `questions`, `n_high`, of the
        null `null_mean`, `null_low`, `null_high` (95 %), and the two-sided `p`: the share of the
        null that lies at least as far from 0, (1 + k) / (1 + N) under `permutation`. `p_holm`:
        Holm, over the whole table. NaN where a measure does not vary.
    """
    check_answers(responses)
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        predicted, answer = frame["predicted"].to_numpy(), frame["answer"].to_numpy(dtype=int)
        letters = int(frame["n_choices"].max())
        table = letter_table(predicted, answer, letters)
        shared = shift_null(table, 0, permutations, seed, method) if method == "published" else None
        for measure in measures:
            values = uncertainty(frame, measure)
            row = {"model": model, "measure": measure, "questions": len(frame)}
            if np.ptp(values) > 0:
                high = uncertain_half(values, np.random.default_rng(seed))
                shift, *distances = jensen_shannon_shift(predicted, answer, high, letters)
                null = (
                    shift_null(table, int(high.sum()), permutations, seed)
                    if shared is None
                    else shared
                )
                null_low, null_high = interval(null)
                row |= {
                    "shift": shift,
                    "distance_high": distances[0],
                    "distance_low": distances[1],
                    "n_high": int(high.sum()),
                    "null_mean": null.mean(),
                    "null_low": null_low,
                    "null_high": null_high,
                    "p": permutation_p(shift, null, method),
                }
            rows.append(row)
    columns = [
        "model", "measure", "shift", "distance_high", "distance_low", "questions", "n_high",
        "null_mean", "null_low", "null_high", "p",
    ]  # fmt: skip
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.assign(p_holm=holm(table["p"]))


def permutation_p(observed: float, null: np.ndarray, method: str = "permutation") -> float:
    """Two-sided p-value: how often the null lies at least as far from zero as the observed value.

    Parameters
    ----------
    observed : float
    null : ndarray, shape (N,)
    method : {"permutation", "published"}
        (1 + k) / (1 + N), or as published k / N, which may be 0.

    Examples
    --------
    >>> permutation_p(2.0, np.array([-3.0, 0.0, 1.0])), permutation_p(9.0, np.zeros(3))
    (0.5, 0.25)
    """
    k = int((np.abs(null) >= abs(observed) - ROUNDING).sum())
    return k / len(null) if method == "published" else (1 + k) / (1 + len(null))


def _distance(given: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Jensen-Shannon distance over the first axis, of counts up to n with equal sums."""
    table = xlogy(np.arange(2 * n + 1), np.arange(2 * n + 1))
    total = given.sum(axis=0)
    own = sum(table[row] for row in given) + sum(table[row] for row in right)
    mixed = sum(table[row] for row in given + right)
    with np.errstate(invalid="ignore", divide="ignore"):
        divergence = np.log(2) + (own - mixed) / (2 * total)
    return np.sqrt(np.where(divergence < ROUNDING, 0, divergence))


def _inverse_binomial(n: int, p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distribution function, and its inverse at the lower end of each cell of a grid.

    The third array tells the cells in which the inverse is not constant.
    """
    distribution = binom.cdf(np.arange(n + 1), n, p)
    ends = np.searchsorted(distribution, np.arange(GRID + 1) / GRID, side="right").clip(0, n)
    return distribution, ends[:-1], ends[:-1] != ends[1:]


def _draw(distribution, ends, open_cells, size: int, rng: np.random.Generator) -> np.ndarray:
    cell = rng.integers(GRID, size=size)
    drawn = ends.take(cell, mode="clip")
    unsure = np.flatnonzero(open_cells.take(cell, mode="clip"))
    inside = (cell[unsure] + rng.random(len(unsure))) / GRID
    drawn[unsure] = np.searchsorted(distribution, inside, side="right")
    return np.minimum(drawn, len(distribution) - 1)
