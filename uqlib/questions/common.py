"""What the loaders share: text read whole, refusals, the report of what was dropped, shuffles."""

from pathlib import Path

import numpy as np
import pandas as pd

from uqlib.artifacts import sha256_of
from uqlib.questions.schema import check_questions, question_ids

REFUSALS = (
    "don't know/refused",
    "don't know/skipped",
    "don't know/skippedrefused",
    "no answer",
    "not selected",
    "not selected/no answer",
    "not sure/refused",
    "not sure/skipped",
    "omit",
    "refused",
    "refused/web blank",
    "skip",
    "skipped",
    "skipped on web",
    "skipped/refused",
    "skipped/web blank",
    "web blank",
)


def is_refusal(option: str) -> bool:
    """Whether an option says that someone did not answer, by the list of Moore et al. (2025).

    The whole option must be on the list `REFUSALS`; capitals and the form of the apostrophe do not
    matter. Rejections ("None of these") and plain doubt ("Don't know") are answers.

    Notes
    -----
    Moore et al. (2025), appendix A.

    Examples
    --------
    >>> [is_refusal(option) for option in ["Refused", "Don’t know/Refused", "None of these"]]
    [True, True, False]
    """
    return option.strip().lower().replace("’", "'") in REFUSALS


def read_text(file: Path, encoding: str = "utf-8-sig") -> str:
    """Read a text file whole; a byte order mark is no part of it.

    Raises
    ------
    ValueError
        If the file is empty or not in this encoding; the message names file, line and byte.
    """
    file = Path(file)
    content = file.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte, name = content[error.start], encoding.removesuffix("-sig")
        raise ValueError(
            f"{file.name}, line {line}: the byte 0x{byte:02x} is not {name}; "
            "name the file's encoding, e.g. latin-1"
        ) from None
    if not text.strip():
        raise ValueError(f"{file.name} is empty")
    return text


def attrition(steps: list[tuple[str, str, int]]) -> pd.DataFrame:
    """Return the report of a loader: what was left after each step, and how much the step dropped.

    Parameters
    ----------
    steps : list of (step, unit, left)
        In order. What a step dropped is counted from the last step of the same unit.

    Returns
    -------
    DataFrame
        Columns `step`, `unit`, `left` and `dropped`; the first step of a unit drops nothing.

    Examples
    --------
    >>> attrition([("read", "questions", 10), ("no option left", "questions", 7)])
                 step       unit  left  dropped
    0            read  questions    10        0
    1  no option left  questions     7        3
    """
    report = pd.DataFrame(steps, columns=["step", "unit", "left"])
    before = report.groupby("unit")["left"].shift()
    return report.assign(dropped=before.fillna(report["left"]).sub(report["left"]).astype(int))


def checked_table(
    table: pd.DataFrame, steps: list[tuple[str, str, int]] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what every loader returns: the checked question table and the report.

    Parameters
    ----------
    table : DataFrame
        As for `uqlib.questions.schema.check_questions`; without `question_id`, ids are made from
        the content.
    steps : list of (step, unit, left), optional
        For `attrition`; by default, all questions were read and none was dropped.

    Raises
    ------
    ValueError
        If a row is malformed; the message names it.
    """
    if "question_id" not in table:
        table = table.assign(question_id=question_ids(table))
    table = check_questions(table)
    return table, attrition(steps or [("read", "questions", len(table))])


def shuffle_choices(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Put the options of every question in random order; shares and answer go with them.

    The order depends on the seed and the question's id alone, not on the other rows. Labels keep
    their places, ids stay.

    Parameters
    ----------
    table : DataFrame
        A checked question table.
    seed : int
        Equal seeds give equal orders.

    Returns
    -------
    DataFrame
        The same rows.

    Examples
    --------
    >>> table = pd.DataFrame({"question_id": ["q1"], "choices": [["tea", "coffee", "water"]],
    ...     "human_shares": [np.array([0.5, 0.3, 0.2])], "answer": [0]})
    >>> row = shuffle_choices(table, seed=1).iloc[0]
    >>> row.choices, row.human_shares.tolist(), row.choices[row.answer]
    (['water', 'tea', 'coffee'], [0.2, 0.5, 0.3], 'tea')
    """
    choices, shares, answers = [], [], []
    for row in table.itertuples():
        key = int(sha256_of(str(seed), row.question_id)[:16], 16)
        order = np.random.default_rng(key).permutation(len(row.choices))
        choices.append([row.choices[k] for k in order])
        missing = row.human_shares is None
        shares.append(None if missing else np.asarray(row.human_shares)[order])
        answers.append(
            pd.NA if pd.isna(row.answer) else int(np.flatnonzero(order == row.answer)[0])
        )
    return table.assign(
        choices=pd.Series(choices, index=table.index, dtype=object),
        human_shares=pd.Series(shares, index=table.index, dtype=object),
        answer=pd.Series(answers, index=table.index, dtype="Int64"),
    )
