"""Human alignment of uncertainty: does a measure rise where people disagree more?"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from uqlib.measures import MEASURES, TOP_P
from uqlib.questions.schema import human_entropy
from uqlib.resampling import bootstrap_weights, interval, weighted_pearson

SCALINGS = ("published", "raw", "normalised", "within_n")


def uncertainty_alignment(
    responses: pd.DataFrame, scaling: str, replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Correlate every measure of every model with human entropy over questions.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions (`uqlib.responses.join_questions`), all with human
        shares, one row a model and question.
    scaling : {"published", "raw", "normalised", "within_n"}
        `published`: every measure times ln n against human entropy in nats, as the released code
        of Moore et al. (2025) drew Figure 2. `raw`: entropies in nats on both sides.
        `normalised`: both sides divided by their largest possible value. `within_n`: the same,
        given a dummy for each number of options n.
    replicates, seed : int
        Bootstrap over questions, the same replicates for every model and measure.

    Returns
    -------
    DataFrame
        `model`, `measure`, `r` with percentile interval `low`, `high` (95 %), `questions`, `p`
        (two-sided, t distribution) and `p_holm` (Holm, over the whole table). NaN where a measure
        does not vary.

    Raises
    ------
    ValueError
        If the scaling is unknown or a question has no human shares.

    Notes
    -----
    Moore et al. (2025), section 4.2 and Figure 2.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling {scaling!r}; known: {', '.join(SCALINGS)}")
    if responses["human_shares"].isna().any():
        first = responses.loc[responses["human_shares"].isna(), "question_id"].iloc[0]
        raise ValueError(f"question {first} has no human shares")
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        x, y, groups = _scaled(frame, scaling)
        weights = bootstrap_weights(len(frame), replicates, seed)
        r = weighted_pearson(x, y, np.ones((1, len(frame))), groups)[0]
        low, high = interval(weighted_pearson(x, y, weights, groups))
        freedom = len(frame) - 1 - (1 if groups is None else len(np.unique(groups)))
        rows.append(
            pd.DataFrame(
                {
                    "model": model,
                    "measure": MEASURES,
                    "r": r,
                    "low": low,
                    "high": high,
                    "questions": len(frame),
                    "p": correlation_p(r, freedom),
                }
            )
        )
    table = pd.concat(rows, ignore_index=True)
    return table.assign(p_holm=holm(table["p"]))


def permute_measures(responses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Shuffle the measures of each model over its questions: a null that knows nothing of content.

    Every row keeps its question and its number of options and receives the measures of another.
    """
    rng = np.random.default_rng(seed)
    shuffled = responses.copy()
    for index in responses.groupby("model", sort=False).groups.values():
        order = rng.permutation(len(index))
        shuffled.loc[index, list(MEASURES)] = responses.loc[index[order], list(MEASURES)].to_numpy()
    return shuffled


def answer_count_correlation(questions: pd.DataFrame) -> float:
    """Pearson correlation of ln n alone with human entropy in nats; NaN if n does not vary.

    Examples
    --------
    >>> answer_count_correlation(pd.DataFrame({"human_shares": [[.5, .5], [.3, .3, .4]]})).round(3)
    np.float64(1.0)
    """
    log_n = np.log(questions["human_shares"].map(len).to_numpy(dtype=float))
    entropy = human_entropy(questions["human_shares"])
    return weighted_pearson(log_n[None], entropy, np.ones((1, len(entropy))))[0, 0]


def correlation_p(r, freedom: int) -> np.ndarray:
    """Two-sided p-value of a correlation by the t distribution.

    Examples
    --------
    >>> x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 7]
    >>> expected = stats.pearsonr(x, y)
    >>> bool(np.isclose(correlation_p(expected.statistic, 3), expected.pvalue))
    True
    """
    r = np.asarray(r, dtype=float)
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt(freedom / (1 - r**2))
    return 2 * stats.t.sf(t, freedom)


def holm(p) -> np.ndarray:
    """Holm-corrected p-values over one family; NaN stays NaN and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, np.nan])
    array([0.02, 0.04,  nan])
    """
    p = np.asarray(p, dtype=float)
    corrected = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        corrected[tested] = multipletests(p[tested], method="holm")[1]
    return corrected


def _scaled(frame: pd.DataFrame, scaling: str):
    n = frame["n_choices"].to_numpy(dtype=float)
    measures = frame[list(MEASURES)].astype(float)
    entropy = human_entropy(frame["human_shares"])
    if scaling == "published":
        return measures.to_numpy().T * np.log(n), entropy, None
    if scaling == "raw":
        measures["choice_entropy"] *= np.log(n)
        for p in TOP_P:
            measures[f"top_p_entropy_{p}"] *= np.log(measures[f"top_p_size_{p}"])
        return measures.to_numpy().T, entropy, None
    groups = n if scaling == "within_n" else None
    return measures.to_numpy().T, entropy / np.log(n), groups
