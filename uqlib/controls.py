"""Simulated responders: answers without a network, whose every property is known.

A statistic that a responder without content passes measures something else than content.
"""

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax

from uqlib.measures import choice_entropy, vocabulary_measures
from uqlib.questions.moral import EFFECTS
from uqlib.responses import check_responses
from uqlib.shapes import with_tail

FLOOR = 1e-4
LETTERS = 26
CHUNK = 256


def uniform(questions: pd.DataFrame, seed: int = 0) -> list[np.ndarray]:
    """Give every option of a question the same probability.

    Examples
    --------
    >>> uniform(pd.DataFrame({"choices": [["tea", "coffee"]]}))
    [array([0.5, 0.5])]
    """
    return [np.full(len(choices), 1 / len(choices)) for choices in questions["choices"]]


def blind(questions: pd.DataFrame, seed: int = 0, sd: float = 1.0) -> list[np.ndarray]:
    """Spread over the options at random: blind to content, aware of how many options there are.

    Parameters
    ----------
    questions : DataFrame
    seed : int
    sd : float
        Standard deviation of the options' independent normal logits.
    """
    rng = np.random.default_rng(seed)
    return [softmax(rng.normal(0, sd, len(choices))) for choices in questions["choices"]]


def blind_to_count(questions: pd.DataFrame, seed: int = 0, sd: float = 1.0) -> list[np.ndarray]:
    """Spread over 26 letters at random, whatever the options: blind to content and to their number.

    The probabilities of the letters a question does not use are missing from the sum.

    Parameters
    ----------
    questions : DataFrame
    seed : int
    sd : float
        Standard deviation of the letters' independent normal logits.
    """
    rng = np.random.default_rng(seed)
    return [softmax(rng.normal(0, sd, LETTERS))[: len(c)] for c in questions["choices"]]


def always_first(questions: pd.DataFrame, seed: int = 0) -> list[np.ndarray]:
    """Put all probability, up to `FLOOR` for each other option, on the first option."""
    return [_one_hot(0, len(choices)) for choices in questions["choices"]]


def in_order(questions: pd.DataFrame, seed: int = 0) -> list[np.ndarray]:
    """Like each option half as much as the one before it, whatever they say.

    Examples
    --------
    >>> in_order(pd.DataFrame({"choices": [["tea", "coffee", "milk"]]}))[0].round(3)
    array([0.571, 0.286, 0.143])
    """
    weights = [0.5 ** np.arange(len(choices)) for choices in questions["choices"]]
    return [w / w.sum() for w in weights]


def oracle(questions: pd.DataFrame, seed: int = 0, temperature: float = 1.0) -> list[np.ndarray]:
    """Answer with the truth: the human shares, or the right answer where there are none.

    Parameters
    ----------
    questions : DataFrame
    seed : int
        Draws nothing.
    temperature : float
        The truth's logarithms are divided by it: below 1 overconfident, above 1 hesitant.

    Raises
    ------
    ValueError
        If a question has neither shares nor an answer; the message names it.

    Examples
    --------
    >>> table = pd.DataFrame({"question_id": ["q"], "choices": [["tea", "coffee"]],
    ...     "human_shares": [[0.8, 0.2]], "answer": [None]})
    >>> oracle(table, temperature=0.5)[0].round(3)
    array([0.941, 0.059])
    """
    return [softmax(logits / temperature) for logits in _truth(questions)]


def noisy(questions: pd.DataFrame, seed: int = 0, sd: float = 1.0) -> list[np.ndarray]:
    """Answer with the truth and independent normal noise of deviation `sd` on every logit."""
    rng = np.random.default_rng(seed)
    return [softmax(logits + rng.normal(0, sd, len(logits))) for logits in _truth(questions)]


def position_biased(questions: pd.DataFrame, seed: int = 0, rate: float = 0.4) -> list[np.ndarray]:
    """Answer the last option with probability `rate`, and else with the truth."""
    return [
        rate * _one_hot(len(logits) - 1, len(logits)) + (1 - rate) * softmax(logits)
        for logits in _truth(questions)
    ]


def label_biased(questions: pd.DataFrame, seed: int = 0, sd: float = 1.0) -> list[np.ndarray]:
    """Answer with the truth and a liking for some letters, the same in every question."""
    liking = np.random.default_rng(seed).normal(0, sd, LETTERS)
    return [softmax(logits + liking[: len(logits)]) for logits in _truth(questions)]


