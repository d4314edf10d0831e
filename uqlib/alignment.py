"""Human alignment: do models answer, rank and hesitate as people do?

Three comparisons of a model with the shares of people over the options of a question: of the top
answers, of the orders of the options, and of uncertainties over questions.
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from uqlib.measures import CERTAINTIES, MEASURES, TOP_P
from uqlib.questions.schema import human_entropy
from uqlib.resampling import (
    Moments,
    bootstrap_weights,
    group_moments,
    interval,
    moments_correlation,
    weighted_pearson,
)
from uqlib.significance import correlation_p, holm

SCALINGS = ("published", "raw", "normalised", "within_n")
ORDER_VALUES = ("distance", "published_distance", "tau_b", "habit_distance")
TINY = np.finfo(float).tiny
CHOICE = MEASURES.index("choice_entropy")
TOP_P_ENTROPIES = [MEASURES.index(f"top_p_entropy_{p}") for p in TOP_P]


def answer_agreement(responses: pd.DataFrame, by: tuple[str, ...] = ("model",)) -> pd.DataFrame:
    """How often each model's answer is the one that most people gave, against chance.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions (`uqlib.responses.join_questions`), all with human
        shares.
    by : tuple of str
        Columns that form the groups, the model first, e.g. ``("model", "n_choices")``. The
        position of the human mode may be asked for as ``mode_position``.

    Returns
    -------
    DataFrame
        The columns of `by` and

        - `questions`, `agreement` with Wilson interval `low`, `high` (95 %): an answer agrees if no
          option was more popular, so that options tied at the top all count;
        - `chance`: mean of (options tied at the top) / n, what guessing earns; `p`: exact
          Poisson-binomial probability of at least this many agreements by guessing, and `p_holm`
          (Holm, over the whole table);
        - `habit`: the mean agreement if the model's answers were shuffled over its questions with
          the same n: what its liking for letters earns; `p_habit`: two-sided, by the normal
          approximation of the permutation distribution, NaN where shuffling changes nothing;
        - `published_agreement` (the first of tied options alone counts), `published_chance`
          (1 / mean of n), `z` and `p_published`: the one-sided one-proportion z-test.

    Raises
    ------
    ValueError
        If a question has no human shares or fewer than two options, or occurs twice for a model.

    Notes
    -----
    Moore et al. (2025), section 4.3 and Table 1. Hoeffding (1951) gives the variance of a permuted
    sum.
    """
    _check(responses)
    frame = responses.reset_index(drop=True)
    frame = frame.assign(mode_position=frame["human_shares"].map(np.argmax))
    rows = []
    for group, part in frame.groupby(list(by), sort=False):
        rows.append(dict(zip(by, group, strict=True)) | _agreement(part))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def poisson_binomial_tail(k: int, p) -> float:
    """Probability of at least k successes in independent trials of unequal chances.

    Parameters
    ----------
    k : int
    p : array_like, shape (n,)
        Chance of each trial, in [0, 1].

    Returns
    -------
    float
        Exact, by convolving one binomial distribution for each different chance. Values below the
        smallest positive float are returned as that float: no result is impossible.

    Raises
    ------
    ValueError
        If a chance lies outside [0, 1].

    Examples
    --------
    >>> round(poisson_binomial_tail(1, [0.5, 0.25]), 4)
    0.625
    """
    p = np.asarray(p, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"chances must lie in [0, 1]; one is {p[~((p >= 0) & (p <= 1))][0]}")
    if k <= 0:
        return 1.0
    mass = np.ones(1)
    normal = np.where(p < TINY, 0, p)
    for chance, count in zip(*np.unique(normal, return_counts=True), strict=True):
        mass = np.convolve(mass, stats.binom.pmf(np.arange(count + 1), count, chance))
    return float(np.clip(mass[k:].sum(), TINY, 1)) if k <= len(p) else 0.0


def kendall_distance(a, b, method: str = "ranks") -> np.ndarray:
    """Share of pairs of options that two orders disagree on; a tie in either counts one half.

    Parameters
    ----------
    a, b : array_like, shapes (..., n) that broadcast
        Any values that order the n options, such as shares or log-probabilities.
    method : {"ranks", "published"}
        `published` does what the released code of Moore et al. (2025) does: it compares
        ``argsort(a)`` with ``argsort(b)``, which are not ranks but list the options by rank.

    Returns
    -------
    ndarray of float64, shape (...)
        0 for the same order, 1 for the reverse, 1/2 on average for unrelated orders.

    Raises
    ------
    ValueError
        If there are fewer than two options, a value is NaN, or the method is unknown.

    Notes
    -----
    Kendall (1938); Moore et al. (2025), section 4.2.

    Examples
    --------
    >>> a, b = [1, 3, 4, 2], [2, 3, 4, 1]
    >>> [round(float(kendall_distance(a, b, method)), 3) for method in ("ranks", "published")]
    [0.167, 0.833]
    """
    a, b = _orders(a, b)
    if method == "published":
        a, b = (np.argsort(v, axis=-1, kind="stable") for v in (a, b))
    elif method != "ranks":
        raise ValueError(f"unknown method {method!r}; known: ranks, published")
    sign_a, sign_b = _pair_signs(a), _pair_signs(b)
    return 0.5 - 0.5 * (sign_a * sign_b).mean(axis=-1)


def tau_b(a, b) -> np.ndarray:
    """Kendall's tau-b of two orders: pairs tied in either do not count; NaN if all are.

    Parameters
    ----------
    a, b : array_like, shapes (..., n) that broadcast

    Returns
    -------
    ndarray of float64, shape (...)
        In [-1, 1].

    Examples
    --------
    >>> float(tau_b([1, 2, 3, 3], [1, 2, 3, 4]).round(3))
    0.913
    """
    a, b = _orders(a, b)
    sign_a, sign_b = _pair_signs(a), _pair_signs(b)
    untied = (sign_a != 0).sum(axis=-1) * (sign_b != 0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return (sign_a * sign_b).sum(axis=-1) / np.sqrt(untied.astype(float))


def preference_order(responses: pd.DataFrame) -> pd.DataFrame:
    """Compare the order of the options by probability with their order by human share.

    Parameters
    ----------
    responses : DataFrame
        Responses joined to their questions, all with human shares.

    Returns
    -------
    DataFrame
        The responses with columns `distance`, `published_distance` (`kendall_distance`, both
        methods), `tau_b`, and `habit_distance`: the mean distance to the orders that the same
        model gave to all questions with as many options, which is what its liking for letters
        earns.

    Raises
    ------
    ValueError
        As `answer_agreement`.
    """
    _check(responses)
    frame = responses.reset_index(drop=True)
    found = np.empty((len(frame), 4))
    for rows in frame.groupby(["model", "n_choices"]).indices.values():
        people = np.stack(frame["human_shares"].to_numpy()[rows])
        model = np.stack(frame["choice_log_probs"].to_numpy()[rows])
        usual = _pair_signs(np.asarray(model, dtype=float)).mean(axis=0)
        found[rows, 0] = kendall_distance(people, model)
        found[rows, 1] = kendall_distance(people, model, "published")
        found[rows, 2] = tau_b(people, model)
        found[rows, 3] = 0.5 - 0.5 * (_pair_signs(people) * usual).mean(axis=-1)
    return frame.assign(**dict(zip(ORDER_VALUES, found.T, strict=True)))


def order_summary(orders: pd.DataFrame, by: tuple[str, ...] = ("model",)) -> pd.DataFrame:
    """Mean distances of each group, with intervals.

    Parameters
    ----------
    orders : DataFrame
        From `preference_order`.
    by : tuple of str
        Columns that form the groups.

    Returns
    -------
    DataFrame
        The columns of `by`, and for each `value` (`distance`, `published_distance`, `tau_b`,
        `habit_distance`) a row with `questions`, `mean`, `sd` and the 95 % interval `low`, `high`
        of the mean (normal). Questions without tau-b, because one side is all ties, are left out
        of its row.
    """
    long = orders.melt(list(by), list(ORDER_VALUES), var_name="value", value_name="v")
    table = long.groupby([*by, "value"], sort=False)["v"].agg(
        questions="count", mean="mean", sd="std"
    )
    half = stats.norm.ppf(0.975) * table["sd"] / np.sqrt(table["questions"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half).reset_index()


def relist_options(responses: pd.DataFrame, seed: int) -> pd.DataFrame:
    """List the options of every question in a random order, the same for all models.

    Shares, log-probabilities and prediction stay with their options: nothing is asked again, and no
    property of the answers changes, only the order in which they are written down.
    """
    keys = {}
    rng = np.random.default_rng(seed)
    columns = {"human_shares": [], "choice_log_probs": [], "predicted": []}
    for row in responses.itertuples():
        if row.question_id not in keys:
            keys[row.question_id] = rng.permutation(row.n_choices)
        order = keys[row.question_id]
        columns["human_shares"].append(np.asarray(row.human_shares)[order])
        columns["choice_log_probs"].append(np.asarray(row.choice_log_probs)[order])
        columns["predicted"].append(int(np.flatnonzero(order == row.predicted)[0]))
    return responses.assign(**columns)


def uncertainty_alignment(
    responses: pd.DataFrame, scaling: str = "all", replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Correlate every measure of every model with human entropy over questions (Pearson).

    Parameters
    ----------
    responses : DataFrame
        Responses to one data set joined to their questions (`uqlib.responses.join_questions`), all
        with human shares, one row a model and question.
    scaling : {"all", "published", "raw", "normalised", "within_n"}
        `published`: every measure times ln n against human entropy in nats, as the released code
        of Moore et al. (2025) drew Figure 2. `raw`: entropies in nats on both sides.
        `normalised`: both sides divided by their largest possible value. `within_n`: the same,
        given a dummy for each number of options n. All four follow from one pass over the data.
    replicates, seed : int
        Bootstrap over questions, the same replicates for every measure and scaling, and for every
        model with as many questions.

    Returns
    -------
    DataFrame
        `model`, `measure`, `scaling`, `r` with percentile interval `low`, `high` (95 %),
        `questions`, `p` (two-sided, t distribution) and `p_holm` (Holm, over models and measures
        within a scaling). NaN where a measure does not vary.

    Raises
    ------
    ValueError
        If the scaling is unknown, a question has no human shares or fewer than two options, a
        measure is missing, or a question occurs twice for a model; the message names it.

    Notes
    -----
    Moore et al. (2025), section 4.2 and Figure 2.
    """
    scalings = _scalings(scaling)
    _check(responses)
    weights, rows = {}, []
    for model, frame in responses.groupby("model", sort=False):
        x, y, n = _series(frame)
        if len(n) not in weights:
            weights = {len(n): bootstrap_weights(len(n), replicates, seed)}
        plain = group_moments(x, y, np.ones((1, len(n))), n)
        drawn = group_moments(x, y, weights[len(n)], n)
        ln_n = np.log(np.unique(n))
        for name in scalings:
            r = _scaled_correlation(plain, name, ln_n)[0]
            low, high = interval(_scaled_correlation(drawn, name, ln_n))
            freedom = len(n) - 1 - (len(ln_n) if name == "within_n" else 1)
            part = {"r": r, "low": low, "high": high, "questions": len(n)}
            rows.append(_rows(model, name, part | {"p": correlation_p(r, freedom)}))
    return _with_holm(rows)


