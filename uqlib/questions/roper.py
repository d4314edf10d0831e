"""Roper iPoll: the text export of a search, and the selection of Moore et al. (2025)."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from uqlib.questions.common import attrition, is_refusal, read_text, shuffle_choices
from uqlib.questions.schema import LETTERS, check_questions

SEARCH = pd.DataFrame(
    [
        ("Keyword, exclude", "today OR time OR now OR ahead OR next OR approve OR vote"),
        ("Interview start", "01/01/2017"),
        ("Interview end", "12/31/2023"),
        ("Country", "United States"),
        ("Contents", "Downloadable Datasets"),
        (
            "Topic",
            "Economic Issues/Policies OR Entertainment, Arts, and Recreation OR "
            "Health Issues/Policies, and Nutrition OR Information OR Media OR "
            "Personal Characteristics and Beliefs OR Science OR "
            "Social Issues and Domestic Policy OR Technology OR Values",
        ),
        ("Exclude", "Experimental Questions"),
        ("Exclude", "Open Ended Questions"),
    ],
    columns=["field", "content"],
)
PAPER = attrition(
    [
        ("read", "questions", 30571),
        ("fewer than two options after refusals", "questions", 30239),
        ("raw percentages do not sum to 100", "questions", 29667),
        ("not in the sample", "questions", 3000),
        ("more than 26 options", "questions", 2998),
    ]
)

_RULE = re.compile(r"-{60}\s*$")
_DATE = re.compile(r".*\[\d{1,2}/\d{1,2}/\d{4}( - \d{1,2}/\d{1,2}/\d{4})?\]\s*$")
_ANSWER = re.compile(r"\s*(?:(\d{0,3})%|\*)(.*)$", re.DOTALL)
_FIELDS = {
    "Citation": re.compile(r"Citation: (.+)$"),
    "Question": re.compile(r"Question: \[(.+)\]\s*$"),
    "Study": re.compile(r"Study: \[Roper #(.+)\]\s*$"),
    "Sample": re.compile(r"Sample: (.+)$"),
    "Sample Size": re.compile(r"Sample Size: (\d+)\s*$"),
}


def load_roper(
    file: Path,
    n: int | None = 3000,
    seed: int = 0,
    method: str = "text",
    encoding: str = "utf-8-sig",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read an iPoll text export, select as the paper does, sample, and shuffle the options.

    Parameters
    ----------
    file : Path
        The export, as downloaded.
    n : int or None
        Questions to sample; None, or no fewer than there are, keeps all.
    seed : int
        Of the sample and of the order of options; neither depends on the order of the file.
    method : {"text", "published"}
        How raw percentages are tested to sum to 100, refusals included, within less than N: with N
        the options left after refusals are removed, as the paper's text says, or (`published`)
        before, as its code did. `published` also removes questions of more than 26 options only
        after sampling, as the paper did.
    encoding : str
        UTF-8, with or without a byte order mark, unless named.

    Returns
    -------
    table : DataFrame
        A checked question table, dataset ``roper``, subject the study; ids hold Roper's own.
    report : DataFrame
        The attrition, options and questions; `PAPER` holds the paper's.

    Raises
    ------
    ValueError
        Names file, line and value of the first record that is not as described, the last included
        if it is cut off.

    Notes
    -----
    Moore et al. (2025), appendix A; the search of their Figure 6 is `SEARCH`. They sampled and
    shuffled without a seed.
    """
    if method not in ("text", "published"):
        raise ValueError(f"method must be 'text' or 'published', not {method!r}")
    records = read_export(file, encoding)
    report = [("read", "questions", len(records)), ("read", "options", _n_options(records))]

    def keep(step: str, test) -> None:
        nonlocal records
        records = [record for record in records if test(record)]
        report.append((step, "questions", len(records)))

    keep("an answer without text", lambda r: all(text for text, _ in r["answers"]))
    report.append(("in questions with such an answer", "options", _n_options(records)))
    sums = {r["id"]: sum(percent for _, percent in r["answers"]) for r in records}
    before = {r["id"]: len(r["answers"]) for r in records}
    records = [
        r | {"answers": [(text, p) for text, p in r["answers"] if not is_refusal(text)]}
        for r in records
    ]
    report.append(("refusal", "options", _n_options(records)))
    after = {r["id"]: len(r["answers"]) for r in records}
    allowance = before if method == "published" else after
    enough = ("fewer than two options after refusals", lambda r: after[r["id"]] >= 2)
    valid = (
        "raw percentages do not sum to 100",
        lambda r: abs(sums[r["id"]] - 100) < allowance[r["id"]],
    )
    letters = ("more than 26 options", lambda r: after[r["id"]] <= len(LETTERS))
    nobody = ("nobody chose an option", lambda r: any(percent for _, percent in r["answers"]))
    steps = [valid, enough, nobody] if method == "published" else [enough, valid, nobody, letters]
    for step, test in steps:
        keep(step, test)
    sample = _sample([r["id"] for r in records], n, seed)
    keep("not in the sample", lambda r: r["id"] in sample)
    if method == "published":
        keep(*letters)
    if not records:
        raise ValueError(f"{Path(file).name}: no question is left of {report[0][2]}")
    return shuffle_choices(_table(records), seed), attrition(report)


