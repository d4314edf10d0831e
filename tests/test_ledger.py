import math

import pandas as pd
import pytest
import yaml

from uqlib.ledger import check_references, judge, ledger_table, read_claims
from uqlib.paths import ROOT

CONTROL = {
    "says": "a coin",
    "table": "nb/t.csv",
    "select": {"measure": "coin"},
    "column": "r",
    "rule": "at_least",
    "limit": 0.5,
}
UNTESTED = {
    "rule": "not_testable",
    "table": None,
    "select": None,
    "column": None,
    "tolerance": None,
    "if_met": None,
    "if_not": None,
    "needs": "the data",
}


def claim(**changes):
    return {
        "id": "X-1",
        "paper": "p2020",
        "section": "1",
        "statement": "s",
        "published": 0.5,
        "table": "nb/t.csv",
        "select": {"measure": "a"},
        "column": "r",
        "rule": "equals",
        "tolerance": 0.1,
        "if_met": "reproduced",
        "if_not": "not reproduced",
        "reason": "r",
        "chapter": "nb",
    } | changes


@pytest.fixture
def results(tmp_path):
    (tmp_path / "nb").mkdir()
    measures = ["a", "b", "b", "c", "coin", "low"]
    table = pd.DataFrame({"measure": measures, "r": [0.55, 0.1, 0.2, math.nan, 0.6, 0.1]})
    table.to_csv(tmp_path / "nb/t.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reproduced"),
        ({"tolerance": 0.01}, "not reproduced"),
        ({"rule": "at_least", "published": 0.6, "tolerance": 0}, "not reproduced"),
        ({"rule": "at_least", "published": 0.5, "if_met": "artefact"}, "artefact"),
        ({"rule": "at_most", "published": 0.5, "tolerance": 0}, "not reproduced"),
        ({"rule": "at_most", "published": 0.5, "tolerance": 0, "if_not": "refuted"}, "refuted"),
        (UNTESTED, "not testable here"),
        ({"table": "nb/absent.csv"}, "not testable here"),
    ],
)
def test_verdicts_follow_from_rule_and_value(results, changes, verdict):
    assert judge(claim(**changes), results)["verdict"] == verdict


@pytest.mark.parametrize(
    ("control", "value", "verdict"),
    [
        (CONTROL, 0.6, "artefact"),
        (CONTROL | {"select": {"measure": "low"}}, 0.1, "reproduced"),
        (CONTROL | {"select": {"measure": "low"}, "rule": "at_most"}, 0.1, "artefact"),
        (CONTROL | {"table": "nb/absent.csv"}, math.nan, "not testable here"),
        ({"says": "a coin"}, math.nan, "artefact"),
    ],
)
def test_an_artefact_needs_a_control_that_shows_it(results, control, value, verdict):
    judged = judge(claim(if_met="artefact", control=control), results)
    assert judged["verdict"] == verdict
    assert judged["control_value"] == pytest.approx(value, nan_ok=True)


def test_a_claim_that_fails_is_no_artefact_whatever_its_control_does(results):
    tested = claim(if_met="artefact", control=CONTROL, published=0.9)
    assert judge(tested, results)["verdict"] == "not reproduced"


@pytest.mark.parametrize("column", ["study", "dataset", "check"])
def test_a_claim_on_a_study_or_data_set_that_is_absent_is_not_testable(results, column):
    table = pd.DataFrame({column: ["zoo"], "measure": ["a"], "r": [0.5]})
    table.to_csv(results / "nb/t.csv", index=False)
    absent, present = ({column: value, "measure": "a"} for value in ("published", "zoo"))
    assert judge(claim(select=absent), results)["verdict"] == "not testable here"
    assert judge(claim(select=present), results)["verdict"] == "reproduced"
    with pytest.raises(ValueError, match="selects 0 rows"):
        judge(claim(select={column: "zoo", "measure": "typo"}), results)


def test_a_claim_must_select_one_value(results):
    with pytest.raises(ValueError, match=r"X-1: .* selects 2 rows"):
        judge(claim(select={"measure": "b"}), results)
    with pytest.raises(ValueError, match=r"X-1: the value in nb/t.csv is missing"):
        judge(claim(select={"measure": "c"}), results)
    with pytest.raises(ValueError, match=r"X-1: nb/t.csv has no column 'metric'"):
        judge(claim(select={"metric": "a"}), results)
    with pytest.raises(ValueError, match=r"X-1: nb/t.csv has no column 'rho'"):
        judge(claim(column="rho"), results)
    with pytest.raises(ValueError, match=r"X-1, control: .* selects 2 rows"):
        control = CONTROL | {"select": {"measure": "b"}}
        judge(claim(if_met="artefact", control=control), results)


