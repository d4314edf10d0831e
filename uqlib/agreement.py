"""Agreement and uncertainty: does a model answer as most people do where it is certain?

Questions are compared within strata, such as those with the same number of options, so that what
the stratum fixes can explain nothing.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import sparse, stats
from scipy.special import expit
from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from uqlib.alignment import TINY
from uqlib.calibration import uncertainty
from uqlib.measures import MEASURES
from uqlib.questions.schema import human_entropy
from uqlib.resampling import bootstrap_weights, interval


def with_agreement(responses: pd.DataFrame, classes: int = 10) -> pd.DataFrame:
    """Add to each response whether it agrees with most people, and how divided these are.

    Parameters
    ----------
    responses : DataFrame
        Responses to one data set joined to their questions (`uqlib.responses.join_questions`), all
        with human shares.
    classes : int
        Of `division`.

    Returns
    -------
    DataFrame
        Without the questions on which two options share the top. Further columns:

        - `agrees`: the option predicted is the most popular one;
        - `habit`: the share of the questions with as many options at which the letter given would
          have agreed, what a liking for letters earns; guessing earns 1 / n;
        - `human_entropy`, divided by ln n, and `division`: its class among the questions with as
          many options, 0 for those on which people are most at one.

    Raises
    ------
    ValueError
        If a question has no human shares or occurs twice for a model; the message names it.

    Examples
    --------
    >>> table = pd.DataFrame({"model": "m", "question_id": ["a", "b"], "n_choices": 2,
    ...     "predicted": [0, 0], "human_shares": [[.9, .1], [.3, .7]]})
    >>> with_agreement(table)[["agrees", "habit"]].to_numpy().tolist()
    [[True, 0.5], [False, 0.5]]
    """
    for row in responses[responses["human_shares"].isna()].itertuples():
        raise ValueError(f"{row.model}: question {row.question_id}: has no human shares")
    for row in responses[responses.duplicated(["model", "question_id"])].itertuples():
        raise ValueError(f"{row.model}: question {row.question_id}: occurs twice")
    asked = responses.drop_duplicates("question_id").set_index("question_id")
    asked = asked[[sum(np.asarray(q) == max(q)) == 1 for q in asked["human_shares"]]]
    n = asked["n_choices"].to_numpy()
    people = pd.DataFrame({"mode": [int(np.argmax(q)) for q in asked["human_shares"]]}, asked.index)
    people["human_entropy"] = human_entropy(asked["human_shares"]) / np.log(n.astype(float))
    people["division"] = classes_within(people["human_entropy"], n, classes)
    kept = responses.merge(people.reset_index(), on="question_id")
    modes = people.groupby(n)["mode"].value_counts(normalize=True).to_dict()
    given = zip(kept["n_choices"], kept["predicted"], strict=True)
    return kept.drop(columns="mode").assign(
        agrees=kept["predicted"] == kept["mode"], habit=[modes.get(key, 0.0) for key in given]
    )


def stratified_auroc(values, agrees, strata=None, clusters=None) -> dict[str, float]:
    """How well an uncertainty tells answers that agree from those that do not, within strata.

    Parameters
    ----------
    values : array_like, shape (n,)
        High is uncertain. They need to be comparable within a stratum only.
    agrees : array_like, shape (n,)
        0 or 1; or probabilities, by which pairs are then weighted.
    strata : array_like, shape (n,), optional
        One stratum if left out.
    clusters : array_like, shape (n,), optional
        What was drawn at random, such as the question; every row by itself if left out.

    Returns
    -------
    dict
        `auroc`: the probability that, of two answers of the same stratum of which one agrees, the
        other has the higher value, ties half, over all such pairs; its 95 % interval `low`, `high`
        and two-sided `p` against 1/2 (normal); `pairs`. NaN without pairs; `p` is NaN if all pairs
        go the same way, since the spread is then unknown.

    Raises
    ------
    ValueError
        If a value is missing.

    Notes
    -----
    The variance is the sum of squared influences of the clusters (infinitesimal jackknife); with
    one stratum and no clusters it is that of DeLong, DeLong and Clarke-Pearson (1988), up to a
    factor (n - 1) / n in either of its two terms.

    Examples
    --------
    >>> found = stratified_auroc([.1, .4, .2, .9, .8], [1, 0, 1, 1, 0], [2, 2, 2, 4, 4])
    >>> round(found["auroc"], 3), found["pairs"]
    (0.667, 3.0)
    """
    values, agrees = np.asarray(values, dtype=float), np.asarray(agrees, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("an uncertainty is missing or infinite")
    stratum = np.zeros(len(values), int) if strata is None else _codes(strata)
    total, below = _sums(values, np.stack([agrees, 1 - agrees]), stratum)
    right, wrong = total
    won = (1 - agrees) * below[0] + agrees * (wrong - below[1])
    compared = (1 - agrees) * right + agrees * wrong
    pairs = float(compared.sum() / 2)
    if pairs == 0:
        return dict.fromkeys(("auroc", "low", "high", "p"), np.nan) | {"pairs": 0.0}
    auroc = float(won.sum() / 2 / pairs)
    influence = (won - auroc * compared) / pairs
    if clusters is not None:
        influence = np.bincount(_codes(clusters), weights=influence)
    error = float(np.sqrt((influence**2).sum()))
    half = stats.norm.ppf(0.975) * error
    p = max(2 * stats.norm.sf(abs(auroc - 0.5) / error), TINY) if error > 1e-12 else np.nan
    low, high = max(auroc - half, 0), min(auroc + half, 1)
    return {"auroc": auroc, "low": low, "high": high, "p": p, "pairs": pairs}


def agreement_auroc(
    responses: pd.DataFrame,
    within: tuple[str, ...] = ("n_choices",),
    by: tuple[str, ...] = ("model",),
    measures: tuple[str, ...] = MEASURES,
) -> pd.DataFrame:
    """Ask of every group and measure how well it tells agreement, within models and strata.

    Parameters
    ----------
    responses : DataFrame
        From `with_agreement`.
    within : tuple of str
        Columns that form the strata; answers of different models are never compared. Empty: no
        strata.
    by : tuple of str
        Columns that form the groups.
    measures : tuple of str
        A certainty is turned round.

    Returns
    -------
    DataFrame
        The columns of `by`, `measure`, `answers`, `agreement`, what `stratified_auroc` returns,
        with questions as clusters, and `habit_auroc`: the same with the agreement that the letters
        given would earn on any question with as many options.
    """
    rows = []
    for group, part in responses.groupby(list(by), sort=False):
        strata = part.groupby(["model", *within]).ngroup().to_numpy()
        for measure in measures:
            values = uncertainty(part, measure)
            found = stratified_auroc(values, part["agrees"], strata, part["question_id"])
            found["habit_auroc"] = stratified_auroc(values, part["habit"], strata)["auroc"]
            row = dict(zip(by, group, strict=True)) | {"measure": measure, "answers": len(part)}
            rows.append(row | {"agreement": part["agrees"].mean()} | found)
    return pd.DataFrame(rows)


def agreement_by_class(
    responses: pd.DataFrame,
    measure: str,
    within: tuple[str, ...] = ("n_choices",),
    classes: int = 5,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of answers that agree in each fifth of a model's uncertainty, within strata.

    Parameters
    ----------
    responses : DataFrame
        From `with_agreement`.
    measure : str
    within : tuple of str
        Columns that form the strata in which each model's answers are put in order.
    classes : int
    replicates, seed : int
        Bootstrap over questions, each with the answers of all its models.

    Returns
    -------
    DataFrame
        For each `class`, 0 being the most certain: `answers`, `agreement` over all models with
        percentile interval `low`, `high` (95 %), `chance` (the mean of 1 / n) and `habit`.
    """
    strata = responses.groupby(["model", *within]).ngroup()
    group = classes_within(uncertainty(responses, measure), strata, classes)
    question = _codes(responses["question_id"])
    cell = question * classes + group
    size = (question.max() + 1) * classes
    agrees = responses["agrees"].to_numpy(dtype=float)
    count = np.bincount(cell, minlength=size).reshape(-1, classes)
    agreed = np.bincount(cell, weights=agrees, minlength=size).reshape(-1, classes)
    weights = bootstrap_weights(len(count), replicates, seed)
    low, high = interval((weights @ agreed) / (weights @ count))
    table = pd.DataFrame({"class": range(classes), "answers": count.sum(axis=0)})
    table["agreement"] = agreed.sum(axis=0) / table["answers"]
    means = responses.assign(chance=1 / responses["n_choices"]).groupby(group)
    return table.assign(low=low, high=high).join(means[["chance", "habit"]].mean())


