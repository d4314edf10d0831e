"""The ledger: every claim of the papers, its value here, and the verdict that follows."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from uqlib.paths import display_path

KEYS = {
    "id",
    "paper",
    "section",
    "statement",
    "published",
    "table",
    "select",
    "column",
    "rule",
    "tolerance",
    "if_met",
    "if_not",
    "reason",
    "chapter",
}
OPTIONAL = {"control", "needs"}
CONTROL_KEYS = {"says", "table", "select", "column", "rule", "limit"}
COMPARISONS = ("equals", "at_least", "at_most")
RULES = (*COMPARISONS, "not_testable")
UNTESTED = "not testable here"
VERDICTS = ("reproduced", "not reproduced", "artefact", "refuted", UNTESTED)


def read_claims(path: Path) -> list[dict]:
    """Read and check the claims, a YAML list of mappings.

    A claim has the keys of `KEYS`. One that may become an *artefact* also has a ``control``: what
    it `says`, and, unless the claim's own value is that of the control, the `table`, `select` and
    `column` of the control's value with the `rule` and `limit` it has to meet. One that this book
    cannot test also has ``needs``, what would test it.

    Raises
    ------
    ValueError
        If the file is no such list, or a claim lacks a key, has an unknown one or a value that
        does not fit, or repeats an id; the message names file, row, claim and value.
    """
    shown = display_path(path)
    try:
        claims = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{shown} is not YAML: {error}") from error
    if not isinstance(claims, list):
        raise ValueError(f"{shown}: expected a list of claims, found {claims!r}")
    seen = set()
    for row, claim in enumerate(claims, start=1):
        if not isinstance(claim, dict):
            raise ValueError(f"{shown}, row {row}: expected a mapping, found {claim!r}")
        for problem in _problems(claim):
            raise ValueError(f"{shown}, row {row}, claim {claim.get('id')}: {problem}")
        if claim["id"] in seen:
            raise ValueError(f"{shown}, row {row}, claim {claim['id']}: the id occurs twice")
        seen.add(claim["id"])
    return claims


def check_references(claims: list[dict], notebooks: Path, bibliography: Path) -> None:
    """Check that chapters, tables and papers of claims exist.

    Parameters
    ----------
    claims : list of dict
        From `read_claims`.
    notebooks : Path
        Folder of the chapters. A table must stand in the claim's chapter, and that of a control
        in its own, and the chapter's code must name it.
    bibliography : Path
        BibTeX file whose keys are the papers.

    Raises
    ------
    ValueError
        Naming the claim and what is missing.
    """
    entries = Path(bibliography).read_text(encoding="utf-8")
    for claim in claims:
        place = f"claim {claim['id']}"
        if f"{{{claim['paper']}," not in entries:
            raise ValueError(f"{place}: {display_path(bibliography)} lacks {claim['paper']!r}")
        if claim["table"] and not claim["table"].startswith(f"{claim['chapter']}/"):
            raise ValueError(f"{place}: {claim['table']} is not of chapter {claim['chapter']}")
        tables = [claim["table"], claim.get("control", {}).get("table")]
        for folder, file in [(claim["chapter"], ""), *(t.split("/") for t in tables if t)]:
            notebook = Path(notebooks) / f"{folder}.ipynb"
            if not notebook.exists():
                raise ValueError(f"{place}: there is no chapter {folder!r}")
            if file.removesuffix(".csv") not in notebook.read_text(encoding="utf-8"):
                raise ValueError(f"{place}: chapter {folder!r} writes no {file!r}")


def judge(claim: dict, results: Path) -> dict:
    """Compare a claim with its value among the results of this build.

    Parameters
    ----------
    claim : dict
        From `read_claims`. The value is the only row of ``table`` that matches ``select``, in
        ``column``. The rule `equals` is met within ``tolerance`` of ``published``, `at_least` and
        `at_most` on its one side; the verdict is then ``if_met``, otherwise ``if_not``. An
        *artefact* whose control does not meet its own rule is *reproduced*. Where the build lacks
        the study, the data set or the check that is selected, the claim is not testable here.
    results : Path
        Folder of the result tables.

    Returns
    -------
    dict
        `ours` and `control_value` (float or NaN) and `verdict`.

    Raises
    ------
    ValueError
        If a claim selects no row or several, or a column is missing; the message names it.
    """
    nothing = {"ours": np.nan, "control_value": np.nan, "verdict": UNTESTED}
    if claim["rule"] == "not_testable":
        return nothing
    ours = _value(claim, claim["id"], results)
    if np.isnan(ours):
        return nothing
    met = _meets(ours, claim["rule"], claim["published"], claim["tolerance"])
    verdict = claim["if_met"] if met else claim["if_not"]
    control = claim.get("control") or {}
    value = np.nan
    if "table" in control:
        value = _value(control, f"{claim['id']}, control", results)
        if verdict == "artefact" and not _meets(value, control["rule"], control["limit"]):
            verdict = UNTESTED if np.isnan(value) else "reproduced"
    return {"ours": ours, "control_value": value, "verdict": verdict}


def ledger_table(claims: list[dict], results: Path) -> pd.DataFrame:
    """Judge every claim.

    Returns
    -------
    DataFrame
        One row each: the claim's keys, with ``select`` written out as ``column = value``, and
        `ours`, `verdict`, `control` (what it says), `control_rule`, `control_limit`,
        `control_value` and `needs`. A claim without its study or data set needs these.
    """
    return pd.DataFrame([_row(claim, judge(claim, results)) for claim in claims])


def _row(claim: dict, judged: dict) -> dict:
    select, control = claim["select"] or {}, claim.get("control") or {}
    parts = [str(select[k]) for k in ("study", "dataset") if k in select]
    absent = f"A build with {' and '.join(parts) or claim['table']}."
    return (
        claim
        | judged
        | {
            "select": "; ".join(f"{column} = {value}" for column, value in select.items()),
            "control": control.get("says"),
            "control_rule": control.get("rule"),
            "control_limit": control.get("limit", np.nan),
            "needs": claim.get("needs") or (absent if judged["verdict"] == UNTESTED else None),
        }
    )


def _value(place: dict, name: str, results: Path) -> float:
    path, select = Path(results) / place["table"], place["select"]
    if not path.exists():
        return np.nan
    table = pd.read_csv(path)
    for column in [*select, place["column"]]:
        if column not in table:
            raise ValueError(f"claim {name}: {place['table']} has no column {column!r}")
    for column in {"study", "dataset", "check"} & select.keys():
        if select[column] not in set(table[column]):
            return np.nan
    for column, value in select.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise ValueError(f"claim {name}: {select} selects {len(table)} rows of {place['table']}")
    value = float(table[place["column"]].iloc[0])
    if np.isnan(value):
        raise ValueError(f"claim {name}: the value in {place['table']} is missing")
    return value


def _meets(value: float, rule: str, published: float, tolerance: float = 0.0) -> bool:
    return {
        "equals": abs(value - published) <= tolerance,
        "at_least": value >= published - tolerance,
        "at_most": value <= published + tolerance,
    }[rule]


def _problems(claim: dict) -> Iterable[str]:
    keys = claim.keys() - OPTIONAL
    if keys != KEYS:
        yield f"missing or unknown key(s) {sorted(keys ^ KEYS)}"
        return
    if claim["rule"] not in RULES:
        yield f"unknown rule {claim['rule']!r}; known: {', '.join(RULES)}"
    for key in ("id", "paper", "section", "statement", "reason", "chapter"):
        if not (isinstance(claim[key], str) and claim[key].strip()):
            yield f"{key} must be a text, not {claim[key]!r}"
    verdicts = (claim["if_met"], claim["if_not"])
    if claim["rule"] == "not_testable":
        for key in ("table", "select", "column", "tolerance", "if_met", "if_not"):
            if claim[key] is not None:
                yield f"{key} {claim[key]!r} has no meaning in a claim that is not tested"
    else:
        yield from _place_problems(claim)
        for key in ("published", "tolerance"):
            if not isinstance(claim[key], int | float):
                yield f"{key} must be a number, not {claim[key]!r}"
        for verdict in verdicts:
            if verdict not in VERDICTS or verdict == UNTESTED:
                yield f"unknown verdict {verdict!r}"
        if verdicts[0] == verdicts[1]:
            yield f"the verdict is {verdicts[0]!r} whatever the value"
    study = (claim["select"] or {}).get("study")
    if (claim["rule"] == "not_testable" or study == "paper") and not claim.get("needs"):
        yield "needs must say what would test it"
    yield from _control_problems(claim.get("control"), verdicts)


def _control_problems(control, verdicts) -> Iterable[str]:
    if ("artefact" in verdicts) != (control is not None):
        yield f"verdicts {verdicts} with control {control!r}: an artefact names its control"
    elif control is None:
        return
    elif not (isinstance(control, dict) and isinstance(control.get("says"), str)):
        yield f"control must say what it is, not {control!r}"
    elif control.keys() == CONTROL_KEYS:
        yield from _place_problems(control)
        if verdicts[0] != "artefact":
            yield "a control with a table belongs to a claim that is an artefact if met"
        if control["rule"] not in COMPARISONS[1:] or not isinstance(control["limit"], int | float):
            yield f"control rule {control['rule']!r} with limit {control['limit']!r}"
    elif control.keys() != {"says"}:
        yield f"control: missing or unknown key(s) {sorted(control.keys() ^ CONTROL_KEYS)}"


def _place_problems(place: dict) -> Iterable[str]:
    table, select = place["table"], place["select"]
    if not (isinstance(table, str) and table.count("/") == 1 and table.endswith(".csv")):
        yield f"table must be chapter/file.csv, not {table!r}"
    if not (isinstance(select, dict) and select and isinstance(place["column"], str)):
        yield f"select {select!r} and column {place['column']!r} must name one value"