def read_export(file: Path, encoding: str = "utf-8-sig") -> list[dict]:
    """Read the records of an iPoll text export, nothing removed.

    Parameters
    ----------
    file : Path
        Two header lines, then records between lines of 60 dashes.
    encoding : str
        As for `load_roper`.

    Returns
    -------
    list of dict
        `id`, `study`, `citation`, `sample`, `sample_size`, `text`, `answers` (pairs of text and
        percentage; ``%`` and ``*`` are 0) and `source` (file and line).

    Raises
    ------
    ValueError
        As `load_roper`; also for an id that occurs twice.
    """
    name = Path(file).name
    lines = read_text(file, encoding).splitlines()
    starts = [2, *(k + 1 for k, line in enumerate(lines) if _RULE.match(line)), len(lines) + 1]
    records, seen = [], {}
    for start, end in pairwise(starts):
        block = lines[start : end - 1]
        if not any(line.strip() for line in block):
            continue
        record = _record(block, start + 1, name)
        first = seen.setdefault(record["id"], record["source"])
        if first != record["source"]:
            raise ValueError(f"{record['source']}: question {record['id']} again, first at {first}")
        records.append(record)
    if not records:
        raise ValueError(f"{name} holds no records after its two header lines")
    return records


def _record(block: list[str], number: int, name: str) -> dict:
    """Read one record; `number` is the file's line of the block's first line, counted from 1."""
    date = _first(block, 0, _DATE.match)
    if date is None:
        raise ValueError(
            f"{name}, line {number}: a record with no line ending in [mm/dd/yyyy]: {block[0]!r}"
        )
    places, fields = {}, {}
    for field, pattern in _FIELDS.items():
        begin = max(places.values(), default=date)
        place = _first(block, begin, lambda line, field=field: line.startswith(f"{field}: "))
        if place is None:
            raise ValueError(
                f"{name}, line {number + len(block) - 1}: the record from line {number} ends "
                f"without '{field}: ', at {block[-1]!r}"
            )
        found = pattern.match(block[place])
        if not found:
            raise ValueError(f"{name}, line {number + place}: not as expected: {block[place]!r}")
        places[field], fields[field] = place, found[1].strip()
    first = _first(block[: places["Citation"]], date + 1, _ANSWER.match)
    if first is None:
        raise ValueError(f"{name}, line {number + date}: a question without answer lines")
    text = " ".join(line.strip() for line in block[date + 1 : first] if line.strip())
    if not text:
        raise ValueError(f"{name}, line {number + date}: no question before {block[first]!r}")
    return {
        "id": fields["Question"],
        "study": fields["Study"],
        "citation": fields["Citation"],
        "sample": fields["Sample"],
        "sample_size": int(fields["Sample Size"]),
        "text": text,
        "answers": _answers(block[first : places["Citation"]]),
        "source": f"{name}:{number + date}",
    }


def _answers(lines: list[str]) -> list[tuple[str, int]]:
    groups = []
    for line in lines:
        if _ANSWER.match(line):
            groups.append([])
        groups[-1].append(line.strip())
    answers = []
    for group in groups:
        percent, text = _ANSWER.match(" ".join(part for part in group if part)).groups()
        answers.append((text.strip(), int(percent or 0)))
    return answers


def _first(lines: list[str], begin: int, test) -> int | None:
    return next((k for k in range(begin, len(lines)) if test(lines[k])), None)


def _n_options(records: list[dict]) -> int:
    return sum(len(record["answers"]) for record in records)


def _sample(ids: list[str], n: int | None, seed: int) -> set[str]:
    if n is None or n >= len(ids):
        return set(ids)
    return set(np.random.default_rng(seed).choice(sorted(ids), size=n, replace=False).tolist())


def _table(records: list[dict]) -> pd.DataFrame:
    rows = []
    for record in records:
        percent = np.array([p for _, p in record["answers"]], dtype=float)
        rows.append(
            {
                "question_id": f"roper-{record['id']}",
                "dataset": "roper",
                "subject": f"study {record['study']}",
                "text": record["text"],
                "choices": [text for text, _ in record["answers"]],
                "human_shares": percent / percent.sum(),
                "answer": None,
                "source": record["source"],
            }
        )
    return check_questions(pd.DataFrame(rows))
