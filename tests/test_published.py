import numpy as np
import pandas as pd
import pytest
import torch

from uqlib.measures import MEASURES, TOP_K, TOP_P
from uqlib.paths import data_folder
from uqlib.published import (
    compare_outputs,
    load_published,
    prompt_endings,
    published_dtype,
    published_models,
    published_prompts,
    shortest_dtype,
)
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


def test_the_prompts_that_were_sent_become_the_text_of_the_questions(folder, questions):
    prompts = [f"<s>{text}\nAnswer:" for text in questions.text]
    change(folder, formatted_question_mcqa=prompts)
    table = published_prompts(folder, "One", questions.set_index(questions.index + 5))
    assert list(table.text) == prompts
    assert list(table.question_id) == list(questions.question_id)
    with pytest.raises(ValueError, match=r"demo_One.parquet, row 1: "):
        published_prompts(folder, "One", questions[::-1])


def test_the_type_is_the_shortest_that_holds_every_value(folder):
    assert published_dtype(folder, "One") == "float32"
    rng = np.random.default_rng(0)
    wide = torch.tensor(rng.normal(-5, 2, 1000))
    for dtype in ("bfloat16", "float16", "float32"):
        rounded = wide.to(getattr(torch, dtype)).float().numpy()
        assert shortest_dtype([*rounded, -np.inf]) == dtype
    assert shortest_dtype([1e5 + 1]) == "float32"


def table_of(rng, n=50):
    names = [f"q{i}" for i in range(n)]
    frame = {name: rng.random(n) for name in ("option_mass", *MEASURES)}
    return pd.DataFrame({"question_id": names, "n_choices": 4, "predicted": 0, **frame})


def test_a_table_compared_with_itself_is_the_same_and_order_does_not_matter():
    ours = table_of(np.random.default_rng(0))
    table = compare_outputs(ours, ours[::-1]).set_index("measure")
    assert list(table.index) == ["option_mass", *MEASURES, "top_answer"]
    assert (table.within == 1).all() and (table.questions == 50).all()
    np.testing.assert_allclose(table.r[:-1], 1)
    np.testing.assert_allclose(table.difference[:-1], 0, atol=1e-15)


def test_each_difference_shows_in_its_own_number():
    rng = np.random.default_rng(1)
    theirs = table_of(rng)
    sizes = rng.integers(1000, 2000, 50).astype(float)
    theirs = theirs.assign(top_p_size_95=sizes, top_p_size_50=1.0)
    shift = np.where(np.arange(50) < 10, 0.02, 0.005)
    ours = theirs.assign(
        total_entropy=theirs.total_entropy + shift,
        choice_entropy=theirs.choice_entropy.to_numpy()[::-1],
        top_p_size_95=sizes * 1.009,
        predicted=[1] * 5 + [0] * 45,
    )
    table = compare_outputs(ours[:40], theirs).set_index("measure")
    row = table.loc["total_entropy"]
    assert row.within == 0.75 and row.difference == pytest.approx(0.02 / 4 + 0.005 * 3 / 4)
    assert table.r.choice_entropy == pytest.approx(
        np.corrcoef(theirs.choice_entropy[:40], theirs.choice_entropy[:9:-1])[0, 1]
    )
    assert table.within.top_p_size_95 == 1 and np.isnan(table.r.top_p_size_50)
    assert table.within.top_answer == 35 / 40 and table.questions.top_answer == 40


def test_questions_that_do_not_match_are_named():
    table = table_of(np.random.default_rng(0))
    with pytest.raises(ValueError, match="question q3 has 4 options here and nan there"):
        compare_outputs(table, table.drop(index=3))
    with pytest.raises(ValueError, match="question q3 has 4 options here and 5 there"):
        compare_outputs(table, table.assign(n_choices=[4] * 3 + [5] + [4] * 46))
    with pytest.raises(ValueError, match="question q3 occurs twice"):
        compare_outputs(pd.concat([table, table[3:4]]), table)


@pytest.mark.skipif(bool(missing_files("coane")), reason="the norms are not in the data folder")
def test_all_thirty_real_files_are_imported():
    folder = data_folder() / "published/coane"
    table, _ = load_coane(folder)
    models = published_models(folder)
    assert (len(models), len(table)) == (30, 421)
    braces = [m for m in models if prompt_endings(folder, m).index[0] == "{"]
    assert len(braces) == 15 and all("Ins" in m or "Chat" in m for m in braces)
    types = pd.Series([published_dtype(folder, m) for m in models], models)
    assert types.value_counts().to_dict() == {"bfloat16": 24, "float16": 4, "float32": 2}
    assert set(types.index[types == "float32"]) == {"Gemma2_2B", "Gemma2_9B"}
    assert all("Llama_2" in m for m in types.index[types == "float16"])
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
