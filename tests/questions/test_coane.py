import pandas as pd
import pytest

from uqlib.questions.coane import load_coane


def test_the_norms_name_an_answer_letter_outside_the_options(tmp_path):
    frame = pd.DataFrame(
        {
            "Question": ["Hot?"],
            "Answers": [["a", "b", "c", "d"]],
            "Answer_Ratios": [[0.25] * 4],
            "Correct_Answer": ["B"],
            "Correct_Answer_Text": ["b"],
        }
    )
    file = tmp_path / "coane_data.parquet"
    frame.to_parquet(file)
    assert load_coane(tmp_path)[0].answer[0] == 1
    for column, value, message in [
        ("Correct_Answer", "E", "coane_data.parquet:1: the answer must be A to D, not 'E'"),
        ("Correct_Answer", None, "coane_data.parquet:1: the answer must be A to D, not None"),
        ("Correct_Answer_Text", "c", "coane_data.parquet:1: 'b' is not 'c'"),
    ]:
        frame.assign(**{column: value}).astype({column: object}).to_parquet(file)
        with pytest.raises(ValueError, match=message):
            load_coane(tmp_path)
