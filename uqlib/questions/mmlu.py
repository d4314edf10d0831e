"""MMLU in its original layout: one CSV file a subject, six columns, no header."""

import csv
import io
from pathlib import Path

import pandas as pd

from uqlib.paths import display_path
from uqlib.questions.common import checked_table, read_text
from uqlib.questions.schema import LETTERS


def load_mmlu(folder: Path, split: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the question table of MMLU from a folder of ``<subject>_<split>.csv`` files.

    Parameters
    ----------
    folder : Path
        Each file holds rows of question, four options and the letter of the right one.
    split : str
        The ending of the file names: `test`, `dev` or `val`.

    Returns
    -------
    table : DataFrame
        A checked question table, subjects in alphabetical order, rows in file order; dataset
        ``mmlu``, or ``mmlu_dev`` and so on for the other splits. `source` names file and row,
        counted from 1.
    report : DataFrame
        Nothing is dropped.

    Raises
    ------
    FileNotFoundError
        If the folder has no such file.
    ValueError
        Names file, row and value of the first malformed row.

    Notes
    -----
    Hendrycks et al. (2020). The 57 test files hold 14,042 questions, the dev files 285, five a
    subject.
    """
    files = sorted(Path(folder).glob(f"*_{split}.csv"))
    if not files:
        raise FileNotFoundError(f"no *_{split}.csv in {display_path(folder)}")
    table = pd.DataFrame([row for file in files for row in _rows(file, split)])
    table["dataset"] = "mmlu" if split == "test" else f"mmlu_{split}"
    return checked_table(table)


def _rows(file: Path, split: str):
    subject = file.stem.removesuffix(f"_{split}").replace("_", " ")
    try:
        rows = list(csv.reader(io.StringIO(read_text(file), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{file.name}: {error}") from None
    for number, row in enumerate(rows, start=1):
        yield {
            "subject": subject,
            "human_shares": None,
            "source": f"{file.name}:{number}",
            **_question(row, f"{file.name}, row {number}"),
        }


def _question(row: list[str], place: str) -> dict:
    if len(row) != 6:
        raise ValueError(f"{place}: {len(row)} columns instead of 6: {row!r}")
    text, *choices, letter = row
    if not text.strip() or not all(choice.strip() for choice in choices):
        raise ValueError(f"{place}: the question or an option is empty: {row!r}")
    if letter.strip() not in LETTERS[:4]:
        raise ValueError(f"{place}: the answer must be A, B, C or D, not {letter!r}")
    return {"text": text, "choices": choices, "answer": LETTERS.index(letter.strip())}
