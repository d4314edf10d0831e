import numpy as np
import pandas as pd
import pytest

from uqlib.artifacts import read_parquet
from uqlib.paths import data_folder
from uqlib.published import load_published, published_models
from uqlib.questions.common import shuffle_choices
from uqlib.questions.protoqa import load_protoqa
from uqlib.questions.sources import missing_files


@pytest.fixture
def folder(tmp_path):
    frame = pd.DataFrame(
        {
            "Question": ["Name something hot.", "Name something cold."],
            "Answers": [["tea", "sun", "soup"], ["ice", "snow"]],
            "Answer_Ratios": [[0.5, 0.3, 0.2], [0.6666, 0.3333]],
            "Response_Count": [10, 3],
        }
    )
    frame.to_parquet(tmp_path / "protoqa_data.parquet")
    return tmp_path


def test_rows_become_questions_in_the_order_of_the_file(folder):
    table, report = load_protoqa(folder)
    assert list(table.text) == ["Name something hot.", "Name something cold."]
    assert table.choices[0] == ["tea", "sun", "soup"]
    assert table.human_shares[1].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert report.to_numpy().tolist() == [["read", "questions", 2, 0]]


def test_a_bad_row_is_named(folder):
    file = folder / "protoqa_data.parquet"
    frame = pd.read_parquet(file)
    frame["Answer_Ratios"] = [[0.5, 0.3, 0.2], [0.6, 0.3]]
    frame.to_parquet(file)
    with pytest.raises(ValueError, match=r"from protoqa_data.parquet:2\): .*sum to 0.9"):
        load_protoqa(folder)


absent = pytest.mark.skipif(bool(missing_files("protoqa")), reason="ProtoQA is not at hand")


@absent
def test_the_real_file_is_sorted_by_popularity_and_the_shuffled_one_is_not():
    table, _ = load_protoqa(data_folder() / "published/protoqa")
    assert len(table) == 8724 and table.question_id.is_unique
    assert table.choices.map(len).agg(["min", "max"]).tolist() == [2, 9]
    assert all((np.diff(shares) <= 1e-12).all() for shares in table.human_shares)
    shuffled = shuffle_choices(table, 0)
    first = [shares.argmax() == 0 for shares in shuffled.human_shares]
    chance = (1 / table.choices.map(len)).mean()
    assert abs(np.mean(first) - chance) < 0.03
    assert list(shuffled.question_id) == list(table.question_id)


@absent
def test_published_outputs_join_row_by_row():
    folder = data_folder() / "published/protoqa"
    table, _ = load_protoqa(folder)
    model = published_models(folder)[2]
    outputs = load_published(folder, model, table)
    assert list(outputs.question_id) == list(table.question_id)
    assert (outputs.n_choices == table.choices.map(len)).all()
    raw = read_parquet(folder / f"protoqa_{model}.parquet")["Answer_Ratios"]
    for asked, shares in zip(raw, table.human_shares, strict=True):
        np.testing.assert_allclose(asked, shares, atol=1e-3)