def agreement_odds(
    responses: pd.DataFrame,
    adjust: tuple[str, ...] = (),
    measures: tuple[str, ...] = MEASURES,
) -> pd.DataFrame:
    """Odds of agreement per standard deviation of certainty, by logistic regression.

    Parameters
    ----------
    responses : DataFrame
        From `with_agreement`.
    adjust : tuple of str
        Columns to hold fixed, such as ``human_entropy``; standardised within n, as the measure is.
    measures : tuple of str

    Returns
    -------
    DataFrame
        `model`, `measure`, `answers`, `log_odds` (of the odds ratio for an uncertainty that is one
        standard deviation lower), its 95 % interval `low`, `high` and `p` (Wald). A dummy for every
        number of options; those at which all answers agree or none does say nothing and are left
        out. NaN where nothing is left, the measure does not vary, or it separates the answers
        without fail.
    """
    rows = []
    for model, part in responses.groupby("model", sort=False):
        part = part[part.groupby("n_choices")["agrees"].transform("nunique") > 1]
        n = part["n_choices"].to_numpy()
        dummies = pd.get_dummies(n).to_numpy(dtype=float)
        held = [standardised(part[name], n) for name in adjust]
        agrees = part["agrees"].to_numpy(dtype=float)
        for measure in measures:
            certainty = -standardised(uncertainty(part, measure), n)
            found = _log_odds(agrees, np.column_stack([certainty, dummies, *held]))
            rows.append({"model": model, "measure": measure, "answers": len(part)} | found)
    return pd.DataFrame(rows)


