"""Calibration: does a measure of uncertainty fall where the model is right?

Correctness correlation and the expected calibration error of an uncertainty, both as in section 5
of Moore et al. (2025).
"""

import numpy as np
import pandas as pd

from uqlib.measures import CERTAINTIES, MEASURES, TOP_K
from uqlib.resampling import bootstrap_blocks, interval, weighted_spearman
from uqlib.significance import correlation_p, holm

CALIBRATED = (
    "choice_entropy",
    "total_entropy",
    *(f"top_k_entropy_{k}" for k in TOP_K),
    "top_p_entropy_95",
    "top_p_entropy_90",
)
"""The nine measures whose calibration Moore et al. (2025) examine, in the order of their tables."""

TOLERANCE = 1e-9


def correctness_correlation(
    responses: pd.DataFrame,
    by: tuple[str, ...] = ("model",),
    replicates: int = 1000,
    seed: int = 0,
    measures: tuple[str, ...] = MEASURES,
) -> pd.DataFrame:
    """Spearman correlation of measures with correctness, within each group.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions (`uqlib.responses.join_questions`), all with an answer.
    by : tuple of str
        Columns that form the groups, e.g. ``("model", "subject")``.
    replicates, seed : int
        Bootstrap over questions; with 0 replicates the interval is NaN.
    measures : tuple of str

    Returns
    -------
    DataFrame
        The columns of `by`, `measure`, `rho` with percentile interval `low`, `high` (95 %),
        `accuracy`, `questions`, `p` (two-sided, t distribution), `p_holm` (Holm, over the whole
        table). Where all answers of a group are right or all are wrong, or the measure does not
        vary, `rho` is NaN.

    Raises
    ------
    ValueError
        If a question has no answer; the message names it.

    Notes
    -----
    Moore et al. (2025), section 5.1 and Figure 3: negative values are good for an uncertainty.
    """
    check_answers(responses)
    rows = []
    for group, frame in responses.groupby(list(by), sort=False):
        correct = frame["correct"].to_numpy(dtype=float)
        values = frame[list(measures)].to_numpy(dtype=float).T
        plain = np.ones((1, len(frame)))
        rho = [weighted_spearman(x, correct, plain)[0] for x in values]
        drawn = [
            [weighted_spearman(x, correct, weights) for x in values]
            for weights in bootstrap_blocks(len(frame), replicates, seed)
        ]
        low = high = np.full(len(measures), np.nan)
        if drawn:
            low, high = interval(np.concatenate(drawn, axis=1).T)
        for row in zip(measures, rho, low, high, strict=True):
            rows.append((*group, *row, correct.mean(), len(frame)))
    names = [*by, "measure", "rho", "low", "high", "accuracy", "questions"]
    table = pd.DataFrame(rows, columns=names)
    table.loc[table["rho"].isna(), ["low", "high"]] = np.nan
    p = [correlation_p(row.rho, row.questions - 2) for row in table.itertuples()]
    return table.assign(p=np.array(p, dtype=float), p_holm=holm(p))