def rank_alignment(responses: pd.DataFrame, scaling: str = "all") -> pd.DataFrame:
    """Spearman correlation of every measure of every model with human entropy over questions.

    Parameters
    ----------
    responses, scaling
        As in `uncertainty_alignment`. `within_n` is the partial correlation of the ranks given a
        dummy for each n.

    Returns
    -------
    DataFrame
        As `uncertainty_alignment`, `r` being Spearman's, with the interval of Bonett and Wright
        (2000): normal on Fisher's scale with variance (1 + r^2 / 2) / (questions - 3).

    Raises
    ------
    ValueError
        As `uncertainty_alignment`.
    """
    scalings = _scalings(scaling)
    _check(responses)
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        x, y, n = _series(frame)
        for name in scalings:
            within = name == "within_n"
            scaled_x, scaled_y = _scaled(x, y, n, name)
            ranks_x, ranks_y = stats.rankdata(scaled_x, axis=1), stats.rankdata(scaled_y)
            r = weighted_pearson(ranks_x, ranks_y, np.ones((1, len(n))), n if within else None)[0]
            freedom = len(n) - 1 - (len(np.unique(n)) if within else 1)
            low, high = spearman_interval(r, freedom + 2)
            part = {"r": r, "low": low, "high": high, "questions": len(n)}
            rows.append(_rows(model, name, part | {"p": correlation_p(r, freedom)}))
    return _with_holm(rows)


