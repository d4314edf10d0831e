import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from uqlib.questions.schema import LETTERS, check_questions, human_entropy, question_ids


def with_value(table, column, value, row=1):
    changed = table.copy()
    changed[column] = changed[column].astype(object)
    changed.at[row, column] = value
    return changed


@given(st.lists(st.integers(0, 50), min_size=2, max_size=9).filter(any))
def test_human_entropy_matches_scipy(counts):
    assert human_entropy([np.array(counts) / sum(counts)])[0] == pytest.approx(entropy(counts))


def test_missing_shares_give_missing_entropy():
    assert np.isnan(human_entropy([None])[0])
    assert human_entropy([]).shape == (0,)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("human_shares", [0.5, 0.2, 0.2], r"row 1 .*sum to 0.9, not to 1"),
        ("human_shares", [0.5, 0.5], r"row 1 .*2 human shares for 3 options"),
        ("human_shares", [1.2, -0.1, -0.1], r"row 1 .*finite and not negative"),
        ("human_shares", [np.nan, 0.5, 0.5], r"row 1 .*finite and not negative"),
        ("choices", ["one"], r"row 1 .*1 options; a question has 2 to 26"),
        ("choices", [str(i) for i in range(27)], r"row 1 .*27 options"),
        ("choices", ["a", " ", "c"], r"row 1 .*an option is empty"),
        ("labels", ["A", "A", "B"], r"row 1 .*3 different labels"),
        ("answer", 3, r"row 1 .*answer 3 is outside the 3 options"),
        ("text", "  ", r"row 1 .*text is '  '"),
        ("text", None, r"row 1 .*text"),
    ],
)
def test_a_bad_row_is_named(questions, column, value, message):
    with pytest.raises(ValueError, match=message):
        check_questions(with_value(questions, column, value))


def test_twenty_six_options_are_allowed(questions):
    table = with_value(questions, "choices", LETTERS)
    table = with_value(with_value(table, "labels", LETTERS), "human_shares", [1 / 26] * 26)
    assert len(check_questions(table).choices[1]) == 26


def test_a_repeated_id_and_a_missing_column_are_refused(questions):
    with pytest.raises(ValueError, match="question_id is"):
        check_questions(pd.concat([questions, questions[:1]]))
    with pytest.raises(ValueError, match="lacks the column"):
        check_questions(questions.drop(columns="text"))


def test_small_rounding_is_renormalised_and_counted(questions):
    table = check_questions(with_value(questions, "human_shares", [0.1, 0.2, 0.69]))
    assert table.human_shares[1].sum() == pytest.approx(1)
    assert table.attrs["renormalised"] == 1
    assert check_questions(questions).attrs["renormalised"] == 0


def test_ids_do_not_depend_on_the_order_of_rows_or_options(questions):
    shuffled = questions.sample(frac=1, random_state=1)
    shuffled["choices"] = [list(reversed(c)) for c in shuffled.choices]
    assert set(question_ids(shuffled)) == set(question_ids(questions))


def test_ids_of_questions_told_twice_do_not_depend_on_the_order_of_rows(questions):
    again = questions.iloc[[0, 0, 0]].reset_index(drop=True)
    again["human_shares"] = [[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]
    ids = dict(zip(map(tuple, again.human_shares), question_ids(again), strict=True))
    assert len(set(ids.values())) == 3
    turned = again[::-1]
    assert ids == dict(zip(map(tuple, turned.human_shares), question_ids(turned), strict=True))


def test_a_bad_row_names_its_place_in_the_file(questions):
    bad = with_value(questions, "source", "tea.csv:7")
    with pytest.raises(ValueError, match=r"row 1 \(.*, from tea.csv:7\): human shares sum to 0.9"):
        check_questions(with_value(bad, "human_shares", [0.5, 0.2, 0.2]))
