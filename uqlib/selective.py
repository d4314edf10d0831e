"""Ranking and abstention: what is gained by not answering where a measure says uncertain?

Ties are kept as ties: a block of equal values is taken in random order, and every score is its
expectation over that order.
"""

import numpy as np
import pandas as pd

from uqlib.calibration import check_answers, uncertainty
from uqlib.measures import MEASURES
from uqlib.resampling import bootstrap_blocks, interval

SCORES = ("auroc", "aurc", "gain", "selective_accuracy")


def selective_scores(values, correct, weights=None, coverage: float = 0.8) -> np.ndarray:
    """How well an uncertainty ranks errors, by four scores.

    Parameters
    ----------
    values : array_like, shape (n,)
        High is uncertain.
    correct : array_like of 0 and 1, shape (n,)
    weights : array_like, shape (b, n), optional
        Whole numbers, how often each question occurs; each set of weights is scored.
    coverage : float
        In (0, 1]; of the last score.

    Returns
    -------
    ndarray of float64, shape (4,), or (4, b) with weights
        `auroc`: probability that a wrong answer has a higher value than a right one, ties half.
        `aurc`: area under the risk-coverage curve, the mean over k of the error rate among the k
        least uncertain. `gain`: how far that area lies on the way from random order (0) to errors
        last (1). `selective_accuracy`: accuracy of the least uncertain share `coverage`.
        `auroc` and `gain` are NaN where all answers are right or all wrong.

    Raises
    ------
    ValueError
        If a value is missing or coverage is outside (0, 1].

    Examples
    --------
    >>> selective_scores([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 0], coverage=0.5).round(3)
    array([1.   , 0.208, 1.   , 1.   ])
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], not {coverage}")
    copies, wrong = _levels(values, correct, weights)
    n, errors = copies.sum(axis=1), wrong.sum(axis=1)
    before, errors_before = copies.cumsum(axis=1) - copies, wrong.cumsum(axis=1) - wrong
    right_before = before - errors_before
    pairs = (wrong * (right_before + (copies - wrong) / 2)).sum(axis=1)
    harmonic = _harmonic(n.max())
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(copies > 0, wrong / copies, 0)
        steps = harmonic[(before + copies).astype(int)] - harmonic[before.astype(int)]
        aurc = ((errors_before - before * rate) * steps + wrong).sum(axis=1) / n
        best = oracle_aurc(errors, n)
        auroc = pairs / (errors * (n - errors))
        gain = (errors / n - aurc) / (errors / n - best)
    gain[(errors == 0) | (errors == n)] = np.nan
    selective = 1 - _risk(copies, wrong, np.array([coverage]))[:, 0]
    scores = np.stack([auroc, aurc, gain, selective])
    return scores[:, 0] if weights is None else scores


def oracle_aurc(errors, n):
    """Return the area under the risk-coverage curve when all errors are left to the end.

    Examples
    --------
    >>> round(float(oracle_aurc(2, 4)), 3)
    0.208
    """
    errors, n = np.asarray(errors, dtype=float), np.asarray(n, dtype=float)
    harmonic = _harmonic(n.max())
    right = n - errors
    return (errors - right * (harmonic[n.astype(int)] - harmonic[right.astype(int)])) / n


def risk_coverage(values, correct, coverage, weights=None) -> np.ndarray:
    """Error rate among the least uncertain answers, at each coverage.

    Parameters
    ----------
    values, correct : array_like, shape (n,)
    coverage : array_like, shape (g,)
        In (0, 1]; between two whole numbers of questions, part of the next one counts.
    weights : array_like, shape (b, n), optional

    Returns
    -------
    ndarray of float64, shape (g,), or (b, g) with weights

    Examples
    --------
    >>> risk_coverage([0.1, 0.2, 0.3, 0.3], [1, 0, 1, 0], [0.25, 0.5, 0.75, 1.0])
    array([0. , 0.5, 0.5, 0.5])
    """
    copies, wrong = _levels(values, correct, weights)
    risk = _risk(copies, wrong, np.asarray(coverage, dtype=float))
    return risk[0] if weights is None else risk


def oracle_risk(accuracy: float, coverage) -> np.ndarray:
    """Error rate at each coverage when every error is left to the end.

    Examples
    --------
    >>> oracle_risk(0.8, [0.5, 0.8, 1.0]).round(3)
    array([0. , 0. , 0.2])
    """
    coverage = np.asarray(coverage, dtype=float)
    return np.maximum(0, 1 - accuracy / coverage)


def selective_table(
    responses: pd.DataFrame,
    replicates: int = 1000,
    seed: int = 0,
    coverage: float = 0.8,
    measures: tuple[str, ...] = MEASURES,
) -> pd.DataFrame:
    """Score every model and measure, with percentile intervals over questions (95 %).

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions, all with an answer. Top-1 probability, a certainty, is
        turned round.
    replicates, seed : int
        The same bootstrap replicates for every measure of a model.
    coverage : float
    measures : tuple of str

    Returns
    -------
    DataFrame
        `model`, `measure`, `accuracy`, `questions`, and for each score of `selective_scores` its
        value and `<score>_low`, `<score>_high`.
    """
    check_answers(responses)
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        correct = frame["correct"].to_numpy(dtype=float)
        columns = [uncertainty(frame, measure) for measure in measures]
        drawn = [
            [selective_scores(values, correct, weights, coverage) for values in columns]
            for weights in bootstrap_blocks(len(frame), replicates, seed)
        ]
        for number, (measure, values) in enumerate(zip(measures, columns, strict=True)):
            plain = selective_scores(values, correct, coverage=coverage)
            low = high = np.full(len(SCORES), np.nan)
            if drawn:
                low, high = interval(np.concatenate([b[number] for b in drawn], axis=1).T)
            row = {"model": model, "measure": measure, "accuracy": correct.mean()}
            row["questions"] = len(frame)
            for score, value, lower, upper in zip(SCORES, plain, low, high, strict=True):
                row |= {score: value, f"{score}_low": lower, f"{score}_high": upper}
            rows.append(row)
    return pd.DataFrame(rows)


def _harmonic(n: float) -> np.ndarray:
    """Return the harmonic numbers from 0 to n."""
    return np.append(0, np.cumsum(1 / np.arange(1, int(n) + 1)))


def _levels(values, correct, weights) -> tuple[np.ndarray, np.ndarray]:
    """Questions and errors at each distinct value, in ascending order, shape (b, levels)."""
    values, correct = np.asarray(values, dtype=float), np.asarray(correct, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("an uncertainty is missing or infinite")
    weights = np.ones((1, len(values))) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    copies = np.add.reduceat(weights[:, order], starts, axis=1)
    wrong = np.add.reduceat((weights * (1 - correct))[:, order], starts, axis=1)
    return copies, wrong


def _risk(copies: np.ndarray, wrong: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    before = copies.cumsum(axis=1) - copies
    kept = copies.sum(axis=1, keepdims=True) * coverage
    risk = np.empty(kept.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        for column in range(kept.shape[1]):
            share = np.clip((kept[:, [column]] - before) / copies, 0, 1)
            errors = (wrong * np.where(copies > 0, share, 0)).sum(axis=1)
            risk[:, column] = errors / kept[:, column]
    return risk
