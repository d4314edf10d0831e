"""ProtoQA: what people name in answer to everyday prompts, with the share of each answer."""

from pathlib import Path

import pandas as pd

from uqlib.questions.common import checked_table


def load_protoqa(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the question table of ProtoQA from ``protoqa_data.parquet``.

    Parameters
    ----------
    folder : Path
        Holds the file as published with the outputs of models.

    Returns
    -------
    table : DataFrame
        A checked question table of 2 to 9 options, in file order, so that published outputs can be
        joined row by row. The options stand as published: from the most to the least popular.
    report : DataFrame
        Nothing is dropped.

    Raises
    ------
    ValueError
        Names file, row and value of the first malformed row.

    Notes
    -----
    Boratko et al. (2020); answers clustered and published by Moore et al. Their place gives them
    away: `uqlib.questions.common.shuffle_choices` before asking a model.
    """
    published = pd.read_parquet(Path(folder) / "protoqa_data.parquet")
    table = pd.DataFrame(
        {
            "dataset": "protoqa",
            "subject": "everyday life",
            "text": published["Question"],
            "choices": [list(choices) for choices in published["Answers"]],
            "human_shares": list(published["Answer_Ratios"]),
            "answer": None,
            "source": [f"protoqa_data.parquet:{row}" for row in range(1, len(published) + 1)],
        }
    )
    return checked_table(table)
