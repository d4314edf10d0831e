import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tokenizer

from uqlib import collect as collection
from uqlib.artifacts import read_manifest, read_parquet
from uqlib.collect import (
    choice_log_probs,
    collect,
    collect_to_file,
    part_of_plan,
    plan_collection,
)
from uqlib.dropout import attention_dropout, row_seed
from uqlib.forward import computed_tokens, plan_batches
from uqlib.measures import MEASURES, choice_entropy, vocabulary_measures
from uqlib.models import encode_prompts, option_tokens
from uqlib.prompts import render
from uqlib.responses import merge_parts


def plain_row(model, row):
    """One question, no padding, all logits, float64 softmax: what collection must equal."""
    prompt = render(row.text, row.choices, row.labels)
    ids = torch.tensor(encode_prompts(model.tokenizer, [prompt]))
    with torch.no_grad():
        log_probs = model.network(ids).logits[0, -1].double().log_softmax(-1)
    tokens = option_tokens(model.tokenizer, prompt, row.labels)
    choice = log_probs[[t for (t,) in tokens]]
    measures = {k: v.item() for k, v in vocabulary_measures(log_probs[None]).items()}
    return choice.numpy(), measures | {"choice_entropy": choice_entropy(choice).item()}


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
def test_batches_equal_single_unpadded_passes(model, questions, batch_tokens):
    responses = collect(model, questions, batch_tokens=batch_tokens)
    assert list(responses.question_id) == list(questions.question_id)
    for row, response in zip(questions.itertuples(), responses.itertuples(), strict=True):
        choice, measures = plain_row(model, row)
        np.testing.assert_allclose(response.choice_log_probs, choice, atol=1e-5)
        assert response.option_mass == pytest.approx(np.exp(choice).sum(), abs=1e-5)
        assert response.predicted == choice.argmax()
        for name in MEASURES:
            assert getattr(response, name) == pytest.approx(measures[name], abs=1e-5), name


