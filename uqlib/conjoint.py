"""Conjoint analysis: average marginal component effects, with clustered errors and bootstrap.

With one factor of two levels, the coefficient of weighted least squares is a difference of
weighted means. So an effect is made of four sums over scenarios, and bootstrap replicates of all
effects are a handful of matrix products.
"""

import numpy as np
import pandas as pd
from scipy.special import softmax

from uqlib.questions.moral import EFFECTS
from uqlib.resampling import bootstrap_weights

WEIGHTINGS = ("published", "equal")
ESTIMATES = ("hard", "soft")
NUMBERS = ("pooled", "largest")
Z = 1.959964


def published_weights(conjoint: pd.DataFrame) -> np.ndarray:
    """Weights of the published analysis: 1 over the probability of a row in the original game.

    Parameters
    ----------
    conjoint : DataFrame
        With `intervention`, `ped_ped`, `barrier` and `crossing_signal`.

    Returns
    -------
    ndarray, shape (n_rows,)
        Positive.

    Notes
    -----
    The probabilities are those of the game of Awad et al. (2018), as in the released code of
    Takemoto (2024). The generators of Takemoto and of this book sample otherwise.

    Examples
    --------
    >>> row = {"intervention": [0], "ped_ped": [1], "barrier": [0], "crossing_signal": [2]}
    >>> published_weights(pd.DataFrame(row)).round(2)
    array([6.51])
    """
    swerve, street, barrier = (
        conjoint[name].to_numpy() == 1 for name in ("intervention", "ped_ped", "barrier")
    )
    signal = conjoint["crossing_signal"].to_numpy()
    place = np.where(street, 0.48, np.where(swerve, 0.2, 0.32))
    straight, turned = np.array([0.48, 0.2, 0.32]), np.array([0.48, 0.32, 0.2])
    light = np.where(swerve & street, turned[signal], straight[signal])
    return 1 / np.where(barrier, np.where(swerve, 0.32, 0.2), place * light)


def saved_shares(
    responses: pd.DataFrame, conjoint: pd.DataFrame, estimate: str = "soft"
) -> np.ndarray:
    """How often each row's group is saved by a model's answers.

    Parameters
    ----------
    responses : DataFrame
        Of one model and condition; several passes of a question are averaged.
    conjoint : DataFrame
        With `question_id` and `case`.
    estimate : {"soft", "hard"}
        `soft`: by the probabilities of the two cases, renormalised. `hard`: by the likelier case,
        the first if they tie, as the studies do.

    Returns
    -------
    ndarray, shape (n_rows,)
        In [0, 1].

    Raises
    ------
    ValueError
        If the estimate is unknown or a scenario was not answered; the message names it.

    Examples
    --------
    >>> answers = pd.DataFrame({"question_id": ["q"], "choice_log_probs": [np.log([0.3, 0.1])]})
    >>> rows = pd.DataFrame({"question_id": ["q", "q"], "case": [1, 2]})
    >>> saved_shares(answers, rows), saved_shares(answers, rows, "hard")
    (array([0.25, 0.75]), array([0., 1.]))
    """
    if estimate not in ESTIMATES:
        raise ValueError(f"unknown estimate {estimate!r}; known: {', '.join(ESTIMATES)}")
    logs = np.stack(list(responses["choice_log_probs"])).astype(float)
    first = softmax(logs, axis=1)[:, 0] if estimate == "soft" else logs.argmax(axis=1) == 0
    by_question = pd.Series(first.astype(float)).groupby(responses["question_id"].to_numpy()).mean()
    missing = set(conjoint["question_id"]) - set(by_question.index)
    if missing:
        raise ValueError(f"{len(missing)} scenarios were not answered, such as {min(missing)}")
    dies_first = by_question.loc[conjoint["question_id"]].to_numpy()
    return np.where(conjoint["case"].to_numpy() == 1, 1 - dies_first, dies_first)


def marginal_effects(
    conjoint: pd.DataFrame,
    saved,
    weighting: str = "published",
    number: str = "pooled",
    cluster: str = "base_id",
) -> pd.DataFrame:
    """Average marginal component effect of each dimension.

    Parameters
    ----------
    conjoint : DataFrame
        As from `uqlib.questions.moral.moral_scenarios` or
        `uqlib.questions.moral_machine.read_shared_responses`.
    saved : array_like, shape (n_rows,)
        Whether, or how often, the row's group is saved.
    weighting : {"published", "equal"}
        `published`: see `published_weights`. `equal`: every row counts alike.
    number : {"pooled", "largest"}
        For the number of characters: over all differences in number, or at the one where the effect
        is largest in magnitude, sign kept, as in the published tables.
    cluster : str
        Column that says which rows belong together: the two groups of a scenario and all its
        tellings.

    Returns
    -------
    DataFrame
        By dimension, in the order of `EFFECTS`: `effect` in [-1, 1], positive in the direction of
        people's effects; `se`, clustered; `low`, `high` (95 %, normal); `rows`. NaN without rows of
        both levels.

    Raises
    ------
    ValueError
        If a setting is unknown, or lengths or range of `saved` are wrong.

    Notes
    -----
    Hainmueller, Hopkins and Yamamoto (2014); Awad et al. (2018); analysis of Takemoto (2024), which
    Kwon et al. (2025) use. The standard error is that of statsmodels' WLS with
    ``cov_type="cluster"``; the published one treats all rows as independent.

    Examples
    --------
    >>> from uqlib.questions.moral import moral_scenarios, saved
    >>> _, conjoint = moral_scenarios(4, design="counterbalanced", dimensions=["age"])
    >>> effects = marginal_effects(conjoint, saved(conjoint, 2), weighting="equal")
    >>> float(effects.set_index("dimension").effect["age"])
    0.0
    """
    if number not in NUMBERS:
        raise ValueError(f"unknown number {number!r}; known: {', '.join(NUMBERS)}")
    frame = _checked(conjoint, saved, weighting)
    rows = []
    for dimension in EFFECTS:
        part, plus = _subset(frame, dimension)
        row = _effect(part, plus, cluster)
        if dimension == "number" and number == "largest":
            tried = [
                _effect(part[chosen], plus[chosen], cluster)
                for k in sorted(part["n_difference"].unique())
                for chosen in [(part["n_difference"] == k).to_numpy()]
            ]
            row = max(tried, key=lambda found: abs(found["effect"]))
        rows.append({"dimension": dimension, **row})
    table = pd.DataFrame(rows)
    return table.assign(
        low=table["effect"] - Z * table["se"], high=table["effect"] + Z * table["se"]
    )[["dimension", "effect", "se", "low", "high", "rows"]]


