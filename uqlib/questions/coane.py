"""Coane & Umanath's general-knowledge norms: human shares and a right answer for 421 questions."""

from pathlib import Path

import pandas as pd

from uqlib.questions.schema import LETTERS, check_questions, question_ids


def load_coane(folder: Path) -> pd.DataFrame:
    """Read the question table of the norms from ``coane_data.parquet``.

    Parameters
    ----------
    folder : Path
        Holds the file as published with the outputs of 30 models.

    Returns
    -------
    DataFrame
        A checked question table of four options each, in file order; nothing is dropped.
        Shares are rounded at the source to two digits, so most need renormalising.

    Raises
    ------
    ValueError
        Names the first row whose answer letter, answer text and options disagree.

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
            "answer": [LETTERS.index(letter) for letter in published["Correct_Answer"]],
            "source": [f"coane_data.parquet:{row}" for row in range(1, len(published) + 1)],
        }
    )
    for row, right in zip(table.itertuples(), published["Correct_Answer_Text"], strict=True):
        if row.choices[row.answer] != right:
            raise ValueError(f"{row.source}: {row.choices[row.answer]!r} is not {right!r}")
    return check_questions(table.assign(question_id=question_ids(table)))
