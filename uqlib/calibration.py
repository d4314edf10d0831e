"""Calibration: does a measure fall where the model is right?"""

import numpy as np
import pandas as pd

from uqlib.alignment import correlation_p, holm
from uqlib.measures import MEASURES
from uqlib.resampling import bootstrap_weights, interval, weighted_spearman


def correctness_correlation(
    responses: pd.DataFrame, by: tuple[str, ...] = ("model",), replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Spearman correlation of every measure with correctness, within each group.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions (`uqlib.responses.join_questions`), all with an answer.
    by : tuple of str
        Columns that form the groups, e.g. ``("model", "subject")``.
    replicates, seed : int
        Bootstrap over questions; with 0 replicates the interval is NaN.

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
    if responses["answer"].isna().any():
        first = responses.loc[responses["answer"].isna(), "question_id"].iloc[0]
        raise ValueError(f"question {first} has no right answer")
    rows = []
    for group, frame in responses.groupby(list(by), sort=False):
        correct = frame["correct"].to_numpy(dtype=float)
        weights = bootstrap_weights(len(frame), replicates, seed)
        plain = np.ones((1, len(frame)))
        for measure in MEASURES:
            values = frame[measure].to_numpy()
            rho = weighted_spearman(values, correct, plain)[0]
            low, high = np.nan, np.nan
            if replicates and not np.isnan(rho):
                low, high = interval(weighted_spearman(values, correct, weights))
            rows.append((*group, measure, rho, low, high, correct.mean(), len(frame)))
    names = [*by, "measure", "rho", "low", "high", "accuracy", "questions"]
    table = pd.DataFrame(rows, columns=names)
    p = [correlation_p(row.rho, row.questions - 2) for row in table.itertuples()]
    return table.assign(p=np.array(p, dtype=float), p_holm=holm(p))
