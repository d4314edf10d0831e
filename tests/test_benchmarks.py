"""The benchmark that a graphics card waits for runs, small, on a processor."""

import importlib
import json

import pytest

from uqlib.paths import ROOT, data_folder
from uqlib.planning import measured_shares, parameters, shape_of, shape_of_config
from uqlib.questions.sources import missing_files


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_shapes_that_are_timed_are_those_of_the_models(benchmarks):
    shapes = benchmarks("shapes")
    named = {
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
        "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    }
    for name, model in named.items():
        timed = shape_of_config({"model_type": "llama", **shapes.SHAPES[name]})
        assert parameters(timed) == parameters(shape_of(model))


def test_speed_is_recorded_for_every_way_of_asking(benchmarks, tmp_path):
    folder = data_folder() / "tokenizers/smollm2-135m"
    if missing_files("mmlu") or missing_files("mmlu_dev") or not folder.exists():
        pytest.skip("MMLU or the tokenizer of SmolLM2 is not in the data folder")
    small = ["--questions", "4", "--seconds", "0.05", "--results", str(tmp_path)]
    benchmarks("speed").main(["--shapes", "llama-2m", *small])
    record = json.loads((tmp_path / "speed_cpu.json").read_text())
    runs = {run["way"]: run for run in record["runs"]}
    assert runs.keys() == {"0-shot", "5-shot", "dropout"}
    assert [run["prompts"] for run in runs.values()] == [4, 4, 8]
    assert runs["5-shot"]["tokens"] > 3 * runs["0-shot"]["tokens"]
    assert runs["dropout"]["computed"] >= runs["dropout"]["tokens"]
    shares = measured_shares(record)
    assert len(shares) == 3 and (shares.share > 0).all()


def test_shares_by_hand():
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 2, "vocab_size": 5}
    config |= {"intermediate_size": 3, "num_attention_heads": 1, "tie_word_embeddings": True}
    run = {"shape": "s", "way": "w", "prompts": 2, "tokens": 8, "computed": 6, "passes": 2}
    run |= {"seconds": 30.0, "products_per_second": 100.0}
    record = {"dtype": "float32", "bandwidth": 1e12, "configs": {"s": config}, "runs": [run]}
    weights = 4 * 2 * 2 + 3 * 2 * 3
    operations = 6 * (2 * weights + 4 * 2 * 4) + 2 * 2 * 2 * 5
    (row,) = measured_shares(record).itertuples()
    assert row.predicted == pytest.approx(operations / 100)
    assert row.share == pytest.approx(operations / 100 / 30)


def test_asking_about_each_option_is_recorded_with_and_without_sharing(benchmarks, tmp_path):
    folder = data_folder() / "tokenizers/smollm2-135m"
    if missing_files("mmlu") or missing_files("coane") or not folder.exists():
        pytest.skip("MMLU, the norms or the tokenizer of SmolLM2 are not in the data folder")
    small = ["--shapes", "llama-2m", "--questions", "3", "--rounds", "1"]
    benchmarks("counterfactual").main([*small, "--results", str(tmp_path)])
    record = json.loads((tmp_path / "counterfactual_cpu.json").read_text())
    runs = {(run["dataset"], run["way"], run["shared"]): run for run in record["runs"]}
    assert len(runs) == 8
    for dataset in ("coane", "mmlu"):
        whole, shared = (runs[dataset, "counterfactual", s] for s in (False, True))
        assert whole["prompts"] == 12 and whole["tokens"] == shared["tokens"]
        assert shared["computed"] < whole["tokens"] <= whole["computed"]
        assert shared["largest_difference"] < 1e-4
