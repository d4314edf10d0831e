"""Reliability: confidence against accuracy, calibration errors, Brier score, recalibration."""

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import KFold
from statsmodels.stats.proportion import proportion_confint

from uqlib.calibration import calibration_error

SCHEMES = ("width", "mass")


def confidence_bins(confidence, bins: int = 10, scheme: str = "width") -> np.ndarray:
    """Assign confidences to bins, each open below and closed above.

    Parameters
    ----------
    confidence : array_like, shape (n,)
        In [0, 1].
    bins : int
    scheme : {"width", "mass"}
        Bins of equal width over [0, 1], or between quantiles, with about as many questions each.

    Returns
    -------
    ndarray of int, shape (n,)

    Raises
    ------
    ValueError
        If a confidence is missing or outside [0, 1], or the scheme is unknown.

    Examples
    --------
    >>> confidence_bins([0.0, 0.1, 0.11, 1.0])
    array([0, 0, 1, 9])
    """
    confidence = np.asarray(confidence, dtype=float)
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    for row in np.flatnonzero(~((confidence >= 0) & (confidence <= 1)))[:1]:
        raise ValueError(f"confidence of question {row} is {confidence[row]}, not in [0, 1]")
    edges = np.linspace(0, 1, bins + 1)
    if scheme == "mass":
        edges = np.quantile(confidence, edges)
    return np.searchsorted(edges[1:-1], confidence, side="left")


def calibrated_null(confidence, index, replicates: int, seed: int) -> np.ndarray:
    """Draw the calibration error of a responder that is right with exactly the stated confidence.

    What an estimate from as many questions shows when there is nothing to find.

    Returns
    -------
    ndarray of float64, shape (replicates,)

    Examples
    --------
    >>> confidence = np.full(100, 0.7)
    >>> null = calibrated_null(confidence, confidence_bins(confidence), 500, seed=0)
    >>> round(float(null.mean()), 2)
    0.04
    """
    rng = np.random.default_rng(seed)
    confidence = np.asarray(confidence, dtype=float)
    return np.array(
        [
            calibration_error(confidence, rng.random(len(confidence)) < confidence, index)
            for _ in range(replicates)
        ]
    )


def reliability_table(confidence, correct, index) -> pd.DataFrame:
    """Confidence and accuracy of each bin that holds questions: the points of a diagram.

    Returns
    -------
    DataFrame
        `bin`, `questions`, `confidence` (mean), `accuracy` with Wilson interval `low`, `high`
        (95 %).

    Examples
    --------
    >>> reliability_table([0.2, 0.2, 0.9], [0, 1, 1], [1, 1, 8])[["questions", "accuracy"]]
       questions  accuracy
    0          2       0.5
    1          1       1.0
    """
    frame = pd.DataFrame({"bin": index, "confidence": confidence, "correct": correct})
    frame["correct"] = frame["correct"].astype(float)
    table = frame.groupby("bin").agg(
        questions=("correct", "size"), confidence=("confidence", "mean"),
        accuracy=("correct", "mean"), right=("correct", "sum"),
    )  # fmt: skip
    low, high = proportion_confint(table.pop("right"), table["questions"], method="wilson")
    table["low"] = np.minimum(low, table["accuracy"])
    table["high"] = np.maximum(high, table["accuracy"])
    return table.reset_index()


def brier_decomposition(confidence, correct, index) -> dict[str, float]:
    """Brier score and its parts over bins.

    Parameters
    ----------
    confidence : array_like, shape (n,)
    correct : array_like of 0 and 1, shape (n,)
    index : array_like of int, shape (n,)

    Returns
    -------
    dict of float
        `brier` = `reliability` - `resolution` + `uncertainty` + `within`. Reliability: mean squared
        distance of a bin's confidence from its accuracy, bad. Resolution: variance of accuracy
        between bins, good. Uncertainty: a (1 - a). Within: what the bins do not see.

    Notes
    -----
    Murphy (1973); the term within bins is that of Stephenson, Coelho and Jolliffe (2008).

    Examples
    --------
    >>> parts = brier_decomposition([0.5, 0.5, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1])
    >>> {name: round(value, 4) for name, value in parts.items()}
    {'brier': 0.125, 'reliability': 0.0, 'resolution': 0.0625, 'uncertainty': 0.1875, 'within': 0.0}
    """
    c, y = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    counts = np.maximum(np.bincount(index), 1)
    mean_c = (np.bincount(index, c) / counts)[index]
    mean_y = (np.bincount(index, y) / counts)[index]
    return {
        "brier": float(np.mean((c - y) ** 2)),
        "reliability": float(np.mean((mean_c - mean_y) ** 2)),
        "resolution": float(np.mean((mean_y - y.mean()) ** 2)),
        "uncertainty": float(y.mean() * (1 - y.mean())),
        "within": float(np.mean((c - mean_c) ** 2 - 2 * (c - mean_c) * (y - mean_y))),
    }


def option_confidence(responses: pd.DataFrame) -> np.ndarray:
    """Largest probability of an option, among the options: the confidence in the answer given.

    Returns
    -------
    ndarray of float64, shape (n,)
        Between 1 / n_choices and 1.

    Raises
    ------
    ValueError
        If the log-probabilities of a response are missing; the message names model and question.

    Examples
    --------
    >>> option_confidence(pd.DataFrame({"choice_log_probs": [np.log([0.1, 0.3])]}))
    array([0.75])
    """
    log_probs = responses["choice_log_probs"]
    for row in responses[log_probs.isna()].itertuples():
        raise ValueError(f"{row.model}: no probabilities of the options of {row.question_id}")
    return np.exp([log_softmax(np.asarray(row, dtype=float)).max() for row in log_probs])


def isotonic_confidence(values, correct, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Turn an uncertainty into a probability of being right, learnt from other questions.

    Parameters
    ----------
    values : array_like, shape (n,)
        High is uncertain.
    correct : array_like of 0 and 1, shape (n,)
    folds : int
        Each fold is given confidences by an isotonic regression fitted to the others.
    seed : int
        Of the folds.

    Returns
    -------
    ndarray of float64, shape (n,)
        In [0, 1].

    Examples
    --------
    >>> confidence = isotonic_confidence(np.arange(100) % 2, np.arange(100) % 2 == 0)
    >>> float(confidence[0]), float(confidence[1])
    (1.0, 0.0)
    """
    values, correct = np.asarray(values, dtype=float), np.asarray(correct, dtype=float)
    confidence = np.empty(len(values))
    for rest, held_out in KFold(folds, shuffle=True, random_state=seed).split(values):
        model = IsotonicRegression(increasing=False, out_of_bounds="clip")
        model.fit(values[rest], correct[rest])
        confidence[held_out] = model.predict(values[held_out])
    return confidence
