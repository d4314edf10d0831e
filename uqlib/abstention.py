"""Abstention by sensitivity and entropy: doubts, what is tuned on validation, and thresholds.

A doubt is high where the answer should be held back. Whatever is learnt, the weight of the score, a
regression, a threshold, is learnt from validation questions and used on others.
"""

import math

import numpy as np
import pandas as pd
from scipy.special import entr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.artifacts import sha256_of
from uqlib.sensitivity import js_divergence, kl_divergence, sua

DOUBTS = {
    "sua_1": "SUA, weight 1",
    "sua": "SUA, weight chosen",
    "sua_signed": "SUA, either sign",
    "sensitivity": "sensitivity",
    "entropy": "entropy",
    "max_probability": "largest probability",
    "margin": "margin",
    "self_consistency": "self-consistency",
    "average_entropy": "averaged prediction",
    "logistic": "regression on both",
}
"""The doubts of `tuned_doubts`, and what figures call them."""


def right_options(questions: pd.DataFrame) -> pd.Series:
    """Tell which options count as right: what most people say, or else the answer.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.

    Returns
    -------
    Series of ndarray of bool
        By question id; with people's shares every mode is right.

    Raises
    ------
    ValueError
        If a question has neither shares nor an answer; the message names it.

    Examples
    --------
    >>> right_options(pd.DataFrame([
    ...     {"question_id": "q", "choices": ["a", "b", "c"], "human_shares": [0.4, 0.4, 0.2],
    ...      "answer": None}]))["q"]
    array([ True,  True, False])
    """
    right = {}
    for row in questions.itertuples():
        if row.human_shares is not None:
            shares = np.asarray(row.human_shares, dtype=float)
            right[row.question_id] = shares >= shares.max() - 1e-9
        elif pd.isna(row.answer):
            raise ValueError(f"question {row.question_id} has neither shares nor an answer")
        else:
            right[row.question_id] = np.arange(len(row.choices)) == row.answer
    return pd.Series(right)


def worst_edits(answers: pd.DataFrame, right: pd.Series) -> pd.DataFrame:
    """Let an adversary choose, for every model and question, the edit that is asked.

    Parameters
    ----------
    answers : DataFrame
        From `uqlib.sensitivity.edited_answers`.
    right : Series
        From `right_options`.

    Returns
    -------
    DataFrame
        The same answers; the edit where the right options lead least, or trail most, is now the
        `original`. The former original and the other edits, which differ from it by edits too,
        stand for the edits of it.

    Examples
    --------
    >>> answers = pd.DataFrame({
    ...     "model": "m", "dataset": "d", "question_id": "q",
    ...     "edit": ["original", "order", "label"], "stratum": ["original", "order", "wording"],
    ...     "p": [np.array(p) for p in ([0.9, 0.1], [0.3, 0.7], [0.8, 0.2])]})
    >>> worst_edits(answers, pd.Series({"q": np.array([True, False])})).edit.tolist()
    ['unedited', 'original', 'label']
    """
    lead = np.array(
        [
            p[right[name]].max() - p[~right[name]].max(initial=0)
            for name, p in zip(answers["question_id"], answers["p"], strict=True)
        ]
    )
    attacked = answers.reset_index(drop=True)
    was = attacked["edit"] == "original"
    edits = attacked[~was].assign(lead=lead[~was])
    worst = edits.groupby(["model", "dataset", "question_id"], sort=False)["lead"].idxmin()
    attacked.loc[was, ["edit", "stratum"]] = "unedited"
    attacked.loc[worst, ["edit", "stratum"]] = "original"
    return attacked