def test_the_table_keeps_claim_value_control_and_what_would_test_it(results):
    absent = claim(id="X-3", table="nb/absent.csv", select={"study": "paper", "dataset": "mmlu"})
    claims = [claim(if_met="artefact", control=CONTROL), claim(id="X-2", **UNTESTED), absent]
    table = ledger_table(claims, results).set_index("id")
    assert table.ours["X-1"] == 0.55 and table.statement["X-1"] == "s"
    assert table["select"]["X-1"] == "measure = a"
    shown = table.loc["X-1", ["control", "control_rule", "control_limit", "control_value"]]
    assert list(shown) == ["a coin", "at_least", 0.5, 0.6]
    assert table.needs["X-2"] == "the data"
    assert table.needs["X-3"] == "A build with paper and mmlu."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "roughly"}, "unknown rule 'roughly'"),
        ({"if_met": "true"}, "unknown verdict 'true'"),
        ({"if_met": "not testable here"}, "unknown verdict 'not testable here'"),
        ({"if_not": "reproduced"}, "the verdict is 'reproduced' whatever the value"),
        ({"extra": 1}, r"unknown key\(s\) \['extra'\]"),
        ({"published": "half"}, "published must be a number, not 'half'"),
        ({"tolerance": None}, "tolerance must be a number, not None"),
        ({"statement": " "}, "statement must be a text, not ' '"),
        ({"section": 4.1}, "section must be a text, not 4.1"),
        ({"table": None}, "table must be chapter/file.csv, not None"),
        ({"table": "t.csv"}, "table must be chapter/file.csv, not 't.csv'"),
        ({"select": {}}, r"select {} and column 'r' must name one value"),
        ({"column": None}, "column None must name one value"),
        ({"select": {"study": "paper"}}, "needs must say what would test it"),
        (UNTESTED | {"needs": ""}, "needs must say what would test it"),
        (UNTESTED | {"table": "nb/t.csv"}, "table 'nb/t.csv' has no meaning"),
        (UNTESTED | {"reason": ""}, "reason must be a text, not ''"),
        ({"if_met": "artefact"}, "an artefact names its control"),
        ({"control": CONTROL}, "an artefact names its control"),
        ({"if_met": "artefact", "control": "a coin"}, "control must say what it is, not 'a coin'"),
        ({"if_met": "artefact", "control": {"says": "a", "limit": 1}}, r"unknown key\(s\).*rule"),
        (
            {"if_met": "artefact", "control": CONTROL | {"rule": "equals"}},
            "control rule 'equals' with limit 0.5",
        ),
        (
            {"if_met": "refuted", "if_not": "artefact", "control": CONTROL},
            "belongs to a claim that is an artefact if met",
        ),
    ],
)
def test_bad_claims_are_named(tmp_path, changes, message):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(id="X-0"), claim(**changes)]))
    with pytest.raises(ValueError, match=f"claims.yaml, row 2, claim X-1: .*{message}"):
        read_claims(path)


def test_good_claims_are_read_as_they_are(tmp_path):
    path = tmp_path / "claims.yaml"
    claims = [
        claim(),
        claim(id="X-2", **UNTESTED),
        claim(id="X-3", if_met="artefact", control=CONTROL),
        claim(id="X-4", if_not="artefact", control={"says": "a coin"}),
    ]
    path.write_text(yaml.safe_dump(claims))
    assert read_claims(path) == claims


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: [", r"(?s)claims.yaml is not YAML: .*line 1"),
        ("id: X-1", r"claims.yaml: expected a list of claims, found \{'id': 'X-1'\}"),
        ("- X-1", "claims.yaml, row 1: expected a mapping, found 'X-1'"),
    ],
)
def test_a_file_that_is_no_list_of_claims_is_named(tmp_path, text, message):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_claims(tmp_path / "claims.yaml")


def test_an_id_may_not_repeat(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(), claim()]))
    with pytest.raises(ValueError, match=r"row 2, claim X-1: the id occurs twice"):
        read_claims(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paper": "q2021"}, "references.bib lacks 'q2021'"),
        ({"chapter": "other"}, "nb/t.csv is not of chapter other"),
        ({"chapter": "gone", "table": "gone/t.csv"}, "there is no chapter 'gone'"),
        (UNTESTED | {"chapter": "gone"}, "there is no chapter 'gone'"),
        ({"table": "nb/u.csv"}, "chapter 'nb' writes no 'u.csv'"),
        ({"control": CONTROL | {"table": "nb/u.csv"}}, "chapter 'nb' writes no 'u.csv'"),
        ({"control": CONTROL | {"table": "gone/t.csv"}}, "there is no chapter 'gone'"),
    ],
)
def test_dangling_references_are_named(tmp_path, changes, message):
    (tmp_path / "nb.ipynb").write_text('{"t": 0}')
    (tmp_path / "references.bib").write_text("@misc{p2020,\n title = {{P}},\n}\n")
    check_references([claim(), claim(control=CONTROL)], tmp_path, tmp_path / "references.bib")
    with pytest.raises(ValueError, match=f"claim X-1: .*{message}"):
        check_references([claim(**changes)], tmp_path, tmp_path / "references.bib")


def test_the_books_claims_are_sound_and_refer_to_what_exists():
    claims = read_claims(ROOT / "book/claims.yaml")
    check_references(claims, ROOT / "notebooks", ROOT / "book/references.bib")
    assert len(claims) >= 240
    papers = {claim["paper"] for claim in claims}
    assert {"moore2025alignment", "kwon2025dropouts", "hiremath2026sua"} <= papers
    statements = [(claim["statement"], claim["section"]) for claim in claims]
    assert len(set(statements)) == len(statements)
    assert not any(claim["statement"].startswith("The same") for claim in claims)