def published_confidence(values, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Turn an uncertainty into bins and confidences as Moore et al. (2025) do, section 5.1.1.

    Parameters
    ----------
    values : array_like, shape (n,)
        High is uncertain.
    bins : int
        Of equal width over [-b, b], where b is the largest absolute standardised value.

    Returns
    -------
    index : ndarray of int, shape (n,)
        The bin of each question.
    confidence : ndarray of float64, shape (n,)
        The confidence of its bin: the share of questions above the bin's mean uncertainty. A value
        within `TOLERANCE` of the mean counts as equal to it, so that rounding does not decide
        where many values are equal.

    Raises
    ------
    ValueError
        If a value is not finite, or all are equal: then there is nothing to standardise by.

    Examples
    --------
    >>> published_confidence([0.0, 0.1, 0.9, 1.0], bins=2)
    (array([0, 0, 1, 1]), array([0.75, 0.75, 0.25, 0.25]))
    """
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("an uncertainty is missing or infinite")
    if len(values) < 2 or np.ptp(values) == 0:
        raise ValueError("an uncertainty that does not vary cannot be standardised")
    z = (values - values.mean()) / values.std(ddof=1)
    edges = np.linspace(-np.abs(z).max(), np.abs(z).max(), bins + 1)
    index = np.clip(np.digitize(z, edges) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    means = np.bincount(index, z, minlength=bins) / np.maximum(counts, 1)
    below = np.searchsorted(np.sort(z), means + TOLERANCE, side="right") / len(z)
    return index, (1 - below)[index]


def published_ece(values, correct, bins: int = 10) -> float:
    """Compute the expected calibration error of an uncertainty as Moore et al. (2025) do.

    Parameters
    ----------
    values : array_like, shape (n,)
        High is uncertain.
    correct : array_like of 0 and 1, shape (n,)
    bins : int

    Returns
    -------
    float
        In [0, 1]. Not an error of calibration in the usual sense: see `uninformative_limit`.

    Examples
    --------
    >>> float(published_ece([0.0, 0.1, 0.9, 1.0], [1, 1, 0, 0], bins=2))
    0.25
    """
    index, confidence = published_confidence(values, bins)
    return calibration_error(confidence, correct, index)


def published_ece_null(values, correct, permutations: int, seed: int, bins: int = 10) -> np.ndarray:
    """Draw the published error for right answers shuffled over the questions.

    The bins do not depend on the answers, so only the number of right answers in each is drawn.

    Returns
    -------
    ndarray of float64, shape (permutations,)

    Examples
    --------
    >>> values = np.arange(20_000)
    >>> null = published_ece_null(values, values < 10_000, 200, seed=0, bins=50)
    >>> round(float(null.mean()), 2)
    0.25
    """
    index, confidence = published_confidence(values, bins)
    _, first, counts = np.unique(index, return_index=True, return_counts=True)
    total = int(np.sum(correct))
    rng = np.random.default_rng(seed)
    right = rng.multivariate_hypergeometric(counts, total, size=permutations)
    return np.abs(right - counts * confidence[first]).sum(axis=1) / len(index)


def uninformative_limit(accuracy):
    """Return the published error of a useless *and* of a perfect measure, with many fine bins.

    As many questions lie in each bin as one likes. With the confidence U uniform on [0, 1], a
    useless measure has E|U - a| and one that ranks every right answer above every wrong one has
    E|U - 1{U > 1 - a}|: both are (a^2 + (1 - a)^2) / 2.

    Examples
    --------
    >>> float(uninformative_limit(0.5)), float(uninformative_limit(0.75))
    (0.25, 0.3125)
    """
    accuracy = np.asarray(accuracy, dtype=float)
    return (accuracy**2 + (1 - accuracy) ** 2) / 2


def published_ece_table(
    responses: pd.DataFrame,
    permutations: int = 1000,
    replicates: int = 1000,
    seed: int = 0,
    measures: tuple[str, ...] = CALIBRATED,
) -> pd.DataFrame:
    """Compute the published error of every model and measure, beside its permutation null.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions, all with an answer.
    permutations, replicates, seed : int
        Of the null, and of the interval.
    measures : tuple of str

    Returns
    -------
    DataFrame
        `model`, `measure`, `ece` with interval `low`, `high` (95 %), `null_mean`, `null_low`,
        `null_high` (95 %), `p` (share of the null at or below the value, (1 + k) / (1 + N)),
        `limit` (`uninformative_limit`), `accuracy`, `questions`. NaN where a measure does not vary.
    """
    check_answers(responses)
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        correct = frame["correct"].to_numpy(dtype=float)
        for measure in measures:
            values = uncertainty(frame, measure)
            row = {"model": model, "measure": measure}
            if np.ptp(values) > 0:
                index, confidence = published_confidence(values)
                ece = calibration_error(confidence, correct, index)
                low, high = calibration_error_interval(confidence, correct, index, replicates, seed)
                null = published_ece_null(values, correct, permutations, seed)
                null_low, null_high = interval(null)
                row |= {
                    "ece": ece,
                    "low": low,
                    "high": high,
                    "null_mean": null.mean(),
                    "null_low": null_low,
                    "null_high": null_high,
                    "p": (1 + (null <= ece + 1e-12).sum()) / (1 + permutations),
                }
            row |= {
                "limit": float(uninformative_limit(correct.mean())),
                "accuracy": correct.mean(),
                "questions": len(frame),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def calibration_error(confidence, correct, index) -> float:
    """Mean absolute difference between confidence and accuracy over bins, weighted by their size.

    Parameters
    ----------
    confidence : array_like, shape (n,)
    correct : array_like of 0 and 1, shape (n,)
    index : array_like of int, shape (n,)
        The bin of each question.

    Returns
    -------
    float
        In [0, 1].

    Notes
    -----
    With `uqlib.reliability.confidence_bins` the expected calibration error of Guo et al. (2017).

    Examples
    --------
    >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 0, 1], [8, 8, 5, 5]), 3)
    0.1
    """
    gaps = np.asarray(correct, dtype=float) - np.asarray(confidence, dtype=float)
    return float(np.abs(np.bincount(index, gaps)).sum() / len(gaps))


def resampled_error(confidence, correct, index, weights) -> np.ndarray:
    """Calibration error for each set of weights, bins and confidences held fixed.

    Parameters
    ----------
    confidence, correct, index
        As in `calibration_error`.
    weights : array_like, shape (b, n)
        Whole numbers, how often each question occurs; every row sums to n.

    Returns
    -------
    ndarray of float64, shape (b,)

    Examples
    --------
    >>> resampled_error([0.9, 0.6], [1, 0], [8, 5], [[1, 1], [2, 0]]).round(3)
    array([0.35, 0.1 ])
    """
    gaps = np.zeros((len(index), int(np.max(index)) + 1))
    gaps[np.arange(len(index)), index] = np.asarray(correct, dtype=float) - confidence
    return np.abs(np.asarray(weights, dtype=float) @ gaps).sum(axis=1) / len(index)


def calibration_error_interval(
    confidence, correct, index, replicates: int, seed: int
) -> tuple[float, float]:
    """Interval (95 %) of the calibration error over questions, bins and confidences held fixed.

    A resampled error is larger than the estimate on average, because no absolute value is ever
    negative; the percentile interval is moved down by that difference, and ends at 0.
    """
    blocks = bootstrap_blocks(len(index), replicates, seed)
    drawn = np.concatenate([resampled_error(confidence, correct, index, w) for w in blocks])
    bias = drawn.mean() - calibration_error(confidence, correct, index)
    low, high = interval(drawn)
    return max(float(low - bias), 0.0), float(high - bias)


def uncertainty(responses: pd.DataFrame, measure: str) -> np.ndarray:
    """Return a measure so that high is uncertain: a certainty is turned round.

    Examples
    --------
    >>> uncertainty(pd.DataFrame({"top1_probability": [0.75]}), "top1_probability")
    array([0.25])
    """
    values = responses[measure].to_numpy(dtype=float)
    return 1 - values if measure in CERTAINTIES else values


def check_answers(responses: pd.DataFrame) -> None:
    """Raise a ValueError that names the first question without a right answer."""
    if responses["answer"].isna().any():
        first = responses.loc[responses["answer"].isna(), "question_id"].iloc[0]
        raise ValueError(f"question {first} has no right answer")
