import numpy as np
import pandas as pd
import pytest

from uqlib.measures import TOP_K, TOP_P
from uqlib.paths import data_folder
from uqlib.published import load_published, prompt_endings, published_models
from uqlib.questions.coane import load_coane
from uqlib.questions.protoqa import load_protoqa
from uqlib.questions.sources import missing_files


@pytest.fixture
def folder(tmp_path, questions):
    """Two files of the published form, written here: the norms and one model's outputs."""
    folder = tmp_path / "demo"
    folder.mkdir()
    pd.DataFrame({"Question": questions.text}).to_parquet(folder / "demo_data.parquet")
    log_probs = [
        np.log(np.full(len(c), 0.9 / len(c)) + 0.01 * (np.arange(len(c)) == 1))
        for c in questions.choices
    ]
    measures = {"mc_top-1-prob": np.log(0.5), "mc_total-ent": 0.3, "mc_choice-ent": 0.9}
    measures |= {f"mc_top-k-ent-{k}": 0.4 for k in TOP_K}
    for p in TOP_P:
        measures |= {f"mc_top-p-len-{p / 100:g}": 3, f"mc_top-p-ent-{p / 100:g}": 0.2}
    frame = pd.DataFrame(
        {
            "Question": questions.text,
            "Answers": questions.choices,
            "mc_choice-pdf": log_probs,
            "cloze_pred": "B",
            "formatted_question_mcqa": "Answer:{",
            **measures,
        }
    )
    frame.to_parquet(folder / "demo_One.parquet")
    return folder


def change(folder, **columns):
    path = folder / "demo_One.parquet"
    pd.read_parquet(path).assign(**columns).to_parquet(path)


def test_columns_become_measures(folder, questions):
    assert published_models(folder) == ["One"]
    table = load_published(folder, "One", questions)
    assert list(table.question_id) == list(questions.question_id)
    first = table.iloc[0]
    assert first.top1_probability == pytest.approx(0.5)
    assert (first.total_entropy, first.top_k_entropy_25, first.top_p_size_75) == (0.3, 0.4, 3)
    assert first.option_mass == pytest.approx(0.91)
    assert first.predicted == 1 and first.n_choices == 2
    assert prompt_endings(folder, "One").to_dict() == {"{": 4}


def test_typographic_quotes_do_not_matter(folder, questions):
    curly = questions.assign(text=["“Tea”?", *questions.text[1:]])
    change(folder, Question=['"Tea"?', *questions.text[1:]])
    assert len(load_published(folder, "One", curly)) == 4


def test_bad_rows_are_named(folder, questions):
    change(folder, cloze_pred=["B", "B", "A", "B"])
    with pytest.raises(ValueError, match=r"demo_One.parquet, row 3: A is not the likeliest"):
        load_published(folder, "One", questions)
    change(folder, cloze_pred="B", Question=["Tea?", "Other", *questions.text[2:]])
    with pytest.raises(ValueError, match=r"demo_One.parquet, row 2: 'Other' is not question"):
        load_published(folder, "One", questions)
    change(
        folder,
        Question=questions.text,
        **{"mc_choice-pdf": [[-0.1, -0.05, -3, -3][: len(c)] for c in questions.choices]},
    )
    with pytest.raises(ValueError, match=r"demo_One.parquet, row 1: the options sum to"):
        load_published(folder, "One", questions)


def test_missing_rows_are_an_error(folder, questions):
    with pytest.raises(ValueError, match="4 rows for 3 questions"):
        load_published(folder, "One", questions[:3])


@pytest.mark.skipif(bool(missing_files("coane")), reason="the norms are not in the data folder")
def test_all_thirty_real_files_are_imported():
    folder = data_folder() / "published/coane"
    table, _ = load_coane(folder)
    models = published_models(folder)
    assert (len(models), len(table)) == (30, 421)
    braces = [m for m in models if prompt_endings(folder, m).index[0] == "{"]
    assert len(braces) == 15 and all("Ins" in m or "Chat" in m for m in braces)
    for model in models[::10]:
        assert len(load_published(folder, model, table)) == 421


@pytest.mark.skipif(bool(missing_files("protoqa")), reason="ProtoQA is not in the data folder")
def test_the_ten_models_of_the_paper_are_imported():
    folder = data_folder() / "published/protoqa"
    table, _ = load_protoqa(folder)
    models = published_models(folder)
    assert (len(models), len(table)) == (10, 8724)
    assert sum(prompt_endings(folder, m).index[0] == "{" for m in models) == 5
    responses = load_published(folder, models[0], table)
    assert set(responses.n_choices) == set(range(2, 10))
