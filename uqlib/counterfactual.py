"""Counterfactual prompting: preference read from one question about each option.

The letters of a survey prompt compete in one distribution. Asked about one proposed answer at a
time, a model says Yes or No, and the probability of that one token is compared over the options.
"""

import numpy as np
import pandas as pd

from uqlib.alignment import kendall_distance
from uqlib.prompts import COUNTERFACTUAL
from uqlib.resampling import bootstrap_weights, interval

YES = COUNTERFACTUAL["choices"].index("yes")
SCORES = ("agrees", "distance", "total_variation")


def read_proposals(responses: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Put the answers about the options of each question together, to one row a question.

    Parameters
    ----------
    responses : DataFrame
        Response table collected with the prompt style `counterfactual`: one row a model and option,
        whose id is that of the question with ``#0``, ``#1``, ... (`uqlib.prompts.propose`).
    questions : DataFrame
        The question table they come from.

    Returns
    -------
    DataFrame
        One row a model and question, in the order of the questions: `model`, `dataset`,
        `question_id`, `n_choices`; `yes`, the list of P(Yes), each in [0, 1]; `yes_total`, their
        sum; `choice_log_probs`, their logarithms after division by that sum; `predicted`, the first
        of the largest; `option_mass`, the smallest P(Yes) + P(No) of the question. What
        `uqlib.responses.join_questions` and `uqlib.alignment` need.

    Raises
    ------
    ValueError
        If a question of a model lacks an option, or has one twice; the message names both.

    Notes
    -----
    Roberts, Moore and Fisher (2024) as Moore et al. (2025), section 4.3, describe it: one token,
    the same in every prompt, whose probability is looked up once for each option.

    Examples
    --------
    >>> questions = pd.DataFrame({"question_id": ["q"], "choices": [["tea", "coffee"]]})
    >>> responses = pd.DataFrame({"model": "m", "dataset": "d", "question_id": ["q#0", "q#1"],
    ...     "choice_log_probs": [np.log([0.3, 0.7]), np.log([0.9, 0.1])], "option_mass": 1.0})
    >>> table = read_proposals(responses, questions)
    >>> float(table.yes_total[0]), np.exp(table.choice_log_probs[0]), int(table.predicted[0])
    (1.2, array([0.25, 0.75]), 1)
    """
    parts = responses["question_id"].str.rsplit("#", n=1)
    frame = pd.DataFrame(
        {
            "model": responses["model"],
            "dataset": responses["dataset"],
            "question_id": parts.str[0],
            "option": parts.str[1].astype(int),
            "yes": [float(np.exp(row[YES])) for row in responses["choice_log_probs"]],
            "option_mass": responses["option_mass"],
        }
    )
    wanted = questions.set_index("question_id")["choices"].map(len)
    rows = []
    for model, part in frame.groupby("model", sort=False):
        answers = dict(iter(part.groupby("question_id", sort=False)))
        for question_id, n in wanted.items():
            found = answers.get(question_id, part[:0]).sort_values("option")
            if list(found["option"]) != list(range(n)):
                raise ValueError(
                    f"{model}: question {question_id} has {n} options, "
                    f"and answers about {list(found['option'])}"
                )
            rows.append(_reading(model, question_id, found))
    return pd.DataFrame(rows)


def reading_scores(joined: pd.DataFrame) -> pd.DataFrame:
    """Compare every answer with the shares of people, whichever way it was asked for.

    Parameters
    ----------
    joined : DataFrame
        Responses joined to their questions (`uqlib.responses.join_questions`), or `read_proposals`
        joined likewise, all with human shares.

    Returns
    -------
    DataFrame
        `model`, `question_id`, `n_choices`; `agrees`, 1 if no option was more popular than the one
        predicted, else 0; `distance`, the normalised Kendall distance of the orders; and
        `total_variation`, half the summed absolute difference between the human shares and the
        probabilities renormalised over the options, in [0, 1].

    Examples
    --------
    >>> joined = pd.DataFrame({"model": "m", "question_id": ["q"], "n_choices": 2,
    ...     "human_shares": [[0.8, 0.2]], "choice_log_probs": [np.log([0.5, 0.4])],
    ...     "predicted": 0})
    >>> reading_scores(joined)[["agrees", "distance", "total_variation"]].round(3).values.tolist()
    [[1.0, 0.0, 0.244]]
    """
    rows = []
    for row in joined.itertuples():
        people, log_probs = np.asarray(row.human_shares), np.asarray(row.choice_log_probs)
        shares = np.exp(log_probs - log_probs.max())
        rows.append(
            {
                "model": row.model,
                "question_id": row.question_id,
                "n_choices": row.n_choices,
                "agrees": float(people[row.predicted] == people.max()),
                "distance": float(kendall_distance(people, log_probs)),
                "total_variation": np.abs(shares / shares.sum() - people).sum() / 2,
            }
        )
    return pd.DataFrame(rows)


def paired_differences(
    first: pd.DataFrame, second: pd.DataFrame, replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare two readings of the same models on the same questions.

    Parameters
    ----------
    first, second : DataFrame
        From `reading_scores`.
    replicates, seed : int
        Bootstrap over questions; both readings of a question are drawn together.

    Returns
    -------
    DataFrame
        One row a `model` and `score` (`SCORES`): the means `first` and `second`, each with its 95 %
        percentile interval (`first_low`, `first_high`, ...), and `difference`, second minus first,
        with `low` and `high`.

    Raises
    ------
    ValueError
        If the two do not hold the same models and questions.

    Examples
    --------
    >>> first = pd.DataFrame({"model": "m", "question_id": ["a", "b"], "agrees": [0.0, 1.0],
    ...     "distance": [0.5, 0.0], "total_variation": [0.2, 0.1]})
    >>> paired_differences(first, first.assign(agrees=1.0)).difference.tolist()
    [0.5, 0.0, 0.0]
    """
    keys = ["model", "question_id"]
    a, b = (table.set_index(keys) for table in (first, second))
    if len(a) != len(b) or not a.index.isin(b.index).all():
        raise ValueError("the two readings are not of the same models and questions")
    rows = []
    for model, part in a.groupby("model", sort=False):
        values = [part, b.loc[part.index]]
        weights = bootstrap_weights(len(part), replicates, seed) / len(part)
        for score in SCORES:
            x, y = (table[score].to_numpy() for table in values)
            row = {"model": model, "score": score}
            for name, series in (("first", x), ("second", y), ("difference", y - x)):
                prefix = "" if name == "difference" else f"{name}_"
                low, high = interval(weights @ series)
                row |= {name: series.mean(), f"{prefix}low": low, f"{prefix}high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def _reading(model: str, question_id: str, found: pd.DataFrame) -> dict:
    yes = found["yes"].to_numpy()
    with np.errstate(divide="ignore"):
        log_probs = np.log(yes / yes.sum())
    return {
        "model": model,
        "dataset": found["dataset"].iloc[0],
        "question_id": question_id,
        "n_choices": len(yes),
        "yes": yes,
        "yes_total": yes.sum(),
        "choice_log_probs": log_probs,
        "predicted": int(yes.argmax()),
        "option_mass": found["option_mass"].min(),
    }
