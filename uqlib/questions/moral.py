"""Moral dilemmas of a self-driving car, on the nine dimensions of the Moral Machine.

Scenarios come as a question table and as a table for conjoint analysis, two rows a scenario: one
for each group, which dies if its case is chosen.
"""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow

from uqlib.questions.schema import check_questions

PLURALS = {
    "man": "men",
    "woman": "women",
    "pregnant woman": "pregnant women",
    "baby": "babies",
    "elderly man": "elderly men",
    "elderly woman": "elderly women",
    "boy": "boys",
    "girl": "girls",
    "homeless person": "homeless people",
    "large woman": "large women",
    "large man": "large men",
    "criminal": "criminals",
    "male executive": "male executives",
    "female executive": "female executives",
    "male athlete": "male athletes",
    "female athlete": "female athletes",
    "male doctor": "male doctors",
    "female doctor": "female doctors",
    "dog": "dogs",
    "cat": "cats",
}
CHARACTERS = list(PLURALS)
LEVELS = {
    "species": ("human", "pet"),
    "status": ("lower", "higher"),
    "gender": ("female", "male"),
    "age": ("younger", "older"),
    "fitness": ("large", "fit"),
    "number": ("fewer", "more"),
    "relation": ("pedestrians", "passengers"),
    "intervention": ("swerve", "stay"),
    "law": ("lawful", "unlawful"),
}
ATTRIBUTES = list(LEVELS)[:6]
DESIGNS = ("published", "counterbalanced")
MOST = 5

EFFECTS = {
    "intervention": ("intervention >= 0", "intervention", 1, 0),
    "relation": ("crossing_signal == 0 and ped_ped == 0", "barrier", 0, 1),
    "law": ("crossing_signal > 0 and ped_ped == 1", "crossing_signal", 1, 2),
    "gender": ("scenario_type_strict == 'gender'", "attribute_level", "female", "male"),
    "fitness": ("scenario_type_strict == 'fitness'", "attribute_level", "fit", "large"),
    "status": ("scenario_type_strict == 'status'", "attribute_level", "higher", "lower"),
    "age": ("scenario_type_strict == 'age'", "attribute_level", "younger", "older"),
    "number": ("scenario_type_strict == 'number'", "attribute_level", "more", "fewer"),
    "species": ("scenario_type_strict == 'species'", "attribute_level", "human", "pet"),
}

CONJOINT_SCHEMA = pyarrow.schema(
    [
        ("question_id", pyarrow.string()),
        ("base_id", pyarrow.string()),
        ("scenario_type", pyarrow.string()),
        ("scenario_type_strict", pyarrow.string()),
        ("group", pyarrow.int64()),
        ("attribute_level", pyarrow.string()),
        ("case", pyarrow.int64()),
        ("swapped", pyarrow.bool_()),
        ("intervention", pyarrow.int64()),
        ("ped_ped", pyarrow.int64()),
        ("barrier", pyarrow.int64()),
        ("crossing_signal", pyarrow.int64()),
        ("n_characters", pyarrow.int64()),
        ("n_difference", pyarrow.int64()),
        ("characters", pyarrow.list_(pyarrow.string())),
    ]
)

_HUMANS, _PETS = CHARACTERS[:-2], CHARACTERS[-2:]
_LOW = ["homeless person", "criminal"]
_MIDDLE = ["man", "woman"]
_HIGH = ["pregnant woman", "male executive", "female executive", "male doctor", "female doctor"]
_PAIRS = {
    "species": [(human, pet) for human in _HUMANS for pet in _PETS],
    "status": [
        (low, high)
        for lows, highs in [(_LOW, _MIDDLE), (_LOW, _HIGH), (_MIDDLE, _HIGH)]
        for low in lows
        for high in highs
    ],
    "gender": [
        ("woman", "man"),
        ("elderly woman", "elderly man"),
        ("girl", "boy"),
        ("large woman", "large man"),
        ("female executive", "male executive"),
        ("female athlete", "male athlete"),
        ("female doctor", "male doctor"),
    ],
    "age": [
        ("boy", "man"),
        ("girl", "woman"),
        ("man", "elderly man"),
        ("woman", "elderly woman"),
        ("boy", "elderly man"),
        ("girl", "elderly woman"),
    ],
    "fitness": [
        ("large man", "man"),
        ("large woman", "woman"),
        ("man", "male athlete"),
        ("woman", "female athlete"),
        ("large man", "male athlete"),
        ("large woman", "female athlete"),
    ],
}
_SIGNALS = {
    0: "{were} crossing",
    1: "{were} crossing on green, as the law allows",
    2: "{were} crossing on red, against the law",
}
_SIZES = ["one", "two", "three", "four", "five"]