def knows_its_errors(
    questions: pd.DataFrame, seed: int = 0, accuracy: float = 0.6
) -> list[np.ndarray]:
    """Be sure and right, or unsure and wrong: uncertainty tells the two apart without fail.

    The wrong answers exchange their right letters among themselves, so that every letter is given
    exactly as often as it is right, both when sure and when unsure.

    Parameters
    ----------
    questions : DataFrame
        With answers, and the same number of options throughout.
    seed : int
    accuracy : float
        Probability of being right.

    Raises
    ------
    ValueError
        If the questions differ in their number of options, or one letter is right in more than
        half of the questions answered wrongly.
    """
    counts = questions["choices"].map(len).to_numpy()
    if len(set(counts)) > 1:
        raise ValueError(
            f"questions have {counts.min()} to {counts.max()} options; one number only"
        )
    rng = np.random.default_rng(seed)
    answer = questions["answer"].to_numpy(dtype=int)
    sure = rng.random(len(answer)) < accuracy
    wrong = np.flatnonzero(~sure)
    wrong = wrong[np.argsort(answer[wrong], kind="stable")]
    commonest = np.bincount(answer[wrong], minlength=1).max()
    if 2 * commonest > len(wrong):
        raise ValueError(f"one letter is right in {commonest} of {len(wrong)} wrong answers")
    given = answer.copy()
    given[wrong] = np.roll(answer[wrong], commonest)
    return [_leaning(*row, rng) for row in zip(given, counts, sure, strict=True)]


def biased_when_unsure(
    questions: pd.DataFrame, seed: int = 0, rate: float = 0.5
) -> list[np.ndarray]:
    """Guess, sure of any option or unsure and for the first: uncertainty says nothing of errors.

    Parameters
    ----------
    questions : DataFrame
    seed : int
    rate : float
        Probability of being unsure.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for choices in questions["choices"]:
        sure = rng.random() >= rate
        position = rng.integers(len(choices)) if sure else 0
        rows.append(_leaning(position, len(choices), sure, rng))
    return rows


def habitual(
    questions: pd.DataFrame, seed: int = 0, sd: float = 1.0, step: float = 0.5
) -> list[np.ndarray]:
    """Spread over the options at random, with a liking for the first: blind to content.

    Parameters
    ----------
    questions : DataFrame
    seed : int
    sd : float
        Standard deviation of the options' independent normal logits.
    step : float
        By how much their mean falls from each option to the next.
    """
    rng = np.random.default_rng(seed)
    lengths = [len(choices) for choices in questions["choices"]]
    return [softmax(rng.normal(0, sd, n) - step * np.arange(n)) for n in lengths]


def any_person(questions: pd.DataFrame, seed: int = 0, spread: float = 0.3) -> list[np.ndarray]:
    """Answer as a person drawn at random, exactly as unsure as people are divided, but for noise.

    The shares of people, in which the most popular option and the one drawn change places. Given
    the shares, whether the answer agrees with most people has nothing to do with how certain it is.

    Parameters
    ----------
    questions : DataFrame
        With human shares.
    seed : int
    spread : float
        Standard deviation of the logarithm of a temperature drawn for each question.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for shares in questions["human_shares"]:
        shares = np.asarray(shares, dtype=float)
        drawn, top = rng.choice(len(shares), p=shares / shares.sum()), shares.argmax()
        logits = np.log(np.maximum(shares, FLOOR)) / np.exp(spread * rng.normal())
        logits[[drawn, top]] = logits[[top, drawn]]
        rows.append(softmax(logits))
    return rows


