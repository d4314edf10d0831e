"""The scoreboard: every measure by several criteria, with ranks that carry their uncertainty."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from statsmodels.stats.proportion import proportion_confint

from uqlib.alignment import answer_agreement
from uqlib.calibration import calibration_error, check_answers, resampled_error, uncertainty
from uqlib.measures import MEASURES
from uqlib.questions.schema import human_entropy
from uqlib.reliability import confidence_bins, option_confidence
from uqlib.resampling import bootstrap_weights, interval, weighted_pearson, weighted_spearman
from uqlib.selective import selective_scores

CRITERIA = {"alignment": 1, "auroc": 1, "selective_accuracy": 1, "robustness": 1, "ece": -1}
"""Each criterion, and whether more (1) or less (-1) of it is better."""

SCORED = (*MEASURES, "option_doubt")
"""The sixteen measures, and 1 less the largest probability of an option among the options."""


class Scores(NamedTuple):
    """Values of all criteria and measures; NaN where a criterion does not apply."""

    value: np.ndarray
    """Shape (criteria, measures)."""
    drawn: np.ndarray
    """The same for every bootstrap replicate, shape (criteria, replicates, measures)."""


def score_model(
    people: pd.DataFrame,
    facts: pd.DataFrame,
    again: pd.DataFrame,
    replicates: int = 200,
    seed: int = 0,
    coverage: float = 0.8,
) -> Scores:
    """Score every measure of one model.

    Parameters
    ----------
    people, facts : DataFrame
        Responses of one model joined to their questions, all with human shares or all with an
        answer. Several data sets are scored one by one and averaged; an empty table leaves its
        criteria NaN.
    again : DataFrame
        Responses to some questions of `facts` asked in another way.
    replicates, seed : int
        Bootstrap over questions, the same replicates for every measure.
    coverage : float
        In (0, 1], of selective accuracy.

    Returns
    -------
    Scores
        Criteria in the order of `CRITERIA`, measures in that of `SCORED`, a certainty turned round:
        the correlation with normalised human entropy within the number of options, in [-1, 1]; the
        area under the ROC curve for errors, in [0, 1]; the accuracy of the least uncertain answers;
        the Spearman correlation of the measure with itself under the other way of asking; and the
        expected calibration error, in [0, 1], of 1 less the measure read as a confidence, which
        top-p sizes are not.

    Raises
    ------
    ValueError
        If a question lacks what its table must have; the message names it.

    Examples
    --------
    >>> from uqlib.controls import oracle, response_table
    >>> from uqlib.questions.world import opinion_questions
    >>> from uqlib.responses import join_questions
    >>> questions = opinion_questions(98)
    >>> people = join_questions(response_table(questions, oracle(questions), "oracle"), questions)
    >>> scores = score_model(people, people[:0], people[:0], replicates=10)
    >>> round(scores.value[0, SCORED.index("choice_entropy")], 3)
    np.float64(1.0)
    """
    parts = [
        *(_alignment(part, replicates, seed) for _, part in people.groupby("dataset")),
        *(_correctness(part, replicates, seed, coverage) for _, part in facts.groupby("dataset")),
    ]
    if len(again):
        parts.append(_robustness(facts, again, replicates, seed))
    blank = Scores(*_blank(replicates))
    return Scores(*(_nanmean(np.stack(arrays)) for arrays in zip(blank, *parts, strict=True)))


def average_scores(scores: list[Scores], seed: int = 0) -> Scores:
    """Average models; a replicate draws models as well as each model's questions.

    Parameters
    ----------
    scores : list of Scores
        With equally many replicates.
    seed : int
        Of the draw of models.

    Returns
    -------
    Scores

    Examples
    --------
    >>> one, two = (Scores(np.full((1, 1), x), np.full((1, 50, 1), x)) for x in (0.2, 0.4))
    >>> average = average_scores([one, two])
    >>> average.value.round(3), sorted(set(average.drawn.ravel().round(3).tolist()))
    (array([[0.3]]), [0.2, 0.3, 0.4])
    """
    value = _nanmean(np.stack([one.value for one in scores]))
    drawn = np.stack([one.drawn for one in scores])
    weights = bootstrap_weights(len(scores), drawn.shape[2], seed).T[:, None, :, None]
    known = ~np.isnan(drawn)
    counted = (weights * known).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Scores(value, (weights * np.where(known, drawn, 0)).sum(axis=0) / counted)


def score_table(scores: Scores) -> pd.DataFrame:
    """Write scores as a table, with ranks.

    Parameters
    ----------
    scores : Scores
        Of `score_model` or `average_scores`.

    Returns
    -------
    DataFrame
        One row a measure and criterion: `value` with percentile interval `low`, `high` (95 %),
        `rank` (1 is best, ties share the mean rank) with `rank_low`, `rank_high` over the
        replicates. The criterion ``overall`` is the mean rank over the criteria a measure has: a
        convention that weighs all criteria alike. Criteria that do not apply are left out.

    Examples
    --------
    >>> scores = Scores(np.array([[0.7, 0.9]]), np.array([[[0.6, 0.9], [0.9, 0.8]]]))
    >>> score_table(scores)[["criterion", "value", "rank", "rank_low", "rank_high"]][:2].round(2)
       criterion  value  rank  rank_low  rank_high
    0  alignment    0.7   2.0      1.02       1.98
    1  alignment    0.9   1.0      1.02       1.98
    """
    signs = np.array(list(CRITERIA.values()))[: len(scores.value)]
    ranks = _ranks(scores.value, signs[:, None])
    drawn_ranks = _ranks(scores.drawn, signs[:, None, None])
    values = np.vstack([scores.value, _nanmean(ranks)])
    drawn = np.concatenate([scores.drawn, _nanmean(drawn_ranks)[None]])
    ranks = np.vstack([ranks, _ranks(-values[-1], 1)])
    drawn_ranks = np.concatenate([drawn_ranks, _ranks(-drawn[-1], 1)[None]])
    low, high = interval(drawn.swapaxes(0, 1))
    rank_low, rank_high = interval(drawn_ranks.swapaxes(0, 1))
    names = [*list(CRITERIA)[: len(signs)], "overall"]
    table = pd.DataFrame(
        {
            "measure": np.tile(SCORED[: values.shape[1]], len(names)),
            "criterion": np.repeat(names, values.shape[1]),
            "value": values.ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "rank": ranks.ravel(),
            "rank_low": rank_low.ravel(),
            "rank_high": rank_high.ravel(),
        }
    )
    return table.dropna(subset="value").reset_index(drop=True)


def needed_log_probs(measure: str) -> str:
    """Say how many log-probabilities a measure must be given for each question: its cost.

    The forward pass is the same for all. V is the size of the vocabulary, n the number of options.

    Examples
    --------
    >>> [needed_log_probs(name) for name in ("choice_entropy", "top_k_entropy_10", "total_entropy")]
    ['n', '10', 'V']
    """
    if measure in ("choice_entropy", "option_doubt"):
        return "n"
    if measure.startswith("top_k_entropy_"):
        return measure.rsplit("_", 1)[1]
    return "1" if measure == "top1_probability" else "V"


def response_card(
    model: str, people: pd.DataFrame, facts: pd.DataFrame, table: pd.DataFrame
) -> str:
    """Write a model's card as Markdown: how it answered, and how each measure did on it.

    Parameters
    ----------
    model : str
    people, facts : DataFrame
        As in `score_model`.
    table : DataFrame
        Of `score_table`.

    Returns
    -------
    str
        A title, a list of facts with 95 % intervals, and a table of measures by overall rank.
    """
    lines = [f"**{model}**", ""]
    for dataset, part in people.groupby("dataset"):
        row = answer_agreement(part).iloc[0]
        lines.append(
            f"- {dataset}: the answer most people gave in {row.agreement:.3f} "
            f"[{row.low:.3f}, {row.high:.3f}] of {row.questions} questions (guessing "
            f"{row.chance:.3f}); median option mass {part['option_mass'].median():.3f}"
        )
    for dataset, part in facts.groupby("dataset"):
        right, low, high = _accuracy(part)
        lines.append(
            f"- {dataset}: right in {right:.3f} [{low:.3f}, {high:.3f}] of {len(part)} questions; "
            f"median option mass {part['option_mass'].median():.3f}; mean choice entropy "
            f"{part['choice_entropy'].mean():.3f}"
        )
    wide = table.pivot(index="measure", columns="criterion", values="value")
    names = [name for name in [*CRITERIA, "overall"] if name in wide]
    lines += ["", "| measure | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for measure, row in wide.sort_values("overall").iterrows():
        cells = ["" if np.isnan(row[name]) else f"{row[name]:.3f}" for name in names]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _blank(replicates: int) -> tuple[np.ndarray, np.ndarray]:
    shape = len(CRITERIA), len(SCORED)
    return np.full(shape, np.nan), np.full((shape[0], replicates, shape[1]), np.nan)


def _values(frame: pd.DataFrame) -> np.ndarray:
    """Uncertainties of all scored measures, shape (measures, questions)."""
    told = frame.assign(option_doubt=1 - option_confidence(frame))
    return np.stack([uncertainty(told, measure) for measure in SCORED])


def _place(replicates: int, **found) -> Scores:
    """Put the found criteria, each a plain value and its replicates, in their places."""
    value, drawn = _blank(replicates)
    for name, (plain, resampled) in found.items():
        place = list(CRITERIA).index(name)
        value[place], drawn[place] = plain, resampled
    return Scores(value, drawn)


def _alignment(people: pd.DataFrame, replicates: int, seed: int) -> Scores:
    n = people["n_choices"].to_numpy()
    entropy = human_entropy(people["human_shares"]) / np.log(n)
    values = _values(people)
    weights = bootstrap_weights(len(n), replicates, seed)
    plain, drawn = (
        weighted_pearson(values, entropy, w, groups=n) for w in (np.ones((1, len(n))), weights)
    )
    return _place(replicates, alignment=(plain[0], drawn))


def _correctness(facts: pd.DataFrame, replicates: int, seed: int, coverage: float) -> Scores:
    check_answers(facts)
    values, correct = _values(facts), facts["correct"].to_numpy(dtype=float)
    weights = bootstrap_weights(len(correct), replicates, seed)
    plain = np.stack([selective_scores(x, correct, coverage=coverage) for x in values])
    drawn = np.stack([selective_scores(x, correct, weights, coverage) for x in values])
    errors = [_error(name, x, correct, weights) for name, x in zip(SCORED, values, strict=True)]
    error, resampled = zip(*errors, strict=True)
    return _place(
        replicates,
        auroc=(plain[:, 0], drawn[:, 0].T),
        selective_accuracy=(plain[:, 3], drawn[:, 3].T),
        ece=(np.array(error), np.stack(resampled, axis=1)),
    )


def _error(measure: str, values, correct, weights) -> tuple[float, np.ndarray]:
    """Calibration error of 1 - value, and replicates moved down by the bias of resampling."""
    if measure.startswith("top_p_size"):
        return np.nan, np.full(len(weights), np.nan)
    confidence = np.clip(1 - values, 0, 1)
    index = confidence_bins(confidence)
    error = calibration_error(confidence, correct, index)
    drawn = resampled_error(confidence, correct, index, weights)
    return error, np.maximum(drawn - (drawn.mean() - error), 0)


def _robustness(facts: pd.DataFrame, again: pd.DataFrame, replicates: int, seed: int) -> Scores:
    first = facts.set_index("question_id").loc[again["question_id"]].reset_index()
    one, other = _values(first), _values(again)
    weights = bootstrap_weights(len(again), replicates, seed)
    plain, drawn = (
        np.stack([weighted_spearman(*pair, w) for pair in zip(one, other, strict=True)], axis=1)
        for w in (np.ones((1, len(again))), weights)
    )
    return _place(replicates, robustness=(plain[0], drawn))


def _accuracy(facts: pd.DataFrame) -> tuple[float, float, float]:
    right = int(facts["correct"].sum())
    return right / len(facts), *proportion_confint(right, len(facts), method="wilson")


def _ranks(values: np.ndarray, sign) -> np.ndarray:
    """Ranks along the last axis, 1 for the largest signed value, NaN where there is none."""
    return rankdata(-sign * values, axis=-1, nan_policy="omit")


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