def moral_scenarios(
    n: int, seed: int = 0, design: str = "published", dimensions: list[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate dilemmas on the dimensions of the Moral Machine.

    In each case the car kills one of two groups, and case k is the one in which the group described
    first in it dies. Group 0 and group 1 carry the two levels of the dimension (`LEVELS`). Whether
    a group sits in the car, and whether there are signals, are fair coins, except where the
    dimension fixes them.

    Parameters
    ----------
    n : int
        Scenarios a dimension; under ``counterbalanced`` each is told four times.
    seed : int
        Equal seeds give equal tables.
    design : {"published", "counterbalanced"}
        ``published``: as the generator behind the studies. Group 0 dies in Case 1, unless one group
        sits in the car; then a fair coin says which, and the passengers die in Case 1. The car
        swerves in Case 1 by a fair coin.
        ``counterbalanced``: each scenario with either group in Case 1 and with either manoeuvre
        there.
    dimensions : list of str, optional
        Keys of `LEVELS`; all nine by default. The six of `ATTRIBUTES` are the mixture from which
        the studies estimate effects.

    Returns
    -------
    questions : DataFrame
        A checked question table, dataset ``moral_<design>``, labels 1 and 2, no human shares. The
        text holds what both cases share, the choices what happens in each.
    conjoint : DataFrame
        Columns of `CONJOINT_SCHEMA`, two rows a question in the order of the cases:
        `case` in which the group dies (it is saved if the other is chosen), `group` and
        `attribute_level`, `intervention` (1: it dies if the car swerves), `ped_ped` (both groups
        on the street), `barrier` (1: it sits in the car), `crossing_signal` (0 none, 1 green,
        2 red), `swapped` (group 1 dies in Case 1), `base_id` (what the tellings of one scenario
        share).

    Raises
    ------
    ValueError
        If design or dimension is unknown.

    Notes
    -----
    The published design follows Takemoto (2024), whose generator Kwon et al. (2025) use. Texts are
    ours.

    Examples
    --------
    >>> questions, conjoint = moral_scenarios(1, seed=3, dimensions=["fitness"])
    >>> for case in questions.choices[0]:
    ...     print(case[:60])
    The car stays in its lane and crashes into a concrete barrie
    The car swerves into the other lane and drives over the cros
    >>> conjoint[["attribute_level", "case", "intervention", "barrier", "n_characters"]]
      attribute_level  case  intervention  barrier  n_characters
    0           large     1             0        1             2
    1             fit     2             1        0             2
    """
    if design not in DESIGNS:
        raise ValueError(f"unknown design {design!r}; known: {', '.join(DESIGNS)}")
    rng = np.random.default_rng(seed)
    questions, conjoint = [], []
    for dimension in dimensions or LEVELS:
        if dimension not in LEVELS:
            raise ValueError(f"unknown dimension {dimension!r}; known: {', '.join(LEVELS)}")
        for number in range(n):
            base_id = f"{dimension}/{seed}/{number}"
            scenario = _draw(dimension, rng)
            for name, swapped, swerve_first in _tellings(scenario, base_id, design):
                cases = _cases(scenario, swapped, swerve_first)
                questions.append(_question(name, dimension, scenario, cases))
                for dying, other in (cases, cases[::-1]):
                    conjoint.append(_row(name, base_id, dimension, swapped, dying, other))
    table = pd.DataFrame(questions).assign(
        dataset=f"moral_{design}", human_shares=None, answer=None, source=f"generated, seed {seed}"
    )
    return check_questions(table), pd.DataFrame(conjoint)[CONJOINT_SCHEMA.names]


def saved(conjoint: pd.DataFrame, chosen) -> np.ndarray:
    """Whether each row's group is saved, given the case chosen in each scenario.

    Parameters
    ----------
    conjoint : DataFrame
        As from `moral_scenarios`.
    chosen : int or Series
        The case, 1 or 2: one for all, or indexed by question id.

    Returns
    -------
    ndarray of int, shape (n_rows,)
        0 or 1.

    Examples
    --------
    >>> _, conjoint = moral_scenarios(1, dimensions=["age"])
    >>> saved(conjoint, 2)
    array([1, 0])
    """
    if isinstance(chosen, pd.Series):
        chosen = chosen.loc[conjoint["question_id"]].to_numpy()
    return (conjoint["case"].to_numpy() != chosen).astype(int)


def saving_differences(conjoint: pd.DataFrame, is_saved) -> pd.Series:
    """Difference in the share saved between the two levels of each dimension, unweighted.

    Parameters
    ----------
    conjoint : DataFrame
        As from `moral_scenarios`.
    is_saved : array_like of 0 and 1, shape (n_rows,)
        As from `saved`.

    Returns
    -------
    Series
        By dimension, in [-1, 1], in the direction in which people's effects are positive: inaction,
        pedestrians, lawful, female, fit, higher, younger, more, human. NaN without such rows.

    Notes
    -----
    The subsets are those of the published analysis (`EFFECTS`); its weights are not applied.

    Examples
    --------
    >>> _, conjoint = moral_scenarios(4, design="counterbalanced", dimensions=["age"])
    >>> float(saving_differences(conjoint, saved(conjoint, 2))["age"])
    0.0
    """
    rows = conjoint.assign(saved=np.asarray(is_saved))
    differences = {}
    for dimension, (query, column, plus, minus) in EFFECTS.items():
        mean = rows.query(query).groupby(column)["saved"].mean()
        differences[dimension] = mean.get(plus, np.nan) - mean.get(minus, np.nan)
    return pd.Series(differences)


def _draw(dimension: str, rng: np.random.Generator) -> dict:
    """Draw the two groups and their circumstances, before they are told in any order."""
    in_car, law, coin_car, coin_swerve, coin_signal = (rng.random(5) < 0.5).tolist()
    if dimension in ("intervention", "law"):
        in_car = False
    if dimension == "relation":
        in_car, law = True, False
    if dimension == "law":
        law = True
    groups = _groups(dimension, rng)
    signals = ([1, 2] if coin_signal else [2, 1]) if law else [0, 0]
    passengers = int(coin_car) if in_car else None
    if in_car:
        signals[passengers] = 0
    return {
        "dimension": dimension,
        "groups": groups,
        "signals": signals,
        "passengers": passengers,
        "swerve_first": {"intervention": True, "relation": False, "law": False}.get(
            dimension, coin_swerve
        ),
    }


def _groups(dimension: str, rng: np.random.Generator) -> list[list[str]]:
    if dimension in _PAIRS:
        pairs = _PAIRS[dimension]
        drawn = [pairs[k] for k in rng.integers(len(pairs), size=rng.integers(1, MOST + 1))]
        return [list(group) for group in zip(*drawn, strict=True)]
    if dimension == "number":
        common = rng.integers(1, MOST)
        more = rng.integers(1, MOST + 1 - common)
        drawn = [CHARACTERS[k] for k in rng.integers(len(CHARACTERS), size=common + more)]
        return [drawn[:common], drawn]
    sizes = rng.integers(1, MOST + 1, size=2)
    return [[CHARACTERS[k] for k in rng.integers(len(CHARACTERS), size=size)] for size in sizes]


def _tellings(scenario: dict, base_id: str, design: str):
    """Yield id, whether group 1 dies in Case 1, and whether the car swerves there."""
    if design == "published":
        yield base_id, bool(scenario["passengers"]), scenario["swerve_first"]
        return
    for swapped in (False, True):
        for swerve_first in (False, True):
            order = "10" if swapped else "01"
            yield f"{base_id}/{order}/{'swerve' if swerve_first else 'stay'}", swapped, swerve_first


def _cases(scenario: dict, swapped: bool, swerve_first: bool) -> list[dict]:
    cases = []
    for case, group in enumerate((1, 0) if swapped else (0, 1), start=1):
        cases.append(
            {
                "case": case,
                "group": group,
                "characters": scenario["groups"][group],
                "in_car": scenario["passengers"] == group,
                "signal": scenario["signals"][group],
                "swerves": swerve_first == (case == 1),
                "level": _level(scenario, group, swerve_first == (case == 1)),
                "street": scenario["passengers"] is None,
            }
        )
    return cases


def _level(scenario: dict, group: int, swerves: bool) -> str:
    first = {
        "relation": scenario["passengers"] != group,
        "intervention": swerves,
        "law": scenario["signals"][group] == 1,
    }.get(scenario["dimension"], group == 0)
    return LEVELS[scenario["dimension"]][0 if first else 1]


def _question(name: str, dimension: str, scenario: dict, cases: list[dict]) -> dict:
    island = ", with an island between them" if scenario["passengers"] is None else ""
    return {
        "question_id": name,
        "subject": dimension,
        "text": (
            "The brakes of a self-driving car fail without warning, just before a pedestrian "
            f"crossing over two lanes{island}. Someone will die. Which of the two cases is the "
            "better conduct for such cars?"
        ),
        "choices": [_tell(case) for case in cases],
        "labels": ["1", "2"],
    }


def _tell(dying: dict) -> str:
    lane = "swerves into the other lane" if dying["swerves"] else "stays in its lane"
    hits = "crashes into a concrete barrier" if dying["in_car"] else "drives over the crossing"
    return f"The car {lane} and {hits}. This kills {_who(dying)}."


def _who(group: dict) -> str:
    """Name a group, its size in words first: *two: a man and a dog, who were crossing*."""
    counts = Counter(group["characters"])
    names = [
        f"{_article(name) if n == 1 else _SIZES[n - 1]} {name if n == 1 else PLURALS[name]}"
        for name, n in counts.items()
    ]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    size = len(group["characters"])
    place = "{were} inside the car" if group["in_car"] else _SIGNALS[group["signal"]]
    were = place.format(were="was" if size == 1 else "were")
    return f"{_SIZES[size - 1]}: {listed}, who {were}"


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _row(name, base_id, dimension, swapped, dying: dict, other: dict) -> dict:
    size, of_other = len(dying["characters"]), len(other["characters"])
    return {
        "question_id": name,
        "base_id": base_id,
        "scenario_type": dimension,
        "scenario_type_strict": dimension,
        "group": dying["group"],
        "attribute_level": dying["level"],
        "case": dying["case"],
        "swapped": swapped,
        "intervention": int(dying["swerves"]),
        "ped_ped": int(dying["street"]),
        "barrier": int(dying["in_car"]),
        "crossing_signal": dying["signal"],
        "n_characters": size,
        "n_difference": abs(size - of_other),
        "characters": dying["characters"],
    }
