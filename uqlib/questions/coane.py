"""Coane & Umanath's general-knowledge norms: human shares and a right answer for 421 questions."""

from pathlib import Path

import pandas as pd

from uqlib.questions.common import checked_table
from uqlib.questions.schema import LETTERS


def load_coane(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the question table of the norms from ``coane_data.parquet``.

    Parameters
    ----------
    folder : Path
        Holds the file as published with the outputs of 30 models.

    Returns
    -------
    table : DataFrame
        A checked question table of four options each, in file order.
        Shares are rounded at the source to two digits, so most need renormalising.
    report : DataFrame
        Nothing is dropped.

    Raises
    ------
    ValueError
        Names file, row and value where answer letter, answer text and options disagree.

    Notes
    -----
    Coane and Umanath (2021); multiple-choice shares of the norming sample.
    """
    published = pd.read_parquet(Path(folder) / "coane_data.parquet")
    table = pd.DataFrame(
        {
            "dataset": "coane",
            "subject": "general knowledge",
            "text": published["Question"],
            "choices": [list(choices) for choices in published["Answers"]],
            "human_shares": list(published["Answer_Ratios"]),
            "answer": [
                _answer(letter, row) for row, letter in enumerate(published["Correct_Answer"], 1)
            ],
            "source": [f"coane_data.parquet:{row}" for row in range(1, len(published) + 1)],
        }
    )
    for row, right in zip(table.itertuples(), published["Correct_Answer_Text"], strict=True):
        if row.choices[row.answer] != right:
            raise ValueError(f"{row.source}: {row.choices[row.answer]!r} is not {right!r}")
    return checked_table(table)


def _answer(letter: str, row: int) -> int:
    if letter not in LETTERS[:4]:
        raise ValueError(f"coane_data.parquet:{row}: the answer must be A to D, not {letter!r}")
    return LETTERS.index(letter)
