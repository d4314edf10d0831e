"""Pew's American Trends Panel: weighted shares from SPSS files as Pew ships them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyreadstat
import yaml

from uqlib.paths import data_folder
from uqlib.questions.common import checked_table, is_refusal
from uqlib.questions.schema import LETTERS

SURVEY_KEYS = {"file", "weight", "variables"}


def load_pew(surveys: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read weighted answer shares of chosen variables from ``.sav`` files.

    The variable label is the question, the value labels are the options, in the order of their
    codes. Codes declared missing, system-missing answers, answers without a weight and refusals
    (`uqlib.questions.common.is_refusal`) are left out, and the rest renormalised.

    Parameters
    ----------
    surveys : list of dict
        For each file: `file` (a path), `weight` (the weight's name) and `variables` (a list of
        names).

    Returns
    -------
    table : DataFrame
        A checked question table, dataset ``pew``, subject and id by file and variable.
    report : DataFrame
        What was dropped: answers (a respondent and variable each), then questions.

    Raises
    ------
    ValueError
        Names file, variable, row (a respondent, counted from 1) and value: of an absent variable, a
        negative weight, a code without a label. Also if no survey is listed.
    """
    if not surveys:
        raise ValueError("the list of surveys is empty: name files, weights and variables in it")
    read = [_read(**survey) for survey in surveys]
    questions = [question for _, found in read for question in found]
    counts = np.sum([count for count, _ in read], axis=0, dtype=int).tolist()
    steps = ["read", "missing answer", "missing or zero weight", "refusal"]
    report = [(step, "answers", left) for step, left in zip(steps, counts, strict=True)]
    report.append(("listed", "questions", len(questions)))
    for step, keep in _STEPS:
        questions = [question for question in questions if keep(question)]
        report.append((step, "questions", len(questions)))
    if not questions:
        raise ValueError("none of the listed variables is a question with two answered options")
    for question in questions:
        weights = np.array(question.pop("weights"))
        question["human_shares"] = weights / weights.sum()
    table = pd.DataFrame(questions).assign(dataset="pew", answer=None)
    return checked_table(table, report)


_STEPS = [
    ("no text (variable label)", lambda question: bool(question["text"])),
    ("fewer than two options", lambda question: len(question["choices"]) >= 2),
    ("more than 26 options", lambda question: len(question["choices"]) <= len(LETTERS)),
    ("nobody's answer has weight", lambda question: sum(question["weights"]) > 0),
]


def read_survey_list(path: Path) -> list[dict]:
    """Read the list of surveys and variables, such as ``config/sources/pew.yaml``.

    Parameters
    ----------
    path : Path
        YAML: a list `surveys` of entries with `file` (in the data folder), `weight` and
        `variables`.

    Returns
    -------
    list of dict
        For `load_pew`, files as full paths.

    Raises
    ------
    ValueError
        Names the file and the entry.
    """
    entries = (yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}).get("surveys") or []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or entry.keys() != SURVEY_KEYS or not entry["variables"]:
            raise ValueError(
                f"{Path(path).name}, entry {number}: needs {', '.join(sorted(SURVEY_KEYS))} and "
                f"nothing else, not {entry!r}"
            )
    return [entry | {"file": data_folder() / entry["file"]} for entry in entries]


def _read(file: Path, weight: str, variables: list[str]) -> tuple[np.ndarray, list[dict]]:
    file = Path(file)
    frame, about = _read_sav(file)
    absent = [name for name in [weight, *variables] if name not in frame]
    if absent:
        raise ValueError(f"{file.name} has no variable {', '.join(absent)}")
    weights = pd.to_numeric(frame[weight], errors="coerce")
    for row in np.flatnonzero(weights < 0):
        raise ValueError(f"{file.name}, row {row + 1}: {weight} is negative: {weights[row]}")
    counts, questions = np.zeros(4, dtype=int), []
    for name in variables:
        count, question = _question(frame[name], weights, about, f"{file.name}, {name}")
        counts += count
        questions.append(
            {
                "question_id": f"pew-{file.stem}-{name}",
                "subject": file.stem,
                "source": f"{file.name}:{name}",
                **question,
            }
        )
    return counts, questions


def _read_sav(file: Path):
    if not file.exists():
        raise ValueError(f"{file.name} is not in the data folder")
    try:
        return pyreadstat.read_sav(str(file), user_missing=True)
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read as an SPSS file: {error}") from None


def _question(answers: pd.Series, weights: pd.Series, about, place: str):
    name = answers.name
    labels = about.variable_value_labels.get(name, {})
    ranges = about.missing_ranges.get(name, [])
    declared = [code for code in labels if any(r["lo"] <= code <= r["hi"] for r in ranges)]
    missing = answers.isna()
    for r in ranges:
        missing |= answers.between(r["lo"], r["hi"])
    options = {code: label for code, label in sorted(labels.items()) if code not in declared}
    for row in np.flatnonzero(~missing & ~answers.isin(list(options)) & bool(options)):
        raise ValueError(f"{place}, row {row + 1}: the code {answers[row]} has no label")
    weighted = ~missing & weights.gt(0)
    refused = answers.isin([code for code, label in options.items() if is_refusal(label)])
    count = [len(answers), (~missing).sum(), weighted.sum(), (weighted & ~refused).sum()]
    kept = [code for code, label in options.items() if not is_refusal(label)]
    return count, {
        "text": about.column_names_to_labels.get(name) or "",
        "choices": [options[code] for code in kept],
        "weights": [float(weights[weighted & answers.eq(code)].sum()) for code in kept],
    }
