"""The question table: its columns, its checks, and human entropy."""

import json

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
from scipy.special import entr

from uqlib.artifacts import sha256_of

LETTERS = [chr(ord("A") + i) for i in range(26)]
SHARE_TOLERANCE = 0.02

SCHEMA = pyarrow.schema(
    [
        ("question_id", pyarrow.string()),
        ("dataset", pyarrow.string()),
        ("subject", pyarrow.string()),
        ("text", pyarrow.string()),
        ("choices", pyarrow.list_(pyarrow.string())),
        ("labels", pyarrow.list_(pyarrow.string())),
        ("human_shares", pyarrow.list_(pyarrow.float64())),
        ("answer", pyarrow.int64()),
        ("source", pyarrow.string()),
    ]
)
COLUMNS = SCHEMA.names

_CHECKS = pa.DataFrameSchema(
    {
        "question_id": pa.Column(str, unique=True),
        "dataset": pa.Column(str),
        "subject": pa.Column(str),
        "text": pa.Column(str, pa.Check.str_contains(r"\S", error="has text")),
        "choices": pa.Column(object),
        "labels": pa.Column(object),
        "human_shares": pa.Column(object, nullable=True),
        "answer": pa.Column("Int64", nullable=True),
        "source": pa.Column(str),
    },
    strict=True,
    ordered=True,
)


def check_questions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the question table, checked and with shares renormalised to sum to one.

    Parameters
    ----------
    frame : DataFrame
        The columns of `COLUMNS`. `choices` and `labels` are lists of 2 to 26 strings,
        `human_shares` a list of floats in [0, 1] of the same length or None, `answer` an index
        into `choices` or missing. `labels` may be left out: A, B, C, ...

    Returns
    -------
    DataFrame
        The same rows in the same order, index 0 to n - 1. ``attrs["renormalised"]`` counts the
        rows whose shares were off one by at most .02 (beyond rounding) and were renormalised.

    Raises
    ------
    ValueError
        Names the first offending row by position, id and value.

    Examples
    --------
    >>> table = check_questions(pd.DataFrame([{
    ...     "question_id": "q1", "dataset": "demo", "subject": "tea", "text": "Tea or coffee?",
    ...     "choices": ["tea", "coffee"], "human_shares": [0.25, 0.76], "answer": None,
    ...     "source": "made up"}]))
    >>> table.labels[0], table.human_shares[0].round(3), table.attrs["renormalised"]
    (['A', 'B'], array([0.248, 0.752]), 1)
    """
    table = frame.reset_index(drop=True)
    if "labels" not in table:
        table["labels"] = [LETTERS[: len(choices)] for choices in table["choices"]]
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the question table lacks the column(s) {', '.join(missing)}")
    table = table[COLUMNS].astype({"answer": "Int64"})
    for name in ["choices", "labels", "human_shares"]:
        table[name] = table[name].astype(object)
    try:
        _CHECKS.validate(table)
    except pa.errors.SchemaError as error:
        raise ValueError(_describe(error, table)) from None

    shares, renormalised = [], 0
    for row in table.itertuples():
        problem = _row_problem(row)
        if problem:
            place = f"row {row.Index} ({row.question_id}, from {row.source})"
            raise ValueError(f"{place}: {problem}")
        if row.human_shares is None:
            shares.append(None)
            continue
        values = np.asarray(row.human_shares, dtype=float)
        renormalised += abs(values.sum() - 1) > 1e-6
        shares.append(values / values.sum())
    table["human_shares"] = pd.Series(shares, dtype=object)
    table.attrs["renormalised"] = int(renormalised)
    return table


def question_ids(frame: pd.DataFrame) -> list[str]:
    """Return an id for each question made from its content, so that the order of rows is free.

    Questions that are the same in dataset, subject, text and options (in any order) are told apart
    by a counter, which follows their printed order, shares and answers, if there are any.

    Examples
    --------
    >>> question_ids(pd.DataFrame({"dataset": ["demo"] * 2, "subject": ["tea"] * 2,
    ...     "text": ["Tea or coffee?"] * 2, "choices": [["tea", "coffee"], ["coffee", "tea"]]}))
    ['demo-562e61cab725-2', 'demo-562e61cab725']
    """
    names, details = [], []
    for row in frame.itertuples():
        content = json.dumps([row.subject, row.text, sorted(row.choices)])
        names.append(f"{row.dataset}-{sha256_of(content)[:12]}")
        shares, answer = getattr(row, "human_shares", None), getattr(row, "answer", None)
        shares = None if shares is None else [float(share) for share in shares]
        details.append(json.dumps([list(row.choices), shares, str(answer)]))
    order = sorted(range(len(names)), key=lambda k: (names[k], details[k]))
    seen, ids = {}, dict.fromkeys(range(len(names)))
    for k in order:
        seen[names[k]] = seen.get(names[k], 0) + 1
        ids[k] = names[k] if seen[names[k]] == 1 else f"{names[k]}-{seen[names[k]]}"
    return list(ids.values())


def human_entropy(shares) -> np.ndarray:
    """Shannon entropy of human answer shares, in nats, one value a question.

    Parameters
    ----------
    shares : sequence of array_like
        One distribution a question, of any lengths; None gives NaN.

    Returns
    -------
    ndarray of float64, shape (n_questions,)
        Between 0 and ln(number of options).

    Notes
    -----
    Moore et al. (2025), section 4.2: entropy over the response percentages after normalisation.

    Examples
    --------
    >>> human_entropy([[0.5, 0.5], [1.0, 0.0, 0.0]]).round(4)
    array([0.6931, 0.    ])
    """
    rows = [[np.nan] if row is None else row for row in shares]
    if not rows:
        return np.empty(0)
    lengths = [len(row) for row in rows]
    starts = np.cumsum([0, *lengths[:-1]])
    values = np.concatenate(rows, dtype=float)
    values /= np.repeat(np.add.reduceat(values, starts), lengths)
    return np.add.reduceat(entr(values), starts)


def _row_problem(row) -> str | None:
    n = len(row.choices)
    if not 2 <= n <= 26:
        return f"{n} options; a question has 2 to 26"
    if any(not isinstance(choice, str) or not choice.strip() for choice in row.choices):
        return f"an option is empty or not text: {list(row.choices)!r}"
    if len(row.labels) != n or len(set(row.labels)) != n:
        return f"{n} options need {n} different labels, not {list(row.labels)!r}"
    if not pd.isna(row.answer) and not 0 <= row.answer < n:
        return f"answer {row.answer} is outside the {n} options"
    if row.human_shares is None:
        return None
    values = np.asarray(row.human_shares, dtype=float)
    if values.shape != (n,):
        return f"{values.size} human shares for {n} options"
    if not np.isfinite(values).all() or (values < 0).any():
        return f"human shares must be finite and not negative: {values.tolist()}"
    if abs(values.sum() - 1) > SHARE_TOLERANCE:
        return f"human shares sum to {values.sum():.4g}, not to 1 (within {SHARE_TOLERANCE})"
    return None


def _describe(error: pa.errors.SchemaError, table: pd.DataFrame) -> str:
    cases = error.failure_cases
    if not isinstance(cases, pd.DataFrame) or cases["index"].isna().all():
        return f"question table: {error}"
    case = cases.iloc[0]
    row = int(case["index"])
    check = getattr(error.check, "error", None) or error.check
    return (
        f"row {row} ({table.question_id[row]}): {error.schema.name} is {case['failure_case']!r}, "
        f"which fails the check: {check}"
    )