def effect_replicates(
    conjoint: pd.DataFrame,
    saved,
    replicates: int,
    seed: int,
    weighting: str = "published",
    cluster: str = "base_id",
) -> np.ndarray:
    """Bootstrap all effects over scenarios.

    Parameters
    ----------
    conjoint, saved, weighting, cluster
        As in `marginal_effects`.
    replicates, seed : int
        Equal seeds draw the same scenarios, also for another `saved`: differences are paired.

    Returns
    -------
    ndarray, shape (replicates, 9)
        In the order of `EFFECTS`; the number of characters pooled.

    Examples
    --------
    >>> from uqlib.questions.moral import ATTRIBUTES, moral_scenarios, saved
    >>> _, conjoint = moral_scenarios(20, dimensions=ATTRIBUTES)
    >>> effect_replicates(conjoint, saved(conjoint, 2), replicates=3, seed=0).shape
    (3, 9)
    """
    frame = _checked(conjoint, saved, weighting)
    code, names = pd.factorize(frame[cluster])
    drawn = bootstrap_weights(len(names), replicates, seed)
    effects = []
    for dimension in EFFECTS:
        part, plus = _subset(frame, dimension)
        sums = _sums(part, plus, code[part.index], len(names))
        with np.errstate(invalid="ignore", divide="ignore"):
            effects.append(
                drawn @ sums[0] / (drawn @ sums[1]) - drawn @ sums[2] / (drawn @ sums[3])
            )
    return np.stack(effects, axis=1)


def _checked(conjoint: pd.DataFrame, saved, weighting: str) -> pd.DataFrame:
    if weighting not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {weighting!r}; known: {', '.join(WEIGHTINGS)}")
    saved = np.asarray(saved, dtype=float)
    if saved.shape != (len(conjoint),):
        raise ValueError(f"{len(conjoint)} rows, but saved has shape {saved.shape}")
    if not ((saved >= 0) & (saved <= 1)).all():
        first = int(np.flatnonzero(~((saved >= 0) & (saved <= 1)))[0])
        raise ValueError(f"saved must lie in [0, 1]; row {first} has {saved[first]}")
    weight = published_weights(conjoint) if weighting == "published" else 1.0
    return conjoint.reset_index(drop=True).assign(saved=saved, weight=weight)


def _subset(frame: pd.DataFrame, dimension: str) -> tuple[pd.DataFrame, np.ndarray]:
    query, column, plus, minus = EFFECTS[dimension]
    part = frame.query(query)
    if column == "attribute_level":
        part = part[part["scenario_type"] == part["scenario_type_strict"]]
    part = part[part[column].isin([plus, minus])]
    return part, (part[column] == plus).to_numpy()


def _sums(part: pd.DataFrame, plus: np.ndarray, code: np.ndarray, clusters: int) -> np.ndarray:
    """Weighted sums of saved and of rows, of either level, by cluster, shape (4, clusters)."""
    weight, saved = part["weight"].to_numpy(), part["saved"].to_numpy()
    parts = [weight * plus * saved, weight * plus, weight * ~plus * saved, weight * ~plus]
    return np.stack([np.bincount(code, values, clusters) for values in parts])


def _effect(part: pd.DataFrame, plus: np.ndarray, cluster: str) -> dict:
    if not plus.any() or plus.all():
        return {"effect": np.nan, "se": np.nan, "rows": len(part)}
    code, names = pd.factorize(part[cluster])
    sums = _sums(part, plus, code, len(names))
    total = sums.sum(axis=1)
    high, low = total[0] / total[1], total[2] / total[3]
    influence = (sums[0] - high * sums[1]) / total[1] - (sums[2] - low * sums[3]) / total[3]
    g, n = len(names), len(part)
    correction = g / (g - 1) * (n - 1) / (n - 2) if g > 1 and n > 2 else np.nan
    se = np.sqrt(correction * (influence**2).sum())
    return {"effect": high - low, "se": se, "rows": n}
