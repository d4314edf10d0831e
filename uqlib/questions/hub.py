"""Data sets of the Hugging Face hub, through the optional extra `hub`."""

import ast
import re

import pandas as pd

from uqlib.questions.common import checked_table, is_refusal
from uqlib.questions.schema import LETTERS

PLACES = {
    "mmlu": {"path": "cais/mmlu", "name": "all"},
    "global_opinions": {"path": "Anthropic/llm_global_opinions"},
    "subpop": {"path": "jjssuh/subpop"},
}
REVISIONS = {"mmlu": "c30699e8356da336a370243923dbaf21066bb9fe"}


def fetch_hub(source: str, split: str) -> list[dict]:
    """Download one split of a hub data set and return its rows.

    Parameters
    ----------
    source : str
        A key of `PLACES`. Where `REVISIONS` has it, that commit is loaded; the others as they are
        on the day.
    split : str
        ``test`` and ``dev`` for `mmlu`, ``train`` for `global_opinions`.

    Returns
    -------
    list of dict

    Raises
    ------
    ImportError
        If the extra is not installed; the message says how to.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ImportError("install the extra first: pip install 'uqlib[hub]'") from None
    data = load_dataset(**PLACES[source], split=split, revision=REVISIONS.get(source))
    return list(data)


def load_mmlu_rows(rows: list[dict], split: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the question table of MMLU from rows of the hub.

    Parameters
    ----------
    rows : list of dict
        `question`, `subject`, `choices` (four) and `answer` (0 to 3).
    split : str
        As for `uqlib.questions.mmlu.load_mmlu`, whose ids and subjects these rows get too.

    Returns
    -------
    table, report : DataFrame
        Nothing is dropped.

    Raises
    ------
    ValueError
        Names row and value.

    Examples
    --------
    >>> row = {"question": "Is ice hot?", "subject": "herbal_tea", "answer": 1,
    ...     "choices": ["yes", "no", "both", "neither"]}
    >>> table, _ = load_mmlu_rows([row])
    >>> table.subject[0], table.choices[0][table.answer[0]]
    ('herbal tea', 'no')
    """
    questions = []
    for number, row in enumerate(rows, start=1):
        if len(row["choices"]) != 4 or row["answer"] not in range(4):
            raise ValueError(f"cais/mmlu, row {number}: not four options and an answer: {row!r}")
        questions.append(
            {
                "dataset": "mmlu" if split == "test" else f"mmlu_{split}",
                "subject": row["subject"].replace("_", " "),
                "text": row["question"],
                "choices": list(row["choices"]),
                "human_shares": None,
                "answer": row["answer"],
                "source": f"cais/mmlu {split}:{number}",
            }
        )
    return _checked(questions)


def load_global_opinions(rows: list[dict], country: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the question table of GlobalOpinionQA for one country.

    Parameters
    ----------
    rows : list of dict
        `question`, `options` (a list, or its text), `selections` (shares by country, or their
        text) and `source`.
    country : str
        As the data set spells it.

    Returns
    -------
    table, report : DataFrame
        Questions not asked in that country, and those without two options and a share that is not
        refused, are dropped and counted.

    Raises
    ------
    ValueError
        Names row and value; or the countries there are, if this one is not among them.

    Notes
    -----
    Durmus et al. (2023).

    Examples
    --------
    >>> row = {"question": "Tea?", "options": "['Yes', 'No', 'Refused']", "source": "demo",
    ...     "selections": "defaultdict(<class 'list'>, {'Wales': [0.6, 0.3, 0.1]})"}
    >>> load_global_opinions([row], "Wales")[0].human_shares[0].round(3)
    array([0.667, 0.333])
    """
    asked, countries = [], set()
    for number, row in enumerate(rows, start=1):
        place = f"Anthropic/llm_global_opinions, row {number}"
        selections = _literal(row["selections"], place)
        countries |= set(selections)
        if country in selections:
            options = [str(option) for option in _literal(row["options"], place)]
            shares = selections[country]
            if len(shares) != len(options):
                raise ValueError(f"{place}: {len(shares)} shares for {len(options)} options")
            asked.append((number, row, options, shares))
    if not asked:
        known = ", ".join(sorted(countries))
        raise ValueError(f"no question was asked in {country!r}; countries: {known}")
    report = [
        ("read", "questions", len(rows)),
        (f"not asked in {country}", "questions", len(asked)),
    ]
    questions = []
    for number, row, options, shares in asked:
        kept = [(o, s) for o, s in zip(options, shares, strict=True) if not is_refusal(o)]
        total = sum(share for _, share in kept)
        if row["question"] and 2 <= len(kept) <= len(LETTERS) and total > 0:
            questions.append(
                {
                    "dataset": "global_opinions",
                    "subject": row["source"],
                    "text": row["question"],
                    "choices": [option for option, _ in kept],
                    "human_shares": [share / total for _, share in kept],
                    "answer": None,
                    "source": f"Anthropic/llm_global_opinions:{number}",
                }
            )
    report.append(("no text, options or share after refusals", "questions", len(questions)))
    return _checked(questions, report)


def load_subpop(rows: list[dict], attribute: str, group: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the question table of SubPOP for one group of people.

    Parameters
    ----------
    rows : list of dict
        `qkey`, `attribute`, `group`, `question`, `options` (the last is the refusal) and
        `responses` (the shares of the others).
    attribute, group : str
        As the data set spells them.

    Returns
    -------
    table, report : DataFrame
        Rows of other groups are dropped and counted.

    Raises
    ------
    ValueError
        Names row and value; or the groups there are.

    Notes
    -----
    Suh et al. (2025).

    Examples
    --------
    >>> row = {"qkey": "TEA_W1", "attribute": "AGE", "group": "65+", "question": "Tea?",
    ...     "options": ["Yes", "No", "Refused"], "responses": [0.75, 0.25]}
    >>> load_subpop([row], "AGE", "65+")[0].loc[0, "choices"]
    ['Yes', 'No']
    """
    chosen = [
        (number, row)
        for number, row in enumerate(rows, start=1)
        if (row["attribute"], row["group"]) == (attribute, group)
    ]
    if not chosen:
        known = ", ".join(sorted({f"{row['attribute']}: {row['group']}" for row in rows}))
        raise ValueError(f"no row for {attribute}: {group}; there are {known}")
    questions = []
    for number, row in chosen:
        if len(row["options"]) != len(row["responses"]) + 1:
            raise ValueError(
                f"jjssuh/subpop, row {number}: {len(row['responses'])} shares for "
                f"{len(row['options'])} options, the last a refusal"
            )
        questions.append(
            {
                "question_id": f"subpop-{row['qkey']}",
                "dataset": "subpop",
                "subject": f"{attribute}: {group}",
                "text": row["question"],
                "choices": list(row["options"][:-1]),
                "human_shares": list(row["responses"]),
                "answer": None,
                "source": f"jjssuh/subpop:{number}",
            }
        )
    report = [("read", "rows", len(rows)), ("other groups", "rows", len(chosen))]
    return _checked(questions, report)


def _checked(questions: list[dict], report: list | None = None):
    if not questions:
        raise ValueError("no question is left")
    return checked_table(pd.DataFrame(questions), report)


def _literal(cell, place: str):
    """Return a list or dict, also from its printed form, without evaluating code."""
    if not isinstance(cell, str):
        return cell
    inner = re.search(r"[\[{].*[\]}]", cell, re.DOTALL)
    try:
        return ast.literal_eval(inner[0] if inner else cell)
    except (SyntaxError, ValueError):
        raise ValueError(f"{place}: not a list or dict: {cell[:80]!r}") from None