def shuffled_alignment(
    responses: pd.DataFrame, scaling: str = "all", shuffles: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Alignment that is left when the measures of a model are shuffled over its questions.

    Every question keeps its people and its number of options and receives the measures of another:
    a null that knows nothing of content.

    Parameters
    ----------
    responses, scaling
        As in `uncertainty_alignment`.
    shuffles, seed : int

    Returns
    -------
    DataFrame
        `model`, `measure`, `scaling` and over the shuffles the mean `r` with `low` and `high`, the
        central 95 %.
    """
    scalings = _scalings(scaling)
    _check(responses)
    rows = []
    for model, frame in responses.groupby("model", sort=False):
        x, y, n = _series(frame)
        ln_n, plain = np.log(np.unique(n)), np.ones((1, len(n)))
        rng = np.random.default_rng(seed)
        drawn = [group_moments(x[:, rng.permutation(len(n))], y, plain, n) for _ in range(shuffles)]
        moments = Moments(*(np.concatenate(values) for values in zip(*drawn, strict=True)))
        for name in scalings:
            r = _scaled_correlation(moments, name, ln_n)
            low, high = interval(r)
            rows.append(_rows(model, name, {"r": r.mean(axis=0), "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


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


def expected_published_r(cv_measure, cv_human, cv_log_n) -> np.ndarray:
    """Correlation that the published scaling expects of a measure unrelated to people.

    Both sides are products with ln n, x ln n and y ln n. If x, y and ln n are independent, the
    correlation of the products depends on their coefficients of variation c alone:
    c_n^2 / sqrt((c_x^2 + c_n^2 + c_x^2 c_n^2) (c_y^2 + c_n^2 + c_y^2 c_n^2)).

    Parameters
    ----------
    cv_measure, cv_human, cv_log_n : array_like
        Standard deviation over mean of the measure, of normalised human entropy and of ln n.

    Returns
    -------
    ndarray of float64
        In [0, 1]; NaN if nothing varies.

    Examples
    --------
    >>> float(expected_published_r(0.5, 0.5, 0)), float(expected_published_r(0, 0, 0.3))
    (0.0, 1.0)
    """
    x, y, n = (np.asarray(c, dtype=float) ** 2 for c in (cv_measure, cv_human, cv_log_n))
    with np.errstate(invalid="ignore"):
        return n / np.sqrt((x + n + x * n) * (y + n + y * n))


def select_measures(table: pd.DataFrame, line: float = 0.5) -> pd.DataFrame:
    """Say which measures are aligned in every model, by the published rule and by a test.

    Parameters
    ----------
    table : DataFrame
        Rows of `uncertainty_alignment` of one data set and scaling.
    line : float
        The published rule is r of at least this in every model.

    Returns
    -------
    DataFrame
        One row a measure: `models`, `weakest_r` (the smallest r; for a certainty the largest),
        `by_line` (r >= `line` in every model) and `by_test` (in every model the right sign, which
        is negative for a certainty, and significant at 5 % after Holm's correction).
    """
    rows = []
    for measure, part in table.groupby("measure", sort=False):
        certain = measure in CERTAINTIES
        right = (part["r"] < 0) if certain else (part["r"] > 0)
        weakest = part["r"].max() if certain else part["r"].min()
        by_line, by_test = (part["r"] >= line).all(), (right & (part["p_holm"] < 0.05)).all()
        rows.append((measure, len(part), weakest, by_line, by_test))
    return pd.DataFrame(rows, columns=["measure", "models", "weakest_r", "by_line", "by_test"])


def spearman_interval(r, questions: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Interval of Bonett and Wright (2000) for a Spearman correlation; NaN below four questions.

    Examples
    --------
    >>> low, high = spearman_interval(0.5, 103)
    >>> round(float(low), 3), round(float(high), 3)
    (0.329, 0.639)
    """
    r = np.asarray(r, dtype=float)
    if questions < 4:
        return np.full(r.shape, np.nan), np.full(r.shape, np.nan)
    with np.errstate(divide="ignore"):
        centre = np.arctanh(r)
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt((1 + r**2 / 2) / (questions - 3))
    return np.tanh(centre - half), np.tanh(centre + half)


def _check(responses: pd.DataFrame) -> None:
    columns = ["human_shares", *(name for name in MEASURES if name in responses)]
    missing = responses[columns].isna()
    for row, values in responses[missing.any(axis=1)].iterrows():
        what = missing.columns[missing.loc[row].to_numpy().argmax()]
        text = "has no human shares" if what == "human_shares" else f"{what} is missing"
        raise ValueError(f"{values['model']}: question {values['question_id']}: {text}")
    for row in responses[responses["human_shares"].map(len) < 2].itertuples():
        raise ValueError(f"{row.model}: question {row.question_id}: one option is no choice")
    for row in responses[responses.duplicated(["model", "question_id"])].itertuples():
        raise ValueError(f"{row.model}: question {row.question_id}: occurs twice")


def _agreement(part: pd.DataFrame) -> dict:
    questions = len(part)
    agrees, chance = np.zeros(questions), np.zeros(questions)
    expected = variance = 0.0
    for n, rows in part.groupby("n_choices").indices.items():
        shares = np.stack(part["human_shares"].to_numpy()[rows])
        popular = shares == shares.max(axis=1, keepdims=True)
        predicted = part["predicted"].to_numpy()[rows]
        agrees[rows] = popular[np.arange(len(rows)), predicted]
        chance[rows] = popular.mean(axis=1)
        answers = np.bincount(predicted, minlength=n)
        by_option = popular.mean(axis=0)
        per_question = popular @ answers / len(rows)
        expected += by_option @ answers
        centred = popular - by_option - per_question[:, None] + per_question.mean()
        variance += (centred**2 @ answers).sum() / max(len(rows) - 1, 1)
    count, first = int(agrees.sum()), (part["predicted"] == part["mode_position"]).to_numpy()
    low, high = proportion_confint(count, questions, method="wilson")
    published_chance = 1 / part["n_choices"].mean()
    z, p_published = proportions_ztest(
        first.sum(), questions, published_chance, "larger", prop_var=published_chance
    )
    moved = variance > 1e-9
    z_habit = (count - expected) / np.sqrt(variance) if moved else np.nan
    return {
        "questions": questions,
        "agreement": count / questions,
        "low": low,
        "high": high,
        "chance": chance.mean(),
        "p": poisson_binomial_tail(count, chance),
        "habit": expected / questions,
        "p_habit": max(2 * stats.norm.sf(abs(z_habit)), TINY) if moved else np.nan,
        "published_agreement": first.mean(),
        "published_chance": published_chance,
        "z": z,
        "p_published": p_published,
    }


def _orders(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(f"two orders of at least 2 options, not of {a.shape[-1]}, {b.shape[-1]}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("an order has a missing value")
    return a, b


def _pair_signs(values: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., first] - values[..., second])


def _scalings(scaling: str) -> tuple[str, ...]:
    if scaling == "all":
        return SCALINGS
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling {scaling!r}; known: all, {', '.join(SCALINGS)}")
    return (scaling,)


def _series(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures and, below them, top-p entropies in nats; normalised human entropy; n, ascending."""
    frame = frame.sort_values("n_choices", kind="stable")
    n = frame["n_choices"].to_numpy(dtype=float)
    x = frame[list(MEASURES)].to_numpy(dtype=float).T
    sizes = frame[[f"top_p_size_{p}" for p in TOP_P]].to_numpy(dtype=float).T
    nats = x[TOP_P_ENTROPIES] * np.log(np.maximum(sizes, 1))
    return np.vstack([x, nats]), human_entropy(frame["human_shares"]) / np.log(n), n


def _factors(scaling: str, ln_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of `_series` to take, and what to multiply x and y by at each n."""
    rows = np.arange(len(MEASURES))
    x_scale, y_scale = np.ones((len(ln_n), len(MEASURES))), np.ones((len(ln_n), 1))
    if scaling == "published":
        x_scale *= ln_n[:, None]
    if scaling == "raw":
        rows[TOP_P_ENTROPIES] = len(MEASURES) + np.arange(len(TOP_P))
        x_scale[:, CHOICE] = ln_n
    if scaling in ("published", "raw"):
        y_scale = ln_n[:, None]
    return rows, x_scale, y_scale


def _scaled_correlation(moments: Moments, scaling: str, ln_n: np.ndarray) -> np.ndarray:
    rows, x_scale, y_scale = _factors(scaling, ln_n)
    taken = moments._replace(
        mean_x=moments.mean_x[..., rows], xx=moments.xx[..., rows], xy=moments.xy[..., rows]
    )
    return moments_correlation(taken, x_scale, y_scale, scaling == "within_n")


def _scaled(x, y, n, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    rows, x_scale, y_scale = _factors(scaling, np.log(n))
    return x[rows] * x_scale.T, y * y_scale[:, 0]


def _rows(model: str, scaling: str, columns: dict) -> pd.DataFrame:
    return pd.DataFrame({"model": model, "measure": MEASURES, "scaling": scaling} | columns)


def _with_holm(rows: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(rows, ignore_index=True)
    return table.assign(p_holm=table.groupby("scaling")["p"].transform(lambda p: holm(p)))
