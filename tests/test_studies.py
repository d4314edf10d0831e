import numpy as np
import pandas as pd
import pytest

from uqlib.artifacts import write_parquet
from uqlib.collect import collect
from uqlib.questions.schema import SCHEMA as QUESTIONS
from uqlib.responses import SCHEMA as RESPONSES
from uqlib.responses import response_path
from uqlib.studies import load_studies


@pytest.fixture
def folders(tmp_path, model, questions):
    """A build with a simulated study and a real one that was asked the same questions."""
    for study, source in (("zoo", "simulated"), ("mine", "a survey")):
        table = questions.assign(dataset=f"{study}_questions", source=source)
        path = tmp_path / "questions" / f"{study}_questions.parquet"
        write_parquet(table, path, {}, QUESTIONS)
        place = response_path(tmp_path / "responses", study, "tiny", f"{study}_questions")
        write_parquet(collect(model, table), place, {}, RESPONSES)
    return {"responses": str(tmp_path / "responses"), "questions": str(tmp_path / "questions")}


def test_studies_come_in_order_marked_as_simulated_or_real(folders):
    answers, sources = load_studies("zoo,mine", "human_shares", **folders)
    assert list(sources.study) == ["zoo", "mine"]
    assert list(sources.data) == ["simulated", "real"]
    assert list(sources.questions) == [4, 4]
    medians = answers.groupby("study").option_mass.median()
    assert list(sources["lowest option mass"]) == list(medians[["zoo", "mine"]])
    assert answers.groupby("study").data.first().to_dict() == {"zoo": "simulated", "mine": "real"}


def test_an_absent_study_is_named_as_absent(folders):
    _, sources = load_studies("zoo,published", "answer", **folders)
    assert sources.set_index("study").data["published"] == "absent"


def test_data_sets_can_be_left_out(folders):
    answers, sources = load_studies("zoo,mine", "human_shares", **folders, without="mine_questions")
    assert set(answers.dataset) == {"zoo_questions"}
    assert sources.set_index("study").data["mine"] == "absent"


def test_truth_must_be_known_first(folders):
    with pytest.raises(ValueError, match="none of the studies mine has simulated questions"):
        load_studies("mine", "answer", **folders)


def test_tables_that_lack_what_is_needed_are_left_out(folders, questions, tmp_path):
    table = questions.assign(dataset="zoo_questions", source="simulated")
    table["answer"] = pd.Series([np.nan] * 4).astype("Int64")
    write_parquet(table, tmp_path / "questions/zoo_questions.parquet", {}, QUESTIONS)
    with pytest.raises(ValueError, match="simulated questions with answer"):
        load_studies("zoo,mine", "answer", **folders)
