"""Your own survey: one CSV or parquet file with questions, options and shares."""

import csv
import io
import json
from pathlib import Path

import pandas as pd

from uqlib.artifacts import read_parquet
from uqlib.questions.common import checked_table, read_text

WIDE = ("question", "options", "shares")
LONG = ("question", "option", "share")


def load_own(
    file: Path,
    dataset: str = "own",
    columns: dict[str, str] | None = None,
    encoding: str = "utf-8-sig",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    r"""Read a question table from one file, in either of two forms.

    Wide: a row a question, `options` and `shares` are lists (in a CSV file, JSON lists). Long: a
    row an option, with `question`, `option` and `share`; the rows of a question stand together or
    apart. In both forms `id` and `subject` may be added; in the long form the `id` says which rows
    belong together, otherwise subject and question do.

    Parameters
    ----------
    file : Path
        ``.csv`` with a header, or ``.parquet``.
    dataset : str
        The name the questions get.
    columns : dict, optional
        The file's name of a column where it is not the name above, e.g.
        ``{"options": "options_json"}``.
    encoding : str
        Of a CSV file; the default is UTF-8 with or without a byte order mark.

    Returns
    -------
    table : DataFrame
        A checked question table; ids are ``<dataset>-<id>``, or made from the content.
    report : DataFrame
        Nothing is dropped.

    Raises
    ------
    ValueError
        Names file, row (counted from 1 below the header) and value.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "tea.csv"
    >>> _ = file.write_text("question,option,share\nTea?,yes,0.7\nTea?,no,0.3\n")
    >>> table, report = load_own(file, "kitchen")
    >>> table.choices[0], table.human_shares[0].tolist(), table.question_id[0]
    (['yes', 'no'], [0.7, 0.3], 'kitchen-7a291da58ad7')
    """
    file = Path(file)
    rows = _read_rows(file, encoding)
    names = dict.fromkeys(["id", "subject", *WIDE, *LONG])
    names = {name: (columns or {}).get(name, name) for name in names}
    found = set(rows[0])
    if {names[name] for name in WIDE} <= found:
        questions = [_wide(row, names, f"{file.name}, row {n}") for n, row in enumerate(rows, 1)]
    elif {names[name] for name in LONG} <= found:
        questions = _long(rows, names, file.name)
    else:
        raise ValueError(
            f"{file.name}: the columns must include {', '.join(WIDE)} (a row a question) or "
            f"{', '.join(LONG)} (a row an option), not only {', '.join(sorted(found))}"
        )
    table = pd.DataFrame(questions).assign(dataset=dataset, answer=None)
    if names["id"] in found:
        table["question_id"] = [f"{dataset}-{name}" for name in table["id"]]
    return checked_table(table)


def _read_rows(file: Path, encoding: str) -> list[dict]:
    if file.suffix == ".parquet":
        rows = read_parquet(file).to_dict("records")
    elif file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(read_text(file, encoding), newline=""), strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{file.name}, after line {reader.line_num}: {error}") from None
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                cells = [cell for cell in row.values() if cell is not None]
                raise ValueError(
                    f"{file.name}, row {number}: not the {len(reader.fieldnames)} columns of the "
                    f"header: {cells!r}"
                )
    else:
        raise ValueError(f"{file.name}: a survey of your own is a .csv or a .parquet file")
    if not rows:
        raise ValueError(f"{file.name} has no rows")
    return rows


def _wide(row: dict, names: dict, place: str) -> dict:
    shares = _list(row[names["shares"]], f"{place}: shares")
    return {
        **_common(row, names, place),
        "choices": [str(option) for option in _list(row[names["options"]], f"{place}: options")],
        "human_shares": [_number(share, place) for share in shares],
    }


def _long(rows: list[dict], names: dict, file: str) -> list[dict]:
    questions = {}
    for number, row in enumerate(rows, start=1):
        place = f"{file}, row {number}"
        common = _common(row, names, place)
        key = common.get("id") or (common["subject"], common["text"])
        question = questions.setdefault(key, {**common, "choices": [], "human_shares": []})
        if question["text"] != common["text"]:
            raise ValueError(f"{place}: {key!r} is another question above: {common['text']!r}")
        question["choices"].append(str(row[names["option"]]))
        question["human_shares"].append(_number(row[names["share"]], place))
    return list(questions.values())


def _common(row: dict, names: dict, place: str) -> dict:
    text = row[names["question"]]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{place}: the question is empty: {text!r}")
    common = {
        "text": text,
        "subject": str(row.get(names["subject"], "survey")),
        "source": place.replace(", row ", ":"),
    }
    if names["id"] in row:
        common["id"] = str(row[names["id"]])
    return common


def _list(cell, place: str) -> list:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            raise ValueError(f"{place}: not a JSON list: {cell!r}") from None
    if isinstance(cell, str | bytes | dict) or not hasattr(cell, "__len__"):
        raise ValueError(f"{place}: not a list: {cell!r}")
    return list(cell)


def _number(share, place: str) -> float:
    try:
        return float(share)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: a share must be a number, not {share!r}") from None
