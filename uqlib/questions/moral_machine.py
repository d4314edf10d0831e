"""Published data of the Moral Machine: effects of people and of models, and raw answers."""

from pathlib import Path

import numpy as np
import pandas as pd

from uqlib.questions.world_morals import HUMAN_EFFECTS as POOLED

SHARED_RESPONSES = "shared_responses_Phi-3.5-mini-instruct.csv"
NAMES = {
    "Intervention": "intervention",
    "Relation to AV": "relation",
    "Law": "law",
    "Gender": "gender",
    "Fitness": "fitness",
    "Social Status": "status",
    "Age": "age",
    "No. Characters": "number",
    "Species": "species",
}
POOLED_HUMAN_EFFECTS = pd.Series(POOLED)
HUMAN_EFFECTS = POOLED_HUMAN_EFFECTS.where(POOLED_HUMAN_EFFECTS.index != "number", 0.651)
"""Awad et al. (2018), Figure 2a; the effect of *number* is that at four more characters."""

_TYPES = {"Social Value": "status", "Utilitarian": "number"} | {
    name: name.lower() for name in ("Age", "Fitness", "Gender", "Species")
}
_LEVELS = {
    "Old": "older",
    "Young": "younger",
    "Fat": "large",
    "Fit": "fit",
    "Female": "female",
    "Male": "male",
    "High": "higher",
    "Low": "lower",
    "Hoomans": "human",
    "Pets": "pet",
    "More": "more",
    "Less": "fewer",
}
_COLUMNS = {
    "Intervention": "intervention",
    "PedPed": "ped_ped",
    "Barrier": "barrier",
    "CrossingSignal": "crossing_signal",
    "NumberOfCharacters": "n_characters",
    "DiffNumberOFCharacters": "n_difference",
    "Saved": "saved",
}


def read_shared_responses(path: Path) -> pd.DataFrame:
    """Read answers in the layout in which the Moral Machine shares them, two rows a scenario.

    Returns
    -------
    DataFrame
        The columns of `uqlib.questions.moral.CONJOINT_SCHEMA` that an analysis of effects reads
        (`question_id`, `base_id`, `scenario_type`, `scenario_type_strict`, `attribute_level`,
        `intervention`, `ped_ped`, `barrier`, `crossing_signal`, `n_characters`, `n_difference`),
        and `saved`.

    Raises
    ------
    ValueError
        If a column is missing, a value is unknown, or a scenario has not one group saved and one
        not; the message names file, row and value.
    """
    path = Path(path)
    raw = pd.read_csv(path)
    needed = ["ResponseID", "ScenarioType", "ScenarioTypeStrict", "AttributeLevel", *_COLUMNS]
    missing = [name for name in needed if name not in raw]
    if missing:
        raise ValueError(f"{path.name} lacks the column(s) {', '.join(missing)}")
    scenario = raw["ResponseID"].str.rsplit("_", n=1).str[0]
    table = pd.DataFrame(
        {
            "question_id": scenario,
            "base_id": scenario,
            "scenario_type": _mapped(raw, "ScenarioType", _TYPES, path.name),
            "scenario_type_strict": _mapped(raw, "ScenarioTypeStrict", _TYPES, path.name),
            "attribute_level": _mapped(raw, "AttributeLevel", _LEVELS, path.name),
        }
    ).join(raw[list(_COLUMNS)].rename(columns=_COLUMNS))
    pairs = table.groupby("question_id")["saved"].agg(["size", "sum"])
    for row in pairs[(pairs["size"] != 2) | (pairs["sum"] != 1)].itertuples():
        raise ValueError(
            f"{path.name}: scenario {row.Index} has {row.size} rows, {row.sum} of them saved"
        )
    return table


def read_model_effects(path: Path) -> pd.DataFrame:
    """Read the published effects of models (`table_S2.csv`), and those of people beside them.

    Returns
    -------
    DataFrame
        A row for each model, and one called Human; a column for each dimension, in the order of
        `HUMAN_EFFECTS`.

    Raises
    ------
    ValueError
        If a dimension is missing or a value is not in [-1, 1]; the message names it.

    Notes
    -----
    Takemoto and others, supplementary tables of the repository `mmllm`. *No. Characters* is there
    the effect at the difference in number where it is largest, whatever its sign.
    """
    path = Path(path)
    table = pd.read_csv(path, index_col=0).rename(index=NAMES).T.rename_axis("model")
    missing = [name for name in HUMAN_EFFECTS.index if name not in table]
    if missing:
        raise ValueError(f"{path.name} lacks the row(s) {', '.join(missing)}")
    table = table[list(HUMAN_EFFECTS.index)].rename_axis(columns="dimension")
    for row, column in np.argwhere(~(table.abs() <= 1).to_numpy()):
        place = f"{table.index[row]}, {table.columns[column]}"
        raise ValueError(f"{path.name}, {place}: {table.iloc[row, column]} is no effect")
    return table


def read_country_effects(path: Path) -> pd.DataFrame:
    """Read people's effects by country, with standard errors.

    Returns
    -------
    DataFrame
        `country` (three letters), `dimension` (also ``number_1`` to ``number_4``, by the difference
        in number), `effect`, `se`.

    Raises
    ------
    ValueError
        If a label is unknown or a country lacks a dimension; the message names it.
    """
    path = Path(path)
    raw = pd.read_csv(path)
    names = NAMES | {f"No. Characters_{k}": f"number_{k}" for k in range(1, 5)}
    table = pd.DataFrame(
        {
            "country": raw["Country"],
            "dimension": _mapped(raw, "Label", names, path.name),
            "effect": raw["Estimates"],
            "se": raw["se"],
        }
    )
    for country, count in table["country"].value_counts().items():
        if count != len(names):
            raise ValueError(f"{path.name}: {country} has {count} effects, not {len(names)}")
    return table


def _mapped(raw: pd.DataFrame, column: str, names: dict[str, str], file: str) -> pd.Series:
    unknown = raw.loc[~raw[column].isin(names), column]
    if len(unknown):
        raise ValueError(f"{file}, row {unknown.index[0] + 2}: {column} is {unknown.iloc[0]!r}")
    return raw[column].map(names)
