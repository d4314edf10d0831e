"""Entropy decomposition: of two answers' probabilities over scenarios, and over dropout masks.

All entropies are in bits.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit, softmax

from uqlib.questions.moral import LEVELS
from uqlib.resampling import bootstrap_weights, interval

ORIENTATIONS = ("case", "group")
PARTS = ("total", "aleatoric", "mask", "scenario")
COMPONENTS = ("model", "dimension", "interaction", "scenario")


def binary_entropy(p) -> np.ndarray:
    """Entropy of a yes that has probability `p`, in bits, in [0, 1].

    Examples
    --------
    >>> binary_entropy([0, 0.5, 0.9]).round(3)
    array([0.   , 1.   , 0.469])
    """
    p = np.asarray(p, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is missing or outside [0, 1]")
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p), 0) + np.where(p < 1, (1 - p) * np.log2(1 - p), 0)
    return -terms + 0.0


def confidence(p) -> np.ndarray:
    """Confidence of Kwon et al. (2025), (2p - 1)^2: 0 for a coin, 1 for certainty.

    Examples
    --------
    >>> confidence([0.5, 0.9]).round(2)
    array([0.  , 0.64])
    """
    return (2 * np.asarray(p, dtype=float) - 1) ** 2


def death_probabilities(
    responses: pd.DataFrame, conjoint: pd.DataFrame, orientation: str
) -> pd.DataFrame:
    """Turn answers to dilemmas into one probability a scenario and pass.

    Parameters
    ----------
    responses : DataFrame
        A response table of questions with two options.
    conjoint : DataFrame
        Their rows for analysis, as from `uqlib.questions.moral.moral_scenarios`.
    orientation : {"case", "group"}
        `case`: the probability that Case 1 is chosen. `group`: that the group at the dimension's
        first level (`LEVELS`) dies.

    Returns
    -------
    DataFrame
        `model`, `dropout_rate`, `pass_index`, `question_id`, `base_id`, `dimension`, `p`.

    Raises
    ------
    ValueError
        If the orientation is unknown or an answer has no scenario; the message names it.

    Notes
    -----
    The two probabilities are renormalised. Kwon et al. (2025) do not say which orientation they
    take; their released code stores probabilities by group.
    """
    if orientation not in ORIENTATIONS:
        known = ", ".join(ORIENTATIONS)
        raise ValueError(f"unknown orientation {orientation!r}; known: {known}")
    level = conjoint["scenario_type"].map({name: pair[0] for name, pair in LEVELS.items()})
    asked_for = conjoint["attribute_level"] == level if orientation == "group" else (
        conjoint["case"] == 1
    )  # fmt: skip
    rows = conjoint.loc[asked_for, ["question_id", "base_id", "scenario_type", "case"]]
    table = responses[["model", "dropout_rate", "pass_index", "question_id"]].reset_index(drop=True)
    table = table.merge(rows, on="question_id", how="left", validate="m:1")
    for name in table.loc[table["case"].isna(), "question_id"]:
        raise ValueError(f"question {name} is not among the scenarios")
    p = softmax(np.stack(list(responses["choice_log_probs"])).astype(float), axis=1)
    table["p"] = p[np.arange(len(p)), table["case"].astype(int) - 1]
    return table.rename(columns={"scenario_type": "dimension"}).drop(columns="case")


def decompose(p, weights=None) -> pd.DataFrame:
    """Split the entropy of answers over scenarios and masks into three parts.

    Parameters
    ----------
    p : array_like, shape (n,) or (n, m)
        Probabilities of n scenarios, under m masks each.
    weights : array_like, shape (b, n), optional
        Bootstrap counts of the scenarios; one row of ones by default.

    Returns
    -------
    DataFrame
        A row for each row of weights: `total` = H(mean over scenarios and masks), and its parts
        `aleatoric` = mean H(p), `mask` = mean over scenarios of H(mean over masks) less mean H(p),
        `scenario` = what is left. With one mask, `mask` is 0: then `total`, `aleatoric` and
        `scenario` are TE, CE and MI of Kwon et al. (2025).

    Notes
    -----
    `mask` is the information between answer and mask of Houlsby et al. (2011). From m masks it is
    too small, by a factor of about 1 - 1/m where probabilities vary little.

    Examples
    --------
    Two scenarios, one mask: sure of the one, sure of the opposite in the other.

    >>> decompose([1.0, 0.0]).iloc[0].to_dict()
    {'total': 1.0, 'aleatoric': 0.0, 'mask': 0.0, 'scenario': 1.0}

    One scenario, two masks that contradict each other:

    >>> decompose([[1.0, 0.0]]).iloc[0].to_dict()
    {'total': 1.0, 'aleatoric': 0.0, 'mask': 1.0, 'scenario': 0.0}
    """
    p = np.asarray(p, dtype=float)
    p = p[:, None] if p.ndim == 1 else p
    weights = np.ones((1, len(p))) if weights is None else np.asarray(weights, dtype=float)
    weights = weights / weights.sum(axis=1, keepdims=True)
    over_masks = p.mean(axis=1)
    total = binary_entropy((weights @ over_masks).clip(0, 1))
    within = weights @ binary_entropy(over_masks)
    aleatoric = weights @ binary_entropy(p).mean(axis=1)
    parts = {"aleatoric": aleatoric, "mask": within - aleatoric, "scenario": total - within}
    return pd.DataFrame({"total": total, **parts})


def decomposition_table(answers: pd.DataFrame, replicates: int = 0, seed: int = 0) -> pd.DataFrame:
    """Decompose the answers of every model, rate and dimension, as published and in three parts.

    Parameters
    ----------
    answers : DataFrame
        From `death_probabilities`; within a model and rate, every question with equally many
        passes.
    replicates, seed : int
        Bootstrap over scenarios (`base_id`); 0 gives no intervals.

    Returns
    -------
    DataFrame
        `model`, `dropout_rate`, `dimension`, `scenarios`, `masks`, mean `confidence`; `te`, `ce`,
        `mi` from the first pass alone, as published; `PARTS` from all passes. With replicates,
        ``<name>_low`` and ``<name>_high`` (95 %).
    """
    keys = ["model", "dropout_rate", "dimension"]
    rows = []
    for key, part in answers.groupby(keys, sort=False):
        wide = part.pivot(index=["base_id", "question_id"], columns="pass_index", values="p")
        if wide.isna().to_numpy().any():
            raise ValueError(f"{key[0]}: a question of {key[2]} was not asked in every pass")
        p = wide.sort_index().to_numpy()
        row = {**dict(zip(keys, key, strict=True)), "scenarios": len(p), "masks": p.shape[1]}
        row["confidence"] = confidence(p).mean()
        row |= _both(p, None).iloc[0].to_dict()
        if replicates:
            base = pd.factorize(wide.index.get_level_values("base_id"))[0]
            counts = bootstrap_weights(base.max() + 1, replicates, seed)[:, base]
            low, high = interval(_both(p, counts).to_numpy())
            names = list(_both(p, None))
            row |= {f"{name}_low": value for name, value in zip(names, low, strict=True)}
            row |= {f"{name}_high": value for name, value in zip(names, high, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def mix_to_entropy(p, bits: float) -> np.ndarray:
    """Mix answers with a fair coin until their mean entropy is as given.

    Parameters
    ----------
    p : array_like, shape (n,)
    bits : float
        Mean binary entropy to reach; not less than that of `p`, and at most 1.

    Returns
    -------
    ndarray, shape (n,)
        (1 - s) / 2 + s p, for the one s in [0, 1] that fits.

    Examples
    --------
    >>> mix_to_entropy([1.0, 0.0], binary_entropy(0.9)).round(3)
    array([0.9, 0.1])
    """
    p = np.asarray(p, dtype=float)
    return 0.5 + (p - 0.5) * _factor(lambda s: 0.5 + (p - 0.5) * s, bits)


def heat_to_entropy(p, bits: float) -> np.ndarray:
    """Raise the temperature of answers until their mean entropy is as given.

    Parameters
    ----------
    p : array_like, shape (n,)
    bits : float
        As in `mix_to_entropy`.

    Returns
    -------
    ndarray, shape (n,)
        Log-odds multiplied by the one s in [0, 1] that fits; 1/s is the temperature.

    Examples
    --------
    >>> heat_to_entropy([0.99, 0.01], binary_entropy(0.9)).round(3)
    array([0.9, 0.1])
    """
    odds = logit(np.clip(np.asarray(p, dtype=float), 1e-12, 1 - 1e-12))
    return expit(odds * _factor(lambda s: expit(odds * s), bits))


def variance_components(values) -> pd.Series:
    """Split the variance of a quantity between models, dimensions, their cells and scenarios.

    Parameters
    ----------
    values : array_like, shape (models, dimensions, scenarios)
        At least two of each; scenarios differ between dimensions.

    Returns
    -------
    Series
        Variance by component of `COMPONENTS`, estimated from mean squares without bias, so that
        small ones can come out negative.

    Notes
    -----
    Two-way analysis of variance with random effects.

    Examples
    --------
    >>> variance_components([[[0, 0], [0, 0]], [[2, 2], [2, 2]]]).round(3).to_dict()
    {'model': 2.0, 'dimension': 0.0, 'interaction': 0.0, 'scenario': 0.0}
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 3 or min(x.shape) < 2:
        raise ValueError(f"variance needs two models, dimensions and scenarios, not {x.shape}")
    a, b, n = x.shape
    cells = x.mean(axis=2)
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    between = cells - rows[:, None] - columns + mean
    ms_model = b * n * ((rows - mean) ** 2).sum() / (a - 1)
    ms_dimension = a * n * ((columns - mean) ** 2).sum() / (b - 1)
    ms_cells = n * (between**2).sum() / ((a - 1) * (b - 1))
    ms_within = ((x - cells[:, :, None]) ** 2).sum() / (a * b * (n - 1))
    found = [
        (ms_model - ms_cells) / (b * n),
        (ms_dimension - ms_cells) / (a * n),
        (ms_cells - ms_within) / n,
        ms_within,
    ]
    return pd.Series(found, index=COMPONENTS)


