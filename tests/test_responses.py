import numpy as np
import pytest

from uqlib.artifacts import write_parquet
from uqlib.collect import collect
from uqlib.responses import SCHEMA, check_responses, join_questions, read_responses, response_path


@pytest.fixture
def responses(model, questions):
    return collect(model, questions)


def with_value(table, column, value, row=1):
    changed = table.copy()
    changed[column] = changed[column].astype(object)
    changed.at[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("column", "value"),
    [("option_mass", 1.2), ("choice_entropy", np.nan), ("total_entropy", -0.1), ("n_choices", 1)],
)
def test_a_value_out_of_range_names_model_and_question(responses, column, value):
    place = rf"tiny, question {responses.question_id[1]}: {column} is"
    with pytest.raises(ValueError, match=place):
        check_responses(with_value(responses, column, value))


def test_a_row_may_occur_once_and_no_column_may_be_missing(responses):
    with pytest.raises(ValueError, match=f"tiny, question {responses.question_id[0]}"):
        check_responses(responses.loc[[0, 1, 2, 0]])
    with pytest.raises(ValueError, match="lacks the column"):
        check_responses(responses.drop(columns="predicted"))


def test_studies_are_read_back_whole(responses, tmp_path):
    path = response_path(tmp_path, "zoo", "tiny", "demo")
    write_parquet(responses, path, {}, SCHEMA)
    read = read_responses(tmp_path, "zoo", "demo")
    assert list(read.question_id) == list(responses.question_id)
    np.testing.assert_array_equal(read.choice_entropy, responses.choice_entropy)
    assert read_responses(tmp_path, "other", "demo").empty


def test_a_truncated_file_is_named(responses, tmp_path):
    path = response_path(tmp_path, "zoo", "tiny", "demo")
    write_parquet(responses, path, {}, SCHEMA)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"demo\.parquet"):
        read_responses(tmp_path, "zoo", "demo")


def test_correct_is_prediction_equal_to_answer(responses, questions):
    joined = join_questions(responses, questions)
    expected = responses.predicted.to_numpy() == questions.answer.to_numpy()
    assert list(joined.correct) == list(expected)


def test_a_response_without_its_question_is_refused(responses, questions):
    with pytest.raises(ValueError, match=f"question {questions.question_id[0]} is not in"):
        join_questions(responses, questions[1:])
    shorter = questions.copy()
    shorter.at[1, "choices"] = ["ant", "cow"]
    with pytest.raises(ValueError, match="3 options answered"):
        join_questions(responses, shorter)