def doubt_table(answers: pd.DataFrame, right: pd.Series) -> pd.DataFrame:
    """Measure the doubts that need no tuning, and who is wrong.

    Parameters
    ----------
    answers : DataFrame
        From `uqlib.sensitivity.edited_answers` or `worst_edits`.
    right : Series
        From `right_options`.

    Returns
    -------
    DataFrame
        One row a model and question. The answer judged is always that to the original: `wrong`.
        `entropy` in nats, `sensitivity` the mean Jensen-Shannon divergence of the edits in nats,
        `max_probability` and `margin` turned round, `self_consistency` the share of edits with
        another answer, `average_entropy` that of the mean over original and edits, in nats.
        `average_wrong`: whether that mean's own answer is wrong. `kl`: the published sensitivity,
        in nats.
    """
    rows = []
    for (model, dataset, name), part in answers.groupby(
        ["model", "dataset", "question_id"], sort=False
    ):
        is_original = (part["edit"] == "original").to_numpy()
        every = np.stack(part["p"].tolist())
        p, edited, average = every[is_original][0], every[~is_original], every.mean(axis=0)
        second, first = np.sort(p)[-2:]
        rows.append(
            {
                "model": model,
                "dataset": dataset,
                "question_id": name,
                "wrong": float(not right[name][p.argmax()]),
                "average_wrong": float(not right[name][average.argmax()]),
                "entropy": entr(p).sum(),
                "sensitivity": js_divergence(p, edited).mean(),
                "kl": kl_divergence(p, edited).mean(),
                "max_probability": 1 - first,
                "margin": 1 - (first - second),
                "self_consistency": (edited.argmax(-1) != p.argmax()).mean(),
                "average_entropy": entr(average).sum(),
            }
        )
    return pd.DataFrame(rows)


def validation_half(question_ids, seed: int = 0) -> np.ndarray:
    """Put about half of the questions aside for validation.

    Questions that differ only in the last part of their id, the options or their order, stay
    together, and so do edits, models and attacks on one question.

    Parameters
    ----------
    question_ids : sequence of str
    seed : int

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> validation_half(["fact/b/0.1", "fact/b/1.0", "fact/c/0.1"])
    array([ True,  True, False])
    """
    topics = [name.rsplit("/", 1)[0] for name in question_ids]
    return np.array([int(sha256_of(str(seed), topic)[:8], 16) % 2 == 0 for topic in topics])


def pooled_auroc(values, wrong, strata, weights=None):
    """Probability that a wrong answer has the higher doubt, compared within strata only.

    To tell an easy table from a hard one earns nothing.

    Parameters
    ----------
    values, wrong, strata : array_like, shape (n,)
    weights : array_like, shape (b, n), optional
        Of the bootstrap.

    Returns
    -------
    float, or ndarray of shape (b,) with weights
        In [0, 1], ties half; NaN where no stratum holds right and wrong answers.

    Raises
    ------
    ValueError
        If a value is missing or infinite.

    Examples
    --------
    >>> float(pooled_auroc([0.1, 0.2, 5.0, 5.1], [0, 1, 1, 0], ["a", "a", "b", "b"]))
    0.5
    """
    values, wrong = np.asarray(values, dtype=float), np.asarray(wrong, dtype=float)
    strata = np.asarray(strata)
    if not np.isfinite(values).all():
        raise ValueError("a doubt is missing or infinite")
    drawn = np.ones((1, len(values))) if weights is None else np.asarray(weights, dtype=float)
    above, pairs = np.zeros(len(drawn)), np.zeros(len(drawn))
    for stratum in pd.unique(strata):
        mine = strata == stratum
        order = np.argsort(values[mine], kind="stable")
        levels = np.flatnonzero(np.diff(values[mine][order], prepend=-np.inf))
        w, e = drawn[:, mine][:, order], wrong[mine][order]
        errors, right = (np.add.reduceat(w * part, levels, axis=1) for part in (e, 1 - e))
        above += (errors * (right.cumsum(axis=1) - right / 2)).sum(axis=1)
        pairs += errors.sum(axis=1) * right.sum(axis=1)
    with np.errstate(invalid="ignore"):
        auroc = above / pairs
    return auroc[0] if weights is None else auroc


def choose_weight(sensitivity, entropy, wrong, strata, candidates) -> float:
    """Choose the weight of entropy whose score finds most errors, by `pooled_auroc`.

    Parameters
    ----------
    sensitivity, entropy, wrong, strata : array_like, shape (n,)
        Of validation questions.
    candidates : sequence of float
        Equally good ones are decided by the smaller magnitude.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If no stratum has right and wrong answers.

    Examples
    --------
    >>> choose_weight([0.1, 0.3, 0.2, 0.4], [1.0, 0.2, 1.1, 0.1], [0, 1, 0, 1], [0] * 4, [-1, 0, 1])
    0.0
    """
    candidates = sorted(map(float, candidates), key=abs)
    found = [pooled_auroc(sua(sensitivity, entropy, w), wrong, strata) for w in candidates]
    if np.isnan(found).any():
        raise ValueError("no weight can be chosen: validation answers are all right or all wrong")
    return candidates[int(np.argmax(np.round(found, 9)))]