def variance_shares(values, replicates: int, seed: int) -> pd.DataFrame:
    """Share of each variance component, with bootstrap intervals over models and scenarios.

    Parameters
    ----------
    values : array_like, shape (models, dimensions, scenarios)
    replicates, seed : int
        Models are drawn with replacement, and scenarios within every dimension. The dimensions are
        all there are, and stay.

    Returns
    -------
    DataFrame
        `component`, `variance`, `share` of the sum of those above 0, `low`, `high` (95 %, of the
        share).
    """
    x = np.asarray(values, dtype=float)
    point = variance_components(x).clip(lower=0)
    rng = np.random.default_rng(seed)
    a, b, n = x.shape
    drawn = []
    for _ in range(replicates):
        models = rng.integers(a, size=a)
        scenarios = rng.integers(n, size=(b, n))
        if len(set(models)) < 2:
            continue
        found = variance_components(x[models][:, np.arange(b)[:, None], scenarios]).clip(lower=0)
        drawn.append(found / found.sum())
    low, high = interval(np.array(drawn))
    return pd.DataFrame(
        {
            "component": COMPONENTS,
            "variance": point.to_numpy(),
            "share": (point / point.sum()).to_numpy(),
            "low": low,
            "high": high,
        }
    )


def _factor(answers, bits: float) -> float:
    """Find the factor at which answers have this mean entropy; they have 1 bit at 0."""
    least = binary_entropy(answers(1.0)).mean()
    if not least - 1e-9 <= bits <= 1:
        raise ValueError(f"the entropy must lie between {least:.4f} and 1 bit, not {bits:.4f}")
    if bits <= least:
        return 1.0
    return brentq(lambda s: binary_entropy(answers(s)).mean() - bits, 0, 1, xtol=1e-12)


def _both(p: np.ndarray, weights) -> pd.DataFrame:
    published = decompose(p[:, 0], weights)[["total", "aleatoric", "scenario"]]
    published.columns = ["te", "ce", "mi"]
    return published.join(decompose(p, weights))
