import numpy as np
import pandas as pd
import pyreadstat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.paths import ROOT
from uqlib.questions.pew import load_pew, read_survey_list

LABELS = {1.0: "Tea", 2.0: "Coffee", 3.0: "None of these", 99.0: "Refused"}
TEXT = "TEA_W1. Which do you prefer?"


def sav(folder, answers, weights, labels=LABELS, text=TEXT, name="W1.sav", **options):
    frame = pd.DataFrame({"TEA": answers, "WEIGHT": weights})
    pyreadstat.write_sav(
        frame,
        str(folder / name),
        column_labels={"TEA": text} if text else None,
        variable_value_labels={"TEA": labels} if labels else None,
        **options,
    )
    return {"file": folder / name, "weight": "WEIGHT", "variables": ["TEA"]}


def left(report, unit):
    return dict(report[report.unit == unit][["step", "left"]].to_numpy())


def test_shares_are_weighted_and_refusals_left_out(tmp_path):
    survey = sav(tmp_path, [1, 1, 2, 3, 99, np.nan], [2.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    table, report = load_pew([survey])
    row = table.iloc[0]
    assert row.choices == ["Tea", "Coffee", "None of these"]
    assert row.human_shares.tolist() == [3 / 8, 4 / 8, 1 / 8]
    assert (row.question_id, row.text, row.source) == ("pew-W1-TEA", TEXT, "W1.sav:TEA")
    assert left(report, "answers") == {
        "read": 6,
        "missing answer": 5,
        "missing or zero weight": 5,
        "refusal": 4,
    }
    assert (report[report.unit == "questions"].left == 1).all()


def test_zero_and_missing_weights_are_left_out_and_counted(tmp_path):
    survey = sav(tmp_path, [1, 2, 2, 1], [1.0, 3.0, np.nan, 0.0])
    table, report = load_pew([survey])
    assert table.human_shares[0].tolist() == [0.25, 0.75, 0]
    assert report.set_index("step").dropped["missing or zero weight"] == 2


def test_a_question_without_any_weight_is_dropped(tmp_path):
    none = sav(tmp_path, [1, 2], [0.0, np.nan])
    some = sav(tmp_path, [1, 2], [1.0, 1.0], name="W2.sav")
    table, report = load_pew([none, some])
    assert list(table.question_id) == ["pew-W2-TEA"]
    assert left(report, "questions")["nobody's answer has weight"] == 1
    with pytest.raises(ValueError, match="none of the listed variables"):
        load_pew([none])


def test_codes_declared_missing_are_no_options(tmp_path):
    survey = sav(tmp_path, [1, 2, 98], [1.0, 1.0, 5.0], {**LABELS, 98.0: "Not asked"},
                 missing_ranges={"TEA": [98]})  # fmt: skip
    table, report = load_pew([survey])
    assert table.choices[0] == ["Tea", "Coffee", "None of these"]
    assert table.human_shares[0].tolist() == [0.5, 0.5, 0]
    assert report.set_index("step").dropped["missing answer"] == 1


@pytest.mark.parametrize(
    ("labels", "text", "step"),
    [
        (None, TEXT, "fewer than two options"),
        ({1.0: "Tea", 2.0: "Refused"}, TEXT, "fewer than two options"),
        (LABELS, None, "no text (variable label)"),
        ({float(k): f"Blend {k}" for k in range(1, 28)}, TEXT, "more than 26 options"),
    ],
)
def test_what_is_no_question_is_dropped_by_reason(tmp_path, labels, text, step):
    bad = sav(tmp_path, [1, 2, 1], [1.0] * 3, labels, text, name="bad.sav")
    good = sav(tmp_path, [1, 2, 1], [1.0] * 3)
    table, report = load_pew([bad, good])
    assert len(table) == 1
    assert report.set_index("step").dropped[step] == 1


def test_twenty_six_options_are_kept(tmp_path):
    labels = {float(k): f"Blend {k}" for k in range(1, 27)}
    table, _ = load_pew([sav(tmp_path, [1, 2], [1.0, 1.0], labels)])
    assert len(table.choices[0]) == 26


@pytest.mark.parametrize(
    ("answers", "weights", "message"),
    [
        ([1, 7, 2], [1.0] * 3, r"W1.sav, TEA, row 2: the code 7.0 has no label"),
        ([1, 2, 2], [1.0, 1.0, -1.0], r"W1.sav, row 3: WEIGHT is negative: -1.0"),
    ],
)
def test_bad_rows_are_named(tmp_path, answers, weights, message):
    with pytest.raises(ValueError, match=message):
        load_pew([sav(tmp_path, answers, weights)])


def test_absent_variables_and_files_are_named(tmp_path):
    survey = sav(tmp_path, [1, 2], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"W1.sav has no variable WEIGHT_W2, CAKE"):
        load_pew([survey | {"weight": "WEIGHT_W2", "variables": ["TEA", "CAKE"]}])
    with pytest.raises(ValueError, match=r"W9.sav is not in the data folder"):
        load_pew([survey | {"file": tmp_path / "W9.sav"}])


@pytest.mark.parametrize("keep", [0, 100])
def test_an_empty_or_truncated_file_is_refused(tmp_path, keep):
    survey = sav(tmp_path, [1, 2], [1.0, 1.0])
    survey["file"].write_bytes(survey["file"].read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"W1.sav cannot be read as an SPSS file"):
        load_pew([survey])


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 99]), st.floats(0, 10)), min_size=1, max_size=20)
)
def test_shares_match_a_plain_weighted_count(tmp_path_factory, people):
    answers, weights = zip(*[*people, (1, 1.0)], strict=True)
    table, _ = load_pew([sav(tmp_path_factory.mktemp("pew"), list(answers), list(weights))])
    total = [sum(w for a, w in zip(answers, weights, strict=True) if a == k) for k in (1, 2, 3)]
    np.testing.assert_allclose(table.human_shares[0], np.array(total) / sum(total), atol=1e-9)


def test_the_list_of_surveys(tmp_path, monkeypatch):
    monkeypatch.setenv("UQLIB_DATA", str(tmp_path))
    file = tmp_path / "pew.yaml"
    entry = {"file": "pew/W1.sav", "weight": "WEIGHT", "variables": ["TEA"]}
    file.write_text(yaml.safe_dump({"surveys": [entry]}))
    assert read_survey_list(file) == [entry | {"file": tmp_path / "pew/W1.sav"}]
    file.write_text(yaml.safe_dump({"surveys": [entry, {"file": "W2.sav"}]}))
    with pytest.raises(ValueError, match=r"pew.yaml, entry 2: needs file, variables, weight"):
        read_survey_list(file)


def test_the_list_in_the_configuration_is_empty():
    surveys = read_survey_list(ROOT / "config/sources/pew.yaml")
    assert surveys == []
    with pytest.raises(ValueError, match="the list of surveys is empty"):
        load_pew(surveys)