def knows_when_it_agrees(
    questions: pd.DataFrame, seed: int = 0, rate: float = 0.5
) -> list[np.ndarray]:
    """Give the most popular answer and be sure, or guess and be unsure, however divided people are.

    Parameters
    ----------
    questions : DataFrame
        With human shares.
    seed : int
    rate : float
        Probability of being unsure.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for shares in questions["human_shares"]:
        n, sure = len(shares), rng.random() >= rate
        position = int(np.argmax(shares)) if sure else rng.integers(n)
        rows.append(_leaning(position, n, sure, rng))
    return rows


def content_free(
    questions: pd.DataFrame, seed: int = 0, bias: float = 3.0, sd: float = 1.0
) -> list[np.ndarray]:
    """Answer questions of two options by position and noise alone.

    Parameters
    ----------
    questions : DataFrame
        Of two options each.
    seed : int
        Equal seeds draw the same noise, whatever its size.
    bias : float
        Mean log-odds of the second option.
    sd : float
        Standard deviation of the normal noise on them.

    Examples
    --------
    >>> content_free(pd.DataFrame({"choices": [["Case 1", "Case 2"]]}), bias=0, sd=0)
    [array([0.5, 0.5])]
    """
    logits = bias + sd * np.random.default_rng(seed).normal(size=len(questions))
    second = expit(logits)
    return list(np.stack([1 - second, second], axis=1))


def preferring(conjoint: pd.DataFrame, effects: pd.Series) -> pd.Series:
    """Answer dilemmas by known preferences: the probability that Case 1 is chosen.

    The probability of saving a group is one half, plus half of each effect that speaks for it, less
    half of each that speaks against it, kept within [0, 1]. While nothing is cut off and dimensions
    are independent, the average marginal component effects are those given.

    Parameters
    ----------
    conjoint : DataFrame
        As from `uqlib.questions.moral.moral_scenarios`.
    effects : Series
        By dimension.

    Returns
    -------
    Series
        Indexed by question id.

    Examples
    --------
    >>> from uqlib.questions.moral import moral_scenarios
    >>> _, conjoint = moral_scenarios(1, design="counterbalanced", dimensions=["age"])
    >>> sorted(preferring(conjoint, pd.Series({"age": 0.4})).round(2))
    [0.3, 0.3, 0.7, 0.7]
    """
    gain = np.zeros(len(conjoint))
    for dimension, effect in effects.items():
        query, column, plus, minus = EFFECTS[dimension]
        if dimension == "relation":
            query = "ped_ped == 0"
        concerned = conjoint.eval(query).to_numpy()
        level = conjoint[column].to_numpy()
        gain += effect / 2 * concerned * ((level == plus).astype(float) - (level == minus))
    by_case = conjoint.assign(gain=gain).pivot(index="question_id", columns="case", values="gain")
    return (0.5 + (by_case[2] - by_case[1]) / 2).clip(0, 1).rename("case_1")


def response_table(
    questions: pd.DataFrame,
    probabilities: list[np.ndarray],
    name: str,
    option_mass: float = 0.99,
    tail: float = 1.5,
    vocabulary_size: int = 4096,
) -> pd.DataFrame:
    """Make the response table of a responder, with all measures.

    The options hold `option_mass` of the probability, in the proportions given; the rest of the
    vocabulary shares what is left by a power law of its rank.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.
    probabilities : list of ndarray
        For each question, one probability an option; they may sum to less than 1.
    name : str
        Stands in the column `model`.
    option_mass : float
        In (0, 1).
    tail : float
        Exponent of the power law; 0 is flat.
    vocabulary_size : int
        Tokens in all.

    Returns
    -------
    DataFrame
        A checked response table.

    Raises
    ------
    ValueError
        If `option_mass` is not in (0, 1).
    """
    if not 0 < option_mass < 1:
        raise ValueError(f"option_mass must lie in (0, 1), not {option_mass}")
    logs = [np.log(np.maximum(p, FLOOR**2) * option_mass).astype(np.float32) for p in probabilities]
    frames = []
    for start in range(0, len(logs), CHUNK):
        chosen = [np.exp(row) for row in logs[start : start + CHUNK]]
        full = [with_tail(p, 1 - p.sum(), vocabulary_size, tail) for p in chosen]
        values = vocabulary_measures(torch.from_numpy(np.log(np.stack(full))))
        frames.append(pd.DataFrame({key: value.numpy() for key, value in values.items()}))
    return check_responses(
        pd.concat(frames, ignore_index=True).assign(
            model=name,
            dataset=questions["dataset"].to_numpy(),
            question_id=questions["question_id"].to_numpy(),
            n_choices=[len(row) for row in logs],
            choice_log_probs=logs,
            option_mass=[np.exp(row).sum() for row in logs],
            predicted=[row.argmax() for row in logs],
            condition="plain",
            dropout_rate=0.0,
            pass_index=0,
            prompt_style="simulated",
            label_style="simulated",
            shots=0,
            choice_entropy=[choice_entropy(row).item() for row in logs],
        )
    )


def _truth(questions: pd.DataFrame) -> list[np.ndarray]:
    logits = []
    for row in questions.itertuples():
        if row.human_shares is not None:
            truth = np.asarray(row.human_shares, dtype=float)
        elif not pd.isna(row.answer):
            truth = _one_hot(row.answer, len(row.choices))
        else:
            raise ValueError(f"question {row.question_id} has neither human shares nor an answer")
        logits.append(np.log(np.maximum(truth, FLOOR)))
    return logits


def _leaning(position: int, n: int, sure: bool, rng: np.random.Generator) -> np.ndarray:
    """Probabilities that are nearly even, or nearly all on one position."""
    lean = rng.uniform(0.7, 0.95) if sure else rng.uniform(0.05, 0.3)
    return np.full(n, (1 - lean) / n) + lean * np.eye(n)[position]


def _one_hot(position: int, n: int) -> np.ndarray:
    values = np.full(n, FLOOR)
    values[position] = 1 - (n - 1) * FLOOR
    return values