def tuned_doubts(table: pd.DataFrame, validation, candidates) -> pd.DataFrame:
    """Add the doubts that learn from validation questions.

    Parameters
    ----------
    table : DataFrame
        Of one model, from `doubt_table`.
    validation : array_like of bool
        From `validation_half`; nothing else is learnt from.
    candidates : sequence of float
        For `choose_weight`.

    Returns
    -------
    DataFrame
        With all columns of `DOUBTS`. `sua` has the best of the candidates that are not negative,
        as published, `sua_signed` the best of all; `weight` and `signed_weight` are these two.
        `logistic` is the log odds of an error by a logistic regression on sensitivity and entropy,
        standardised.

    Raises
    ------
    ValueError
        If the validation answers are all right or all wrong.
    """
    known = table[np.asarray(validation)]
    validation_columns = [known[c] for c in ("sensitivity", "entropy", "wrong", "dataset")]
    weight = choose_weight(*validation_columns, [w for w in candidates if w >= 0])
    signed = choose_weight(*validation_columns, candidates)
    both = ["sensitivity", "entropy"]
    regression = make_pipeline(StandardScaler(), LogisticRegression())
    regression.fit(known[both], known["wrong"])
    return table.assign(
        weight=weight,
        signed_weight=signed,
        sua_1=sua(table["sensitivity"], table["entropy"]),
        sua=sua(table["sensitivity"], table["entropy"], weight),
        sua_signed=sua(table["sensitivity"], table["entropy"], signed),
        logistic=regression.decision_function(table[both]),
    )


def coverage_threshold(values, coverage: float) -> float:
    """Return the smallest doubt that leaves at least a share of these questions answered.

    Answer where the doubt is at most the threshold.

    Examples
    --------
    >>> coverage_threshold([0.4, 0.1, 0.3, 0.2, 0.5], 0.8)
    0.4
    """
    return _kth(values, len(values) * coverage)


def conformal_threshold(values, coverage: float) -> float:
    """Return the doubt below which a *new* question lies with at least this probability.

    Parameters
    ----------
    values : array_like, shape (n,)
        Doubts of validation questions, exchangeable with the new one.
    coverage : float
        In (0, 1).

    Returns
    -------
    float
        The ceil((n + 1) coverage)-th smallest; infinite if there are too few.

    Notes
    -----
    Split conformal prediction (Vovk, Gammerman and Shafer, 2005). Without ties the probability
    exceeds the coverage by at most 1 / (n + 1).

    Examples
    --------
    >>> conformal_threshold([0.4, 0.1, 0.3, 0.2, 0.5], 0.8)
    0.5
    """
    return _kth(values, (len(values) + 1) * coverage)


def error_threshold(values, wrong, level: float) -> float:
    """Return a threshold under which a new question is answered wrongly at most at this rate.

    Parameters
    ----------
    values, wrong : array_like, shape (n,)
        Of validation questions, exchangeable with the new one.
    level : float
        In (0, 1): the allowed probability of answering *and* being wrong.

    Returns
    -------
    float
        The largest doubt of these questions that may still be answered; minus infinity if none
        may, infinity if all questions may be answered.

    Notes
    -----
    Conformal risk control (Angelopoulos et al., 2024) with the loss 1 for a wrong answer given, 0
    otherwise: the largest threshold with (errors answered + 1) / (n + 1) <= level.

    Examples
    --------
    >>> error_threshold([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 0.2)
    0.2
    """
    values, wrong = np.asarray(values, dtype=float), np.asarray(wrong, dtype=float)
    allowed = math.floor((len(values) + 1) * level - 1 + 1e-9)
    if wrong.sum() <= allowed:
        return math.inf
    if allowed < 0:
        return -math.inf
    first = np.sort(values[wrong == 1])[allowed]
    return float(values[values < first].max(initial=-math.inf))


def _kth(values, k: float) -> float:
    k = math.ceil(k - 1e-9)
    return float(np.sort(values)[max(k, 1) - 1]) if k <= len(values) else math.inf
