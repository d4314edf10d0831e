from copy import deepcopy

import numpy as np
import pandas as pd
import pytest

from uqlib import studies
from uqlib.artifacts import write_parquet
from uqlib.collect import collect, collect_to_file, plan_collection
from uqlib.models import load_model
from uqlib.questions.moral import CONJOINT_SCHEMA, moral_scenarios
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


@pytest.fixture
def dilemma_model(model, tmp_path):
    network = deepcopy(model.network)
    network.config.max_position_embeddings = 2048
    folder = tmp_path / "models" / "tiny"
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


def test_dilemmas_are_asked_plainly_and_under_dropout(dilemma_model):
    asked, conjoint = studies.dilemmas_under_dropout(
        "counterbalanced", 1, ["age"], [dilemma_model], [0.0, 0.2], passes=2, seed=3
    )
    assert set(conjoint.scenario_type) == {"age"} and len(conjoint) == 8
    by_rate = asked.groupby("dropout_rate").pass_index
    assert [sorted(set(passes)) for _, passes in by_rate] == [[0], [0, 1]]
    assert set(asked.question_id) == set(conjoint.question_id)
    assert set(asked.condition) == {"plain", "dropout=0.2"}
    again, _ = studies.dilemmas_under_dropout(
        "counterbalanced", 1, ["age"], [dilemma_model], [0.2], passes=2, seed=3
    )
    later = asked[asked.dropout_rate > 0]
    np.testing.assert_allclose(again.total_entropy, later.total_entropy, atol=1e-6)


def test_a_label_without_a_token_after_a_space_is_asked_bare(dilemma_model):
    table, _ = moral_scenarios(1, dimensions=["age"])
    assert studies.label_style(load_model(dilemma_model, device="cpu"), table) == "bare"


def test_dilemmas_of_a_study_are_read_with_their_scenarios(dilemma_model, tmp_path):
    asked = load_model(dilemma_model, device="cpu")
    for design in ("published", "counterbalanced"):
        table, conjoint = moral_scenarios(2, 0, design, ["age", "law"])
        place = tmp_path / f"questions/conjoint/moral_{design}.parquet"
        write_parquet(conjoint, place, {}, CONJOINT_SCHEMA)
        settings = {"prompt_style": "dilemma", "label_style": "bare"}
        for study, rate in (("mine", 0.0), ("blurred", 0.1)):
            plan = plan_collection(asked, table, dropout_rate=rate, **settings)
            ending = f"@{plan.manifest['condition']}" if rate else ""
            path = tmp_path / f"responses/{study}/tiny/moral_{design}{ending}.parquet"
            collect_to_file(asked, plan, path)
    folders = {"responses": str(tmp_path / "responses"), "questions": str(tmp_path / "questions")}
    answers, conjoint = studies.load_dilemmas("mine,blurred", **folders)
    assert set(answers.study) == {"mine"} and set(answers.condition) == {"plain"}
    assert set(conjoint) == {"moral_published", "moral_counterbalanced"}
    both, rows = studies.dilemmas_under_dropout(
        "published", 0, ["age"], [], [], 0, dropped="mine,blurred", **folders
    )
    assert sorted(both.dropout_rate.round(3).unique()) == [0, 0.1]
    assert set(rows.scenario_type) == {"age"} and len(both) == len(rows)
    with pytest.raises(ValueError, match="study nobody holds no answers to moral_published"):
        studies.dilemmas_under_dropout(
            "published", 0, ["age"], [], [], 0, dropped="nobody", **folders
        )


def test_the_reference_models_are_one_family_the_base_first():
    first, second, *special = studies.reference_models()
    assert (first, second) == ("zoo/llama-0.3m-base", "zoo/llama-0.3m-instruct")
    names = {name.removeprefix("zoo/llama-0.3m-") for name in special}
    assert names == {"overconfident", "position-biased"}
