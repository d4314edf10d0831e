"""The simulated population's answers to moral dilemmas: a logistic utility with nine weights.

The weights are ours; they are solved so that the population's average marginal component effects
are those of the people of the Moral Machine. The scenarios are those of `uqlib.questions.moral`.
"""

import numpy as np
import pandas as pd
from scipy.special import expit

from uqlib.questions.moral import ATTRIBUTES, CHARACTERS, moral_scenarios, saving_differences
from uqlib.questions.schema import check_questions

HUMAN_EFFECTS = {
    "intervention": 0.061,
    "relation": 0.097,
    "law": 0.353,
    "gender": 0.119,
    "fitness": 0.160,
    "status": 0.345,
    "age": 0.497,
    "number": 0.506,
    "species": 0.585,
}
"""Awad et al. (2018), Figure 2a, in the direction in which each is positive; for *number* the
effect pooled over all differences, computed from the published effects by country."""

WEIGHTS = {
    "intervention": 0.159,
    "relation": 0.26,
    "law": 0.93,
    "gender": 0.25,
    "fitness": 0.542,
    "status": 1.069,
    "age": 1.784,
    "number": 0.76,
    "species": 1.331,
}
"""Weights of the utility, in logits. Of `solve_weights`."""

_FEMALE = ["woman", "pregnant woman", "elderly woman", "girl", "large woman"]
_FEMALE += ["female executive", "female athlete", "female doctor"]
_MALE = ["man", "elderly man", "boy", "large man", "male executive", "male athlete", "male doctor"]
_HIGH = ["pregnant woman", "male executive", "female executive", "male doctor", "female doctor"]
_TRAITS = {
    "species": ([name for name in CHARACTERS if name not in ("dog", "cat")], ["dog", "cat"]),
    "status": (_HIGH, ["homeless person", "criminal"]),
    "gender": (_FEMALE, _MALE),
    "age": (["baby", "boy", "girl"], ["elderly man", "elderly woman"]),
    "fitness": (["male athlete", "female athlete"], ["large man", "large woman"]),
}


def dilemma_features(conjoint: pd.DataFrame) -> pd.DataFrame:
    """Compute what speaks for sparing each group: nine features, one row a group.

    Parameters
    ----------
    conjoint : DataFrame
        As from `uqlib.questions.moral.moral_scenarios`.

    Returns
    -------
    DataFrame
        Columns of `HUMAN_EFFECTS`. Five traits are means over the group's characters, each +.5
        (human, higher status, female, young, fit), -.5 (the opposite) or 0; `number` is the size
        of the group; `law` +.5 on green and -.5 on red; `intervention` 1 if the group dies only by
        swerving; `relation` 1 on the street.

    Examples
    --------
    >>> _, conjoint = moral_scenarios(1, seed=3, dimensions=["fitness"])
    >>> dilemma_features(conjoint)[["fitness", "number", "relation"]]
       fitness  number  relation
    0      0.0       2         0
    1      0.5       2         1
    """
    scores = pd.DataFrame(0.0, index=CHARACTERS, columns=list(_TRAITS))
    for trait, (plus, minus) in _TRAITS.items():
        scores.loc[plus, trait], scores.loc[minus, trait] = 0.5, -0.5
    members = conjoint["characters"].reset_index(drop=True).explode()
    features = scores.loc[members].set_index(members.index).groupby(level=0).mean()
    signal = conjoint["crossing_signal"].to_numpy()
    features["number"] = conjoint["n_characters"].to_numpy()
    features["law"] = 0.5 * (signal == 1) - 0.5 * (signal == 2)
    features["intervention"] = conjoint["intervention"].to_numpy()
    features["relation"] = 1 - conjoint["barrier"].to_numpy()
    return features[list(HUMAN_EFFECTS)].set_axis(conjoint.index)


def share_saved(conjoint: pd.DataFrame, weights: dict[str, float] = WEIGHTS) -> np.ndarray:
    """Return the share of the population that saves each group.

    Parameters
    ----------
    conjoint : DataFrame
        As from `uqlib.questions.moral.moral_scenarios`: the two groups of a scenario together.
    weights : dict of float
        One weight for each key of `HUMAN_EFFECTS`, in logits.

    Returns
    -------
    ndarray, shape (n_rows,)
        The logistic function of the difference in utility, in (0, 1); 1 together in each scenario.

    Examples
    --------
    >>> _, conjoint = moral_scenarios(1, seed=3, dimensions=["age"])
    >>> float(share_saved(conjoint).sum())
    1.0
    """
    return _share_saved(dilemma_features(conjoint), weights)


def dilemma_shares(conjoint: pd.DataFrame) -> list[np.ndarray]:
    """Return the population's answers to each scenario: the shares that choose Case 1 and Case 2.

    In the case that is chosen, the group that it names dies.

    Examples
    --------
    >>> _, conjoint = moral_scenarios(1, seed=3, dimensions=["age"])
    >>> chosen, = dilemma_shares(conjoint)
    >>> bool(chosen[0] == share_saved(conjoint)[1])
    True
    """
    return list(share_saved(conjoint).reshape(-1, 2)[:, ::-1])


def moral_questions(
    n: int, seed: int = 0, design: str = "counterbalanced"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put dilemmas to the simulated population.

    Parameters
    ----------
    n, seed, design
        Of `uqlib.questions.moral.moral_scenarios`.

    Returns
    -------
    questions, conjoint : DataFrame
        As there, dataset ``world_moral``, with the population's shares.

    Examples
    --------
    >>> questions, _ = moral_questions(1)
    >>> len(questions), float(questions.human_shares[0].sum())
    (36, 1.0)
    """
    questions, conjoint = moral_scenarios(n, seed=seed, design=design)
    shares = dilemma_shares(conjoint)
    table = questions.assign(dataset="world_moral", human_shares=shares, source="simulated")
    return check_questions(table), conjoint


def solve_weights(n: int = 8000, seed: int = 0, rounds: int = 60) -> dict[str, float]:
    """Find the weights under which the population's effects are `HUMAN_EFFECTS`.

    Parameters
    ----------
    n : int
        Scenarios a dimension, each told in its four counterbalanced ways.
    seed : int
    rounds : int
        Steps of a fixed-point iteration.

    Returns
    -------
    dict of float
        In logits.
    """
    _, conjoint = moral_scenarios(n, seed, design="counterbalanced", dimensions=ATTRIBUTES)
    features, target = dilemma_features(conjoint), pd.Series(HUMAN_EFFECTS)
    weights = 4 * target
    for _ in range(rounds):
        effects = saving_differences(conjoint, _share_saved(features, weights))
        weights += 3 * (target - effects[target.index])
    return weights.round(3).to_dict()


def _share_saved(features: pd.DataFrame, weights) -> np.ndarray:
    pairs = (features @ pd.Series(weights)).to_numpy().reshape(-1, 2)
    return expit(pairs - pairs[:, ::-1]).ravel()