def test_one_prompt_for_each_option_when_asked_counterfactually(loaded_model, questions):
    tokenizer = make_tokenizer(words=" Yes No")
    network = deepcopy(loaded_model.network)
    network.resize_token_embeddings(len(tokenizer))
    asked = replace(loaded_model, network=network, tokenizer=tokenizer)
    plan = plan_collection(asked, questions, "counterfactual", condition="counterfactual")
    responses = collection.run_plan(asked, plan)
    assert list(responses.question_id[:2]) == [f"{questions.question_id[0]}#{k}" for k in (0, 1)]
    assert len(responses) == sum(map(len, questions.choices))
    assert set(responses.condition) == {"counterfactual"} and set(responses.n_choices) == {2}
    assert plan.manifest["questions"] == plan_collection(asked, questions).manifest["questions"]
    for i, prompt in list(enumerate(plan.prompts))[:3]:
        with torch.no_grad():
            log_probs = network(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        yes = plan.options[i][0]
        assert responses.choice_log_probs[i][0] == pytest.approx(log_probs[yes].item(), abs=1e-5)
    assert computed_tokens(plan.prompts, plan.batches) < sum(map(len, plan.prompts))
    whole = plan_batches(plan.prompts, 512, share_prefixes=False)
    alone = collection.run_plan(asked, replace(plan, batches=whole))
    for shared, plain in zip(responses.choice_log_probs, alone.choice_log_probs, strict=True):
        np.testing.assert_allclose(shared, plain, atol=1e-5)


def test_the_order_of_questions_does_not_matter(model, questions):
    a = collect(model, questions).set_index("question_id")
    b = collect(model, questions[::-1].reset_index(drop=True)).set_index("question_id")
    for name in MEASURES:
        np.testing.assert_allclose(a[name], b.loc[a.index, name], atol=1e-5)


def test_spellings_of_a_label_add_up():
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    (row,) = choice_log_probs(p.log(), [[[0, 3], [2]]])
    np.testing.assert_allclose(np.exp(row), [0.5, 0.3], rtol=1e-6)


def test_the_first_of_tied_options_is_predicted(model, questions):
    # Zero weights make all logits equal.
    flat = torch.nn.Module.state_dict(model.network)["lm_head.weight"].clone()
    model.network.lm_head.weight.data.zero_()
    try:
        assert set(collect(model, questions).predicted) == {0}
    finally:
        model.network.lm_head.weight.data.copy_(flat)


def test_prompts_longer_than_the_context_are_an_error_or_listed(model, questions):
    long = questions.copy()
    long.at[1, "text"] = "why " * 300
    with pytest.raises(ValueError, match=rf"1 of 4 prompts .* 256 tokens .*{long.question_id[1]}"):
        plan_collection(model, long)
    plan = plan_collection(model, long, overlength="skip")
    assert list(plan.skipped.question_id) == [long.question_id[1]]
    assert list(plan.questions.question_id) == list(long.question_id.drop(1))
    with pytest.raises(ValueError, match="known: error, skip"):
        plan_collection(model, long, overlength="truncate")


def test_logits_that_are_not_finite_name_model_and_question(model, questions, monkeypatch):
    real = model.network.forward
    calls = []

    def broken(*args, **kwargs):
        output = real(*args, **kwargs)
        calls.append(output.logits[-1, -1, 5].fill_(torch.nan))
        return output

    monkeypatch.setattr(model.network, "forward", broken)
    shortest = questions.question_id[3]
    with pytest.raises(ValueError, match=f"tiny, question {shortest}: NaN or infinite logits"):
        collect(model, questions[3:].reset_index(drop=True))


def test_no_questions_is_an_error(model, questions):
    with pytest.raises(ValueError, match="no questions"):
        plan_collection(model, questions[:0])


def many(questions, copies=30):
    rows = [
        questions.assign(
            question_id=questions.question_id + f"/{i}", text=f"{i}, " + questions.text
        )
        for i in range(copies)
    ]
    return pd.concat(rows, ignore_index=True)


def test_an_interrupted_run_ends_in_the_same_bytes(model, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "BATCHES_PER_SHARD", 2)
    plan = plan_collection(model, many(questions), batch_tokens=200)
    whole, stopped = tmp_path / "whole/demo.parquet", tmp_path / "stopped/demo.parquet"
    collect_to_file(model, plan, whole)

    real, calls = collection.next_token_log_probs, []

    def stop_at_seventh(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(collection, "next_token_log_probs", stop_at_seventh)
    with pytest.raises(KeyboardInterrupt):
        collect_to_file(model, plan, stopped)
    assert not stopped.exists()
    shards = sorted((stopped.parent / ".shards").rglob("*.parquet"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:100])

    calls.clear()
    monkeypatch.setattr(collection, "next_token_log_probs", lambda *a: calls.append(1) or real(*a))
    collect_to_file(model, plan, stopped)
    assert stopped.read_bytes() == whole.read_bytes()
    assert len(plan.batches) > 8
    assert len(calls) == len(plan.batches) - 4  # two whole shards of two batches are kept
    assert not (stopped.parent / ".shards").exists()


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_merge_to_the_bytes_of_one_job(model, questions, tmp_path, parts):
    long = many(questions)
    long.at[1, "text"] = "why " * 300
    plan = plan_collection(model, long, batch_tokens=200, overlength="skip")
    whole, merged = tmp_path / "whole/demo.parquet", tmp_path / "demo.parquet"
    run = collect_to_file(model, plan, whole)
    files = []
    for number in range(1, parts + 1):
        again = plan_collection(model, long, batch_tokens=200, overlength="skip")
        files.append(tmp_path / f"parts/demo.part-{number}-of-{parts}.parquet")
        collect_to_file(model, part_of_plan(again, f"{number}/{parts}"), files[-1])
    merge_parts(files[::-1], merged)
    assert merged.read_bytes() == whole.read_bytes()
    joined = json.loads((tmp_path / "demo.parquet.run.json").read_text())
    assert joined["prompts"] == run["prompts"] == len(long) - 1
    assert joined["prompt_tokens"] == run["prompt_tokens"] and joined["parts"] == parts
    skipped = [(f.parent / f"{f.name}.skipped.csv").read_text() for f in (whole, merged)]
    assert skipped[0] == skipped[1]
    sizes = [len(read_parquet(file)) for file in files]
    assert sum(sizes) == len(long) - 1 and min(sizes) > 0


def test_parts_under_dropout_merge_as_well(model, questions, tmp_path):
    settings = {"dropout_rate": 0.2, "n_passes": 3, "batch_tokens": 200, "seed": 5}
    plan = plan_collection(model, many(questions, 4), **settings)
    collect_to_file(model, plan, tmp_path / "whole.parquet")
    files = [tmp_path / f"part-{k}.parquet" for k in (1, 2)]
    for number, file in enumerate(files, start=1):
        collect_to_file(model, part_of_plan(plan, f"{number}/2"), file)
    merge_parts(files, tmp_path / "merged.parquet")
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_that_do_not_make_a_whole_are_refused(model, questions, tmp_path):
    plan = plan_collection(model, many(questions, 4), batch_tokens=200)
    other = plan_collection(model, many(questions, 4), batch_tokens=200, seed=1)
    files = [tmp_path / f"{k}.parquet" for k in range(4)]
    for file, which, part in zip(files, [plan, plan, other], ["1/2", "2/2", "2/2"], strict=False):
        collect_to_file(model, part_of_plan(which, part), file)
    collect_to_file(model, plan, files[3])
    with pytest.raises(ValueError, match=r"merged.parquet: parts 1/2 of 2"):
        merge_parts(files[:1], tmp_path / "merged.parquet")
    with pytest.raises(ValueError, match=r"parts 1/2, 1/2 of 2"):
        merge_parts([files[0], files[0]], tmp_path / "merged.parquet")
    with pytest.raises(ValueError, match=r"2.parquet is of other work: seed: 1 instead of 0"):
        merge_parts([files[0], files[2]], tmp_path / "merged.parquet")
    with pytest.raises(ValueError, match=r"3.parquet is no part"):
        merge_parts([files[0], files[3]], tmp_path / "merged.parquet")
    for part in ("0/2", "3/2", "2", "a/b", "1/2/3"):
        with pytest.raises(ValueError, match="part must be k/n"):
            part_of_plan(plan, part)
    with pytest.raises(ValueError, match="batches: take fewer"):
        part_of_plan(plan, f"1/{len(plan.batches) + 1}")


def test_a_finished_file_is_kept_and_other_work_is_refused(model, questions, tmp_path):
    path = tmp_path / "demo.parquet"
    plan = plan_collection(model, questions)
    first = collect_to_file(model, plan, path)
    assert collect_to_file(model, plan, path) == first
    written = path.read_bytes()
    reworded = questions.assign(text=questions.text + "!")
    for asked, table, settings, message in [
        (model, questions, {"label_style": "bare"}, "label_style: space instead of bare"),
        (
            model,
            questions,
            {"prompt_style": "few_shot"},
            "prompt_style: survey instead of few_shot",
        ),
        (model, reworded, {}, "questions: "),
        (foreign(model, "weights", "others"), questions, {}, "weights: .* instead of others"),
        (foreign(model, "dtype", "bfloat16"), questions, {}, "dtype: .* instead of bfloat16"),
        (foreign(model, "tokenizer", "t"), questions, {}, "tokenizer: .* instead of t"),
    ]:
        with pytest.raises(ValueError, match=f"demo.parquet holds other work .*{message}"):
            collect_to_file(asked, plan_collection(asked, table, **settings), path)
    assert path.read_bytes() == written


def test_shards_of_other_work_are_never_used(model, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "BATCHES_PER_SHARD", 1)
    path = tmp_path / "demo.parquet"
    real = collection.write_parquet

    def full(frame, target, *rest):
        if "shard-00002" in str(target):
            raise OSError(28, "No space left on device")
        real(frame, target, *rest)

    monkeypatch.setattr(collection, "write_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        collect_to_file(model, plan_collection(model, questions, batch_tokens=1), path)
    (folder,) = (tmp_path / ".shards").iterdir()
    kept = {shard.name: shard.read_bytes() for shard in folder.glob("*.parquet")}
    assert len(kept) == 2

    # The other work's folder is given the first one's shards.
    monkeypatch.setattr(collection, "write_parquet", real)
    plan = plan_collection(model, questions, label_style="bare", batch_tokens=1)
    monkeypatch.setattr(collection, "sha256_of", lambda text: folder.name.split("-")[1])
    collect_to_file(model, plan, path)
    expected = collect(model, questions, label_style="bare", batch_tokens=1)
    for found, right in zip(
        read_parquet(path).choice_log_probs, expected.choice_log_probs, strict=True
    ):
        np.testing.assert_allclose(found, right, atol=1e-6)


def foreign(model, key, value):
    return replace(model, identity=model.identity | {key: value})


def test_file_manifest_and_report(model, questions, tmp_path):
    long = questions.copy()
    long.at[1, "text"] = "why " * 300
    path = tmp_path / "demo.parquet"
    plan = plan_collection(model, long, overlength="skip", seed=3)
    collect_to_file(model, plan, path)
    manifest = read_manifest(path)
    assert manifest["seed"] == 3 and manifest["weights"] == "random, seed 0"
    assert len(pd.read_csv(tmp_path / "demo.parquet.skipped.csv")) == 1
    assert json.loads((tmp_path / "demo.parquet.run.json").read_text())["prompts"] == 3
    assert list(read_parquet(path).question_id) == list(plan.questions.question_id)


def test_a_full_disk_leaves_no_file(model, questions, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uqlib.artifacts.pq.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        collect_to_file(model, plan_collection(model, questions), tmp_path / "demo.parquet")
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {".lock"}


def test_out_of_memory_halves_the_batch_and_changes_nothing(model, questions, monkeypatch, capsys):
    expected = collect(model, questions)
    real, sizes = collection.next_token_log_probs, []

    def small(network, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return real(network, prompts, *rest)

    monkeypatch.setattr(collection, "next_token_log_probs", small)
    halved = collect(model, questions)
    assert max(sizes) > 2 and sizes.count(1) == len(questions)
    for name in MEASURES:
        np.testing.assert_allclose(halved[name], expected[name], atol=1e-5)
    assert "out of memory with" in capsys.readouterr().err


def test_memory_that_does_not_suffice_for_one_prompt_is_an_error(model, questions, monkeypatch):
    def none(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(collection, "next_token_log_probs", none)
    with pytest.raises(torch.OutOfMemoryError):
        collect(model, questions)


def test_two_writers_of_one_file_are_refused(model, questions, tmp_path, monkeypatch):
    path = tmp_path / "demo.parquet"
    plan = plan_collection(model, questions)
    real = collection.next_token_log_probs

    def intrude(*arguments):
        with pytest.raises(RuntimeError, match="another process is at work"):
            collect_to_file(model, plan, path)
        return real(*arguments)

    monkeypatch.setattr(collection, "next_token_log_probs", intrude)
    collect_to_file(model, plan, path)
    assert path.exists()


def dropped(model, questions, **settings):
    return collect(model, questions, dropout_rate=0.2, n_passes=3, **settings)


def test_passes_are_rows_and_each_has_its_own_masks(model, questions):
    responses = dropped(model, questions)
    assert list(responses.pass_index) == [0] * 4 + [1] * 4 + [2] * 4
    assert list(responses.question_id) == 3 * list(questions.question_id)
    assert set(responses.condition) == {"dropout=0.2"}
    assert np.allclose(responses.dropout_rate, 0.2)
    plain = collect(model, questions)
    for _, part in responses.groupby("question_id"):
        assert part.total_entropy.nunique() == 3
    assert not np.isin(responses.total_entropy, plain.total_entropy).any()
    assert set(plain.dropout_rate) == {0} and set(plain.pass_index) == {0}


def test_masks_follow_the_question_and_the_pass_and_nothing_else(model, questions):
    whole = dropped(model, questions).set_index(["question_id", "pass_index"])
    alone = dropped(model, questions[2:3].reset_index(drop=True), batch_tokens=1)
    for row in alone.itertuples():
        np.testing.assert_allclose(
            row.choice_log_probs,
            whole.loc[(row.question_id, row.pass_index)].choice_log_probs,
            atol=1e-5,
        )
    fewer = collect(model, questions, dropout_rate=0.2, n_passes=1)
    np.testing.assert_allclose(fewer.total_entropy, whole.total_entropy[:4], atol=1e-5)
    other = dropped(model, questions, seed=1)
    assert (np.abs(other.total_entropy.to_numpy() - whole.total_entropy.to_numpy()) > 1e-6).all()


def test_a_row_under_dropout_is_the_networks_own_pass_with_those_masks(model, questions):
    row = dropped(model, questions, seed=3).iloc[5]
    question = questions.iloc[1]
    prompt = render(question.text, question.choices, question.labels)
    ids = torch.tensor(encode_prompts(model.tokenizer, [prompt]))
    seed = row_seed(3, "demo", question.question_id, 1)
    with torch.no_grad(), attention_dropout(model.network, 0.2, seed=seed):
        log_probs = model.network(ids).logits[0, -1].log_softmax(-1)
    tokens = option_tokens(model.tokenizer, prompt, question.labels)
    expected = log_probs[[t for (t,) in tokens]]
    np.testing.assert_allclose(row.choice_log_probs, expected, atol=1e-5)


def test_no_beginning_is_shared_under_dropout(model, questions):
    assert plan_collection(model, many(questions)).batches[0].shared > 0
    plan = plan_collection(model, many(questions), dropout_rate=0.1, n_passes=2)
    assert {batch.shared for batch in plan.batches} == {0}
    assert len(plan.prompts) == 2 * len(many(questions))


def test_an_interrupted_run_under_dropout_ends_in_the_same_bytes(
    model, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(collection, "BATCHES_PER_SHARD", 2)
    settings = {"dropout_rate": 0.1, "n_passes": 2, "batch_tokens": 300}
    plan = plan_collection(model, many(questions, copies=10), **settings)
    whole, stopped = tmp_path / "whole/demo.parquet", tmp_path / "stopped/demo.parquet"
    collect_to_file(model, plan, whole)
    real, calls = collection.next_token_log_probs, []

    def stop_at_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(collection, "next_token_log_probs", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        collect_to_file(model, plan, stopped)
    monkeypatch.setattr(collection, "next_token_log_probs", real)
    collect_to_file(model, plan, stopped)
    assert stopped.read_bytes() == whole.read_bytes()
    assert read_manifest(whole)["dropout_rate"] == 0.1
    with pytest.raises(ValueError, match="n_passes: 2 instead of 3"):
        settings["n_passes"] = 3
        collect_to_file(
            model, plan_collection(model, many(questions, copies=10), **settings), whole
        )


def test_out_of_memory_keeps_each_rows_masks(model, questions, monkeypatch):
    expected = dropped(model, questions)
    real = collection.next_token_log_probs

    def small(network, prompts, *rest):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return real(network, prompts, *rest)

    monkeypatch.setattr(collection, "next_token_log_probs", small)
    halved = dropped(model, questions)
    np.testing.assert_allclose(halved.total_entropy, expected.total_entropy, atol=1e-5)


def test_passes_without_dropout_are_refused(model, questions):
    for settings in ({"n_passes": 2}, {"n_passes": 0, "dropout_rate": 0.1}):
        with pytest.raises(ValueError, match="one without dropout, at least one with it"):
            plan_collection(model, questions, **settings)
    with pytest.raises(ValueError, match=r"\[0, 1\), not 1"):
        plan_collection(model, questions, dropout_rate=1.0)
