import pandas as pd
import pytest
import yaml

from uqlib.ledger import judge, ledger_table, read_claims
from uqlib.paths import ROOT


def claim(**changes):
    return {
        "id": "X-1",
        "paper": "p",
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
        "reason": "",
        "chapter": "nb",
    } | changes


@pytest.fixture
def results(tmp_path):
    (tmp_path / "nb").mkdir()
    table = pd.DataFrame({"measure": ["a", "b", "b", "c"], "r": [0.55, 0.1, 0.2, float("nan")]})
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
        ({"rule": "not_testable"}, "not testable here"),
        ({"table": "nb/absent.csv"}, "not testable here"),
    ],
)
def test_verdicts_follow_from_rule_and_value(results, changes, verdict):
    assert judge(claim(**changes), results)["verdict"] == verdict


def test_a_claim_on_a_study_that_is_absent_is_not_testable(results):
    table = pd.DataFrame({"study": ["zoo"], "measure": ["a"], "r": [0.5]})
    table.to_csv(results / "nb/t.csv", index=False)
    absent, present = ({"study": study, "measure": "a"} for study in ("published", "zoo"))
    assert judge(claim(select=absent), results)["verdict"] == "not testable here"
    assert judge(claim(select=present), results)["verdict"] == "reproduced"
    with pytest.raises(ValueError, match="selects 0 rows"):
        judge(claim(select={"study": "zoo", "measure": "typo"}), results)


def test_a_claim_on_a_data_set_that_is_absent_is_not_testable(results):
    table = pd.DataFrame({"study": ["zoo"], "dataset": ["world"], "r": [0.5]})
    table.to_csv(results / "nb/t.csv", index=False)
    absent = {"study": "zoo", "dataset": "protoqa"}
    assert judge(claim(select=absent), results)["verdict"] == "not testable here"
    assert judge(claim(select=absent | {"dataset": "world"}), results)["verdict"] == "reproduced"


def test_a_claim_must_select_one_value(results):
    with pytest.raises(ValueError, match=r"X-1: .* selects 2 rows"):
        judge(claim(select={"measure": "b"}), results)
    with pytest.raises(ValueError, match=r"X-1: the value in nb/t.csv is missing"):
        judge(claim(select={"measure": "c"}), results)


def test_the_table_keeps_claim_and_value(results):
    table = ledger_table([claim()], results)
    assert table.ours[0] == 0.55 and table.statement[0] == "s"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "roughly"}, "unknown rule 'roughly'"),
        ({"if_met": "true"}, "unknown verdict 'true'"),
        ({"extra": 1}, r"unknown key\(s\) \['extra'\]"),
    ],
)
def test_bad_claims_are_named(tmp_path, changes, message):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(**changes)]))
    with pytest.raises(ValueError, match=f"X-1: .*{message}"):
        read_claims(path)


def test_an_id_may_not_repeat(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(), claim()]))
    with pytest.raises(ValueError, match="twice"):
        read_claims(path)


def test_the_books_claims_name_chapters_that_exist():
    for entry in read_claims(ROOT / "book/claims.yaml"):
        assert (ROOT / "notebooks" / f"{entry['chapter']}.ipynb").exists()
        if entry["table"]:
            assert entry["table"].startswith(entry["chapter"] + "/")