class MixedFit(NamedTuple):
    """A mixed-effects logistic model of agreement."""

    effects: pd.DataFrame
    """`term` (`certainty` and what is held fixed), `log_odds` per standard deviation, `sd`, `low`,
    `high` (95 %), `p` (two-sided, normal)."""
    slopes: pd.DataFrame
    """`model`, its `log_odds` per standard deviation of certainty, `sd`, `low`, `high`."""
    spreads: pd.Series
    """Standard deviations of `question` and `model` intercepts and of the models' `slope`."""
    reading: pd.DataFrame
    """Of 100 answers to these questions by these models, how many agree (`agree`, `low`, `high`)
    at average certainty (`certainty` 0) and one standard deviation above it (1)."""


def mixed_agreement(
    responses: pd.DataFrame, measure: str, adjust: tuple[str, ...] = ()
) -> MixedFit:
    """Fit agreement by certainty, with intercepts of questions and models and slopes of models.

    Parameters
    ----------
    responses : DataFrame
        From `with_agreement`, of at least two models.
    measure : str
        Turned into a certainty and standardised within each model and number of options.
    adjust : tuple of str
        Columns to hold fixed, such as ``human_entropy``; standardised within n.

    Returns
    -------
    MixedFit

    Raises
    ------
    ValueError
        If there is one model only.

    Notes
    -----
    logit P(agrees) = a_n + (b + b_model) certainty + held + c_question + c_model, where b_model,
    c_question and c_model are normal with mean zero. Means are those of the variational fit of
    statsmodels (`BinomialBayesMixedGLM.fit_vb`; priors N(0, 2^2) on fixed effects, N(0, 1) on the
    logarithms of the standard deviations). Its factors are independent, which makes its errors too
    small wherever effects are learnt from the same answers; errors are therefore those of the
    curvature of the log-posterior at these means, given the standard deviations (Laplace).
    """
    n, model = responses["n_choices"].to_numpy(), responses["model"].to_numpy()
    if len(np.unique(model)) < 2:
        raise ValueError(f"a mixed model takes at least two models, not {model[0]} alone")
    strata = responses.groupby(["model", "n_choices"]).ngroup()
    certainty = -standardised(uncertainty(responses, measure), strata)
    held = [standardised(responses[name], n) for name in adjust]
    fixed = np.column_stack([certainty, *held, pd.get_dummies(n).to_numpy(dtype=float)])
    by_model = _indicators(model)
    sloped = sparse.csr_array(by_model * certainty[:, None])
    parts = [_indicators(responses["question_id"]), by_model, sloped]
    kind = np.repeat(np.arange(3), [part.shape[1] for part in parts])
    random = sparse.csr_array(sparse.hstack(parts))
    agrees = responses["agrees"].to_numpy(dtype=float)
    glmm = BinomialBayesMixedGLM(agrees, fixed, random, kind)
    size = fixed.shape[1] + 3 + random.shape[1]
    start = {"mean": np.zeros(size), "sd": np.full(size, 0.5)}
    fit = glmm.fit_vb(**start, fit_method="L-BFGS-B", minim_opts={"maxiter": 1000})
    spread = np.exp(fit.vcp_mean)
    mean = np.concatenate([fit.fe_mean, fit.vc_mean])
    precision = np.concatenate([np.full(fixed.shape[1], glmm.fe_p), spread[kind]]) ** -2.0
    design = sparse.csr_array(sparse.hstack([sparse.csr_array(fixed), random]))
    cov = _curvature(design, mean, precision)
    terms = 1 + len(held)
    effects = _wald(mean[:terms], np.sqrt(np.diag(cov)[:terms]))
    effects.insert(0, "term", ["certainty", *adjust])
    last = len(mean) - by_model.shape[1] + np.arange(by_model.shape[1])
    variance = cov[0, 0] + np.diag(cov)[last] + 2 * cov[0, last]
    slopes = _wald(mean[0] + mean[last], np.sqrt(variance)).drop(columns="p")
    slopes.insert(0, "model", pd.unique(model))
    spreads = pd.Series(spread, index=["question", "model", "slope"])
    return MixedFit(
        effects, slopes, spreads, _reading(design, mean, cov, certainty, by_model, last)
    )


