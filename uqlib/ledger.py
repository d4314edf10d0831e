"""The ledger: every claim of the papers, its value here, and the verdict that follows."""

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
RULES = ("equals", "at_least", "at_most", "not_testable")
VERDICTS = ("reproduced", "not reproduced", "artefact", "refuted", "not testable here")


def read_claims(path: Path) -> list[dict]:
    """Read and check the claims, a YAML list of mappings with the keys of `KEYS`.

    Raises
    ------
    ValueError
        If a claim lacks a key, has an unknown one, names an unknown rule or verdict, or repeats
        an id; the message names the claim.
    """
    claims = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    seen = set()
    for claim in claims:
        name = f"{display_path(path)}, claim {claim.get('id')}"
        if claim.keys() != KEYS:
            raise ValueError(f"{name}: missing or unknown key(s) {sorted(claim.keys() ^ KEYS)}")
        if claim["id"] in seen:
            raise ValueError(f"{name}: the id occurs twice")
        if claim["rule"] not in RULES:
            raise ValueError(f"{name}: unknown rule {claim['rule']!r}; known: {', '.join(RULES)}")
        for verdict in (claim["if_met"], claim["if_not"]):
            if verdict is not None and verdict not in VERDICTS:
                raise ValueError(f"{name}: unknown verdict {verdict!r}")
        seen.add(claim["id"])
    return claims


def judge(claim: dict, results: Path) -> dict:
    """Compare a claim with its value among the results of this build.

    Parameters
    ----------
    claim : dict
        From `read_claims`. The value is the only row of ``table`` that matches ``select``, in
        ``column``. The rule `equals` is met within ``tolerance`` of ``published``, `at_least` and
        `at_most` on its one side; the verdict is then ``if_met``, otherwise ``if_not``. Where the
        build lacks the study or the data set that is selected, the claim is not testable here.
    results : Path
        Folder of the result tables.

    Returns
    -------
    dict
        `ours` (float or NaN) and `verdict`.

    Raises
    ------
    ValueError
        If a claim selects no row or several; the message names it.
    """
    path = Path(results) / claim["table"] if claim["table"] else None
    if claim["rule"] == "not_testable" or not path.exists():
        return {"ours": np.nan, "verdict": "not testable here"}
    table = pd.read_csv(path)
    for column in {"study", "dataset"} & claim["select"].keys():
        if claim["select"][column] not in set(table[column]):
            return {"ours": np.nan, "verdict": "not testable here"}
    for column, value in claim["select"].items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise ValueError(f"claim {claim['id']}: {claim['select']} selects {len(table)} rows")
    ours = float(table[claim["column"]].iloc[0])
    if np.isnan(ours):
        raise ValueError(f"claim {claim['id']}: the value in {claim['table']} is missing")
    met = {
        "equals": abs(ours - claim["published"]) <= claim["tolerance"],
        "at_least": ours >= claim["published"] - claim["tolerance"],
        "at_most": ours <= claim["published"] + claim["tolerance"],
    }[claim["rule"]]
    return {"ours": ours, "verdict": claim["if_met"] if met else claim["if_not"]}


def ledger_table(claims: list[dict], results: Path) -> pd.DataFrame:
    """Judge every claim: one row each, the claim's keys and `ours` and `verdict`."""
    return pd.DataFrame([claim | judge(claim, results) for claim in claims])
