"""Shapes against transformers, times by hand, waiting by closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from uqlib import planning
from uqlib.models import load_tokenizer
from uqlib.paths import data_folder
from uqlib.planning import (
    architectures,
    collection_jobs,
    flops,
    parameters,
    planned_work,
    predicted_hours,
    question_sizes,
    roofline_seconds,
    shape_of_config,
    simulate_run,
)
from uqlib.prompts import render_questions
from uqlib.questions.moral import moral_scenarios
from uqlib.questions.world import evaluation_knowledge, evaluation_opinions

SHAPES = architectures().drop_duplicates(["type", "layers", "hidden", "vocabulary", "tied"])


@pytest.mark.parametrize("model", SHAPES.index)
def test_parameters_are_those_of_the_network_that_transformers_builds(model):
    shape = architectures().loc[model]
    config = AutoConfig.for_model(
        shape.type,
        num_hidden_layers=int(shape.layers),
        hidden_size=int(shape.hidden),
        intermediate_size=int(shape.inner),
        num_attention_heads=int(shape.heads),
        num_key_value_heads=int(shape.kv_heads),
        head_dim=int(shape.head_dim),
        vocab_size=int(shape.vocabulary),
        tie_word_embeddings=bool(shape.tied),
        pad_token_id=0,
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    count = sum(weight.numel() for weight in network.parameters())
    assert parameters(shape) == count
    assert parameters(shape_of_config(config.to_dict())) == count
    assert count <= shape.stored <= 1.3 * count


def test_models_of_the_table_have_the_sizes_their_cards_state():
    stated = {
        "HuggingFaceTB/SmolLM2-360M": 361_821_120,
        "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "mistralai/Mistral-7B-v0.1": 7_241_732_096,
        "google/gemma-7b-it": 8_537_680_896,
        "google/gemma-3-1b-it": 999_885_952,
        "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
        "Qwen/Qwen3-8B": 8_190_735_360,
    }
    table = architectures()
    assert {model: parameters(table.loc[model]) for model in stated} == stated


def test_prompts_are_as_long_as_the_table_says():
    folder = data_folder() / "tokenizers/smollm2-135m"
    if not folder.exists():
        pytest.skip("the tokenizer of SmolLM2 is not in the data folder")
    tokenizer = load_tokenizer(str(folder))
    made = {"world_opinions": evaluation_opinions(0), "world_knowledge": evaluation_knowledge(0)}
    for design in ("published", "counterbalanced"):
        number = 200 if design == "published" else 50
        made[f"moral_{design}"] = moral_scenarios(number, 0, design)[0]
    for name, table in made.items():
        style = "dilemma" if "moral" in name else "survey"
        lengths = [len(ids) for ids in tokenizer(render_questions(table, style)).input_ids]
        row = question_sizes().loc[name]
        assert row.questions == len(table)
        assert row.tokens == pytest.approx(np.mean(lengths), abs=1)
        assert row.options == pytest.approx(table.choices.map(len).mean(), abs=0.6)


TINY = {"type": "llama", "layers": 2, "hidden": 4, "inner": 8, "heads": 2, "kv_heads": 1}
TINY |= {"head_dim": 2, "vocabulary": 10, "tied": 1}


def test_operations_by_hand():
    weights = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8  # a layer: q, k and v, o, three of the MLP
    assert flops(TINY, tokens=3, prompts=1, length=0) == 3 * 2 * 2 * weights + 2 * 4 * 10
    assert flops(TINY, 3, 0, length=5) - flops(TINY, 3, 0, 0) == 3 * 2 * 4 * (2 * 2) * 5


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    arithmetic = {"flops": {4: 1.0}, "bandwidth": np.inf}
    assert roofline_seconds(TINY, 3, 1, 5, arithmetic, 4) == flops(TINY, 3, 1, 5)
    memory = {"flops": {4: np.inf}, "bandwidth": 1.0}
    one = roofline_seconds(TINY, 1, 0, 0, memory, 4)
    weights = 144
    activations = (4 + 4) + 2 * (4 + 2) + (4 + 4) + 3 * (4 + 8) + 4 * 4
    assert one == 2 * 4 * (weights + activations)
    both = {"flops": {4: 1.0}, "bandwidth": 1.0}
    assert (
        roofline_seconds(TINY, 3, 1, 5, both, 4)
        >= max(roofline_seconds(TINY, 3, 1, 5, machine, 4) for machine in (arithmetic, memory))
        - 1e-9
    )


def work(**changes):
    entry = {"models": ["HuggingFaceTB/SmolLM2-135M"], "questions": ["mmlu"], "settings": {}}
    notebooks = changes.pop("notebooks", {})
    return planned_work({"collect": {"s": entry | changes}, "notebooks": notebooks})


def test_planned_work_counts_passes_examples_limits_and_scenarios():
    row = work(settings={"dropout_rate": 0.1, "n_passes": 3, "limit": 100}).iloc[0]
    assert (row.prompts, row.tokens, row.computed) == (300, 300 * 138, 300 * 138)
    row = work(settings={"shots": 5}).iloc[0]
    assert (row.tokens, row.computed) == (14_042 * 138 * 6, 14_042 * 110)
    moral = ["moral_published", "moral_counterbalanced"]
    rows = work(questions=moral, notebooks={"12_moral_scenarios": {"per_dimension": 1000}})
    assert rows.prompts.tolist() == [9000, 9000]
    rows = work(questions=["world_opinions"], settings={"prompt_style": "counterfactual"})
    assert rows.prompts.tolist() == [7500]


def test_hours_grow_with_prompts_and_are_unknown_where_a_model_does_not_fit():
    few, many = (work(settings={"limit": n, "device": "cuda"}) for n in (100, 1000))
    np.testing.assert_allclose(predicted_hours(many, "A100"), 10 * predicted_hours(few, "A100"))
    np.testing.assert_allclose(predicted_hours(few, "A100", 0.2), 2 * predicted_hours(few, "A100"))
    large = work(models=["meta-llama/Llama-3.1-8B", "nobody/nothing"])
    assert np.isnan(predicted_hours(large, "laptop")).all()
    assert np.isfinite(predicted_hours(large, "A100")).tolist() == [True, False]


def test_jobs_download_a_model_once_and_leave_out_what_does_not_fit():
    models = ["HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B"]
    entry = {"models": models, "questions": ["mmlu", "coane"], "settings": {"device": "cuda"}}
    asked = planned_work({"collect": {"a": entry, "b": entry}, "notebooks": {}})
    jobs = collection_jobs(asked.assign(other=np.nan), "A100")
    assert jobs[["study", "model"]].to_numpy().tolist() == [[s, m] for s in "ab" for m in models]
    assert jobs.download.tolist() == [2 * 134_515_008, 2 * 8_030_261_248, 0, 0]
    assert jobs.load.tolist() == [4 * 134_515_008, 4 * 8_030_261_248] * 2
    assert jobs.seconds.sum() == pytest.approx(3600 * predicted_hours(asked, "A100").sum())
    assert set(collection_jobs(asked, "laptop").model) == {models[0]}


def test_many_passes_over_a_large_model_take_two_operations_a_weight_and_token():
    row = work(models=["meta-llama/Llama-3.1-8B"], settings={"dtype": "bfloat16"})
    hours = predicted_hours(row, "A100", share=1)[0]
    simple = 2 * 6.98e9 * row.computed[0] / 312e12 / 3600
    assert hours == pytest.approx(simple, rel=0.1)


def test_waiting_by_closed_forms():
    one = np.array([10.0])
    rates = {"start": 3, "hub_rate": 2.0, "disk_rate": 5.0}
    assert simulate_run(one, np.array([8.0]), np.array([20.0]), 1, **rates) == 3 + 4 + 4 + 10
    same = np.full(6, 10.0)
    downloads, loads = np.full(6, 8.0), np.full(6, 20.0)
    assert simulate_run(same, downloads, loads, 6, **rates) == pytest.approx(3 + 24 + 24 + 10)
    assert simulate_run(same, downloads, loads, 1, **rates) == pytest.approx(6 * 21)
    # One downloads 8 while another downloads 16: 8 s for both, then 4 s alone at the full rate.
    two = simulate_run(np.zeros(2), np.array([8.0, 16.0]), np.zeros(2), 2, **rates)
    assert two == pytest.approx(3 + 8 + 4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 100)] * 3), min_size=1, max_size=12), st.integers(1, 12))
def test_no_run_beats_its_bounds(jobs, workers):
    compute, download, load = np.array(jobs).T
    end = simulate_run(compute, download, load, workers, start=1, hub_rate=2, disk_rate=5)
    alone = 1 + download / 2 + load / 5 + compute
    slack = 1e-6 * (1 + alone.sum())
    assert end >= alone.max() - slack
    assert end >= max(download.sum() / 2, load.sum() / 5) - slack
    assert end >= (1 + compute).sum() / workers - slack
    assert end <= alone.sum() + slack


def test_access_is_told_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "get_token", lambda: None)
    assert planning.access("HuggingFaceTB/SmolLM2-135M") == "open"
    assert planning.access("google/gemma-2b-it") == "gated, no token"
    monkeypatch.setattr(planning, "get_token", lambda: "secret")
    assert planning.access("google/gemma-2b-it") == "gated, token set"
    assert planning.access(str(tmp_path)) == "folder"
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(planning, "_cached", lambda model: str(tmp_path / "config.json"))
    assert planning.access("google/gemma-2b-it") == "downloaded"


def test_what_is_measured_and_what_is_assumed_is_said():
    assert set(question_sizes().origin) == {"measured", "assumed"}
    assert pd.isna(planning.weight_bytes("nobody/nothing"))
    assert planning.weight_bytes("meta-llama/Llama-3.2-1B") == 2 * 1_235_814_400
    assert planning.weight_bytes("Qwen/Qwen3-0.6B") == 2 * 751_632_384