def classes_within(values, strata, classes: int) -> np.ndarray:
    """Class of each value by its rank in its stratum, from 0 (lowest); ties share their mean rank.

    Examples
    --------
    >>> classes_within([1, 2, 3, 4, 50, 60], [2, 2, 2, 2, 3, 3], 2)
    array([0, 0, 1, 1, 0, 1])
    """
    grouped = pd.Series(np.asarray(values, dtype=float)).groupby(_codes(strata))
    place = (grouped.rank() - 0.5) / grouped.transform("size")
    return np.floor(place * classes).astype(int).to_numpy()


def standardised(values, strata) -> np.ndarray:
    """Values less their mean, over their standard deviation, in each stratum; 0 where none vary.

    Examples
    --------
    >>> standardised([1, 3, 5, 5], ["a", "a", "b", "b"])
    array([-1.,  1.,  0.,  0.])
    """
    grouped = pd.Series(np.asarray(values, dtype=float)).groupby(_codes(strata))
    centred = grouped.transform(lambda v: v - v.mean())
    spread = grouped.transform(lambda v: v.std(ddof=0))
    return np.where(spread > 1e-9, centred / spread.where(spread > 1e-9, 1), 0.0)


def _codes(labels) -> np.ndarray:
    return pd.factorize(np.asarray(labels))[0]


def _sums(values, mass, stratum) -> tuple[np.ndarray, np.ndarray]:
    """Mass in the stratum of each value, and below it there, with half of its equals; (k, n)."""
    order = np.lexsort((values, stratum))
    s, v = stratum[order], values[order]
    start = np.flatnonzero(np.r_[True, (s[1:] != s[:-1]) | (v[1:] != v[:-1])])
    level = np.add.reduceat(mass[:, order], start, axis=1)
    total = np.stack([np.bincount(stratum, weights=row) for row in mass])
    before_stratum = total.cumsum(axis=1) - total
    below = level.cumsum(axis=1) - level / 2 - before_stratum[:, s[start]]
    found = np.empty(mass.shape)
    found[:, order] = np.repeat(below, np.diff(np.r_[start, len(v)]), axis=1)
    return total[:, stratum], found


def _log_odds(agrees: np.ndarray, design: np.ndarray) -> dict:
    """Wald statistics of the first column; NaN if it does not vary or separates the answers."""
    if not design[:, 0].any():
        return dict.fromkeys(("log_odds", "low", "high", "p"), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        try:
            fit = sm.GLM(agrees, design, sm.families.Binomial()).fit()
        except PerfectSeparationWarning:
            return dict.fromkeys(("log_odds", "low", "high", "p"), np.nan)
    return _wald(fit.params[:1], fit.bse[:1]).drop(columns="sd").iloc[0].to_dict()


def _wald(mean, sd) -> pd.DataFrame:
    half = stats.norm.ppf(0.975) * sd
    table = pd.DataFrame({"log_odds": mean, "sd": sd, "low": mean - half, "high": mean + half})
    return table.assign(p=2 * stats.norm.sf(np.abs(mean) / sd))


def _indicators(labels) -> sparse.csr_array:
    codes = _codes(labels)
    return sparse.csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)))


def _curvature(design: sparse.csr_array, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Inverse of minus the second derivative of a penalised logistic log-likelihood."""
    p = expit(design @ mean)
    information = (design.T @ (design * (p * (1 - p))[:, None])).toarray()
    return np.linalg.inv(information + np.diag(precision))


def _reading(design, mean, cov, certainty, by_model, last) -> pd.DataFrame:
    """Agreements in 100 at two certainties, all else as it is, with delta-method intervals."""
    base = design @ mean - certainty * (mean[0] + by_model @ mean[last])
    rows = []
    for level in (0, 1):
        p = expit(base + level * (mean[0] + by_model @ mean[last]))
        weight = p * (1 - p) / len(p)
        gradient = design.T @ weight
        gradient[0] = level * weight.sum()
        gradient[last] = level * (by_model.T @ weight)
        half = stats.norm.ppf(0.975) * np.sqrt(gradient @ cov @ gradient)
        rows.append((level, p.mean(), p.mean() - half, p.mean() + half))
    table = pd.DataFrame(rows, columns=["certainty", "agree", "low", "high"])
    return table.assign(**{name: 100 * table[name] for name in ("agree", "low", "high")})
