import builtins
import copy
import dataclasses
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import approx_fprime
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, ttest_1samp
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaForCausalLM

from uqlib import sua_training
from uqlib.checkpoints import checkpoint_state, load_checkpoint
from uqlib.models import LanguageModel
from uqlib.questions.world import category_questions, knowledge_questions
from uqlib.sensitivity import collect_edits, edited_answers, perturb, sensitivity_table
from uqlib.sua_training import (
    TERMS,
    Item,
    add_lora,
    answer_items,
    compare_recipes,
    encode_items,
    fit_temperature,
    judge_answers,
    option_log_probs,
    recipes,
    score_judged,
    split_by_text,
    sua_terms,
    train_sua,
)

LOGITS = arrays(float, (5, 3), elements=st.floats(-3, 3))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    """Return a tiny model whose tokenizer knows numbers as labels."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(words=" 1 2 3 4 5 6")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LanguageModel("tiny", LlamaForCausalLM(config).eval(), tokenizer, {"model": "tiny"})


@pytest.fixture(scope="module")
def table():
    parts = [knowledge_questions(14, seed=5), category_questions(14, seed=5)]
    table = pd.concat(parts, ignore_index=True)
    return table[table["answer"].notna()].reset_index(drop=True)


@pytest.fixture(scope="module")
def items(model, table):
    return encode_items(model, table, k=2)


@pytest.fixture
def fresh(model):
    """Return a copy of the tiny model, the same each time."""
    return lambda: dataclasses.replace(model, network=copy.deepcopy(model.network))


def terms_of(logits, answer=1, entropy_weight=1.0):
    """Terms of one question: the first row is the question's, the others its edits'."""
    logits = torch.as_tensor(logits)
    answers = torch.tensor([answer])
    return sua_terms(logits[None, 0], logits[None, 1:], answers, entropy_weight)


def same_weights(a, b):
    return all(torch.equal(v, b.state_dict()[key]) for key, v in a.state_dict().items())


def last(trained):
    *_, log = trained
    return log


@settings(deadline=None)
@given(LOGITS, st.floats(0, 2))
def test_terms_by_value(logits, weight):
    p = softmax(logits, axis=-1)
    found = {name: float(value) for name, value in terms_of(logits, 1, weight).items()}
    kl = np.mean([entropy(p[0], q) for q in p[1:]])
    js = np.mean([entropy((p[0] + q) / 2) - (entropy(p[0]) + entropy(q)) / 2 for q in p[1:]])
    expected = {
        "task": -np.log(p[0, 1]),
        "consistency": kl,
        "alignment": max(js - weight * entropy(p[0]), 0),
        "entropy": entropy(p[0]),
        "edited": -np.log(p[1:, 1]).mean(),
        "worst": -np.log(p[1:, 1].min()),
    }
    assert found.keys() == set(TERMS)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_agree_with_finite_differences(name, seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(0, 2, (4, 3))
    start[0] = [6, 0, 0]  # sure, so that the positive part is not zero
    assert terms_of(start)["alignment"] > 0
    logits = torch.tensor(start, requires_grad=True)
    terms_of(logits)[name].backward()

    def value(flat):
        moved = flat.reshape(start.shape)
        if name == "consistency":  # the stopped side stays where it is
            fixed, q = softmax(start[0]), log_softmax(moved[1:], axis=-1)
            return float((fixed * (np.log(fixed) - q)).sum(-1).mean())
        return float(terms_of(moved)[name])

    expected = approx_fprime(start.ravel(), value, 1e-6)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logits.grad.numpy().ravel(), expected, atol=1e-5)


def test_the_stopped_gradient_stops_and_the_other_does_not():
    logits = torch.tensor([[2.0, 0, 1], [0, 1, 2], [3, 1, 0]], requires_grad=True)
    terms_of(logits)["consistency"].backward()
    assert (logits.grad[0] == 0).all() and (logits.grad[1:] != 0).all()
    logits.grad = None
    terms_of(logits, entropy_weight=0)["alignment"].backward()
    assert (logits.grad != 0).all()


def test_an_unsure_answer_has_no_alignment_term_and_no_gradient_from_it():
    logits = torch.tensor([[0.2, 0.0], [0.0, 0.3]], requires_grad=True)
    term = terms_of(logits)["alignment"]
    term.backward()
    assert term == 0 and (logits.grad == 0).all()


@settings(deadline=None)
@given(arrays(float, (2, 3, 2), elements=st.floats(-3, 3)))
def test_questions_with_fewer_options_count_as_if_alone(logits):
    pad = torch.full((2, 3, 1), -torch.inf)
    padded = torch.cat([torch.tensor(logits), pad], -1).requires_grad_()
    together = sua_terms(padded[:, 0], padded[:, 1:], torch.tensor([1, 0]))
    alone = [terms_of(logits[0], 1), terms_of(logits[1], 0)]
    for name in TERMS:
        assert together[name].item() == pytest.approx(np.mean([a[name].item() for a in alone]))
    sum(together.values()).backward()
    assert padded.grad.isfinite().all()


def test_terms_of_edits_are_left_out_without_edits():
    logits = torch.zeros(2, 3)
    found = sua_terms(logits, None, torch.tensor([0, 1]))
    assert found.keys() == {"task", "entropy"}
    assert found["task"] == pytest.approx(np.log(3))


def test_recipes_ablate_one_term_each():
    found = recipes(2, 0.3, 0.5)
    assert found["SUA-TR"] == {"task": 1, "consistency": 2, "alignment": 0.3}
    for term in found["SUA-TR"]:
        ablated = found[f"without {term}"]
        assert ablated.keys() == found["SUA-TR"].keys() - {term}
    assert found["entropy bonus"] == {"task": 1, "entropy": -0.15}
    assert all(weights.keys() <= set(TERMS) for weights in found.values())


def test_items_give_every_option_its_token_wherever_the_edit_put_it(model, table):
    asked, edits = perturb(table, 4)
    rendered = dict(zip(asked.question_id, asked.choices, strict=True))
    letters = model.tokenizer.convert_tokens_to_ids([f"Ġ{letter}" for letter in "ABCDEF"])
    for item, row in zip(encode_items(model, table, 4), table.itertuples(), strict=True):
        assert (item.question_id, item.answer) == (row.question_id, row.answer)
        assert item.labels[0] == letters[: len(row.choices)]
        mine = edits[edits.original_id == row.question_id].reset_index(drop=True)
        for k in mine.index[mine.edit == "order"]:
            shown = rendered[mine.question_id[k]]
            places = [shown.index(choice) for choice in row.choices]
            assert item.labels[k] == [letters[place] for place in places]


def test_answers_are_those_of_a_collection_put_back_in_order(model, items, table):
    asked, edits = perturb(table, 2)
    collected = edited_answers(collect_edits(model, asked, edits), edits)
    answers = answer_items(model, items, batch_size=7)
    for item, values in zip(items, answers, strict=True):
        mine = collected[collected.question_id == item.question_id]
        mine = mine.sort_values("edit", key=lambda edit: edit != "original", kind="stable")
        both = softmax(values, axis=-1), np.stack(mine.p.tolist())
        rank = [np.lexsort(p[1:].round(4).T) for p in both]
        np.testing.assert_allclose(both[0][0], both[1][0], atol=1e-5)
        np.testing.assert_allclose(both[0][1:][rank[0]], both[1][1:][rank[1]], atol=1e-5)
    found = judge_answers(answers, items).set_index("question_id")
    expected = sensitivity_table(collected).query("stratum == 'all'").set_index("question_id")
    pd.testing.assert_series_equal(
        found.js, expected.js[found.index], atol=1e-5, check_index_type=False
    )


def test_padding_and_company_change_no_answer(model, items):
    by_length = [pair for i in items for pair in zip(i.prompts, i.labels, strict=True)]
    by_length.sort(key=lambda pair: len(pair[0]))
    (short, few), (long, many) = by_length[0], by_length[-1]
    assert len(short) < len(long)
    together = option_log_probs(model.network, [short, long], [few, many])
    for row, prompt, labels in zip(together, (short, long), (few, many), strict=True):
        logits = model.network(input_ids=torch.tensor([prompt])).logits[0, -1]
        expected = logits.log_softmax(-1)[labels]
        torch.testing.assert_close(row[: len(labels)], expected, atol=1e-5, rtol=1e-5)
        assert (row[len(labels) :] == -torch.inf).all()


def test_zero_weights_are_plain_training(fresh, items):
    """Of the loop too: written out once more, without edits, with torch alone."""
    tuned, zeros, plain = fresh(), fresh(), fresh()
    last(train_sua(tuned, items, {"task": 1.0}, steps=5, batch_size=4))
    weights = {"task": 1.0, "consistency": 1e-38, "alignment": 0.0, "edited": 0.0}
    last(train_sua(zeros, items, weights, steps=5, batch_size=4))
    optimizer = torch.optim.AdamW(plain.network.parameters(), 1, (0.9, 0.98), weight_decay=0)
    order = np.random.default_rng(0).permutation(len(items))
    assert len(order) >= 20
    for step in range(5):
        drawn = [items[i] for i in order[4 * step : 4 * step + 4]]
        loss = 0
        for item in drawn:
            logits = plain.network(input_ids=torch.tensor([item.prompts[0]])).logits[0, -1]
            loss = loss - logits[item.labels[0]].log_softmax(-1)[item.answer] / 4
        optimizer.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 5, 1 - step / 5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.network.parameters(), 1.0)
        optimizer.step()
    for key, value in tuned.network.state_dict().items():
        assert torch.equal(value, zeros.network.state_dict()[key])
        torch.testing.assert_close(value, plain.network.state_dict()[key], atol=2e-4, rtol=1e-3)
    assert not same_weights(tuned.network, fresh().network)


@pytest.mark.parametrize("recipe", recipes())
def test_training_reduces_its_own_loss(fresh, items, recipe):
    model, weights = fresh(), recipes()[recipe]
    log = last(
        train_sua(model, items, weights, steps=25, batch_size=len(items), learning_rate=3e-3)
    )
    assert log.loss.iloc[-1] < log.loss.iloc[0] - 0.01
    assert log.step.tolist() == list(range(5, 26, 5))
    total = sum(weight * log[term] for term, weight in weights.items())
    np.testing.assert_allclose(log.loss, total, rtol=1e-4)


def test_trainings_repeat_to_the_bit_and_depend_on_the_seed(fresh, items):
    models = [fresh() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        last(train_sua(model, items, recipes()["SUA-TR"], steps=8, batch_size=4, seed=seed))
    assert same_weights(models[0].network, models[1].network)
    assert not same_weights(models[0].network, models[2].network)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(fresh, items, tmp_path, monkeypatch):
    recipe = {"weights": recipes()["SUA-TR"], "steps": 12, "batch_size": 4, "log_every": 2}
    straight, stopped, resumed = fresh(), fresh(), fresh()
    expected = last(train_sua(straight, items, **recipe))
    training = train_sua(stopped, items, checkpoints=tmp_path, **recipe)
    assert [next(training).step.max() for _ in range(3)] == [2, 4, 6]
    training.close()
    (file,) = tmp_path.glob("*.safetensors")
    assert checkpoint_state(file)["step"] == 6
    grown = [log.step.max() for log in train_sua(resumed, items, checkpoints=tmp_path, **recipe)]
    assert grown == [6, 8, 10, 12]
    assert same_weights(straight.network, resumed.network)
    monkeypatch.setattr(sua_training, "_batch_terms", lambda *_: pytest.fail("trained again"))
    again = fresh()
    (log,) = train_sua(again, items, checkpoints=tmp_path, **recipe)
    pd.testing.assert_frame_equal(log, expected)
    assert same_weights(straight.network, again.network)


@pytest.mark.parametrize(
    "change",
    [{"weights": {"task": 0.5}}, {"seed": 1}, {"steps": 3}, {"entropy_weight": 0.5}, {"items": 3}],
    ids=str,
)
def test_other_work_does_not_go_on_from_a_checkpoint(fresh, items, tmp_path, change):
    plain = {"weights": {"task": 1.0}, "steps": 2, "batch_size": 2}
    other = plain | change
    read = items[: other.pop("items", len(items))]
    last(train_sua(fresh(), items, checkpoints=tmp_path, **plain))
    last(train_sua(fresh(), read, checkpoints=tmp_path, **other))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_frozen_weights_stay_and_are_in_no_checkpoint(fresh, items, tmp_path):
    model = fresh()
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_("norm" in name)
    last(train_sua(model, items, {"task": 1.0}, steps=3, checkpoints=tmp_path))
    moved = {
        name: not torch.equal(value, fresh().network.state_dict()[name])
        for name, value in model.network.named_parameters()
    }
    assert {"norm" in name for name, is_so in moved.items() if is_so} == {True}
    assert not any(is_so for name, is_so in moved.items() if "norm" not in name)
    (file,) = tmp_path.glob("*.safetensors")
    other = fresh().network
    for name, parameter in other.named_parameters():
        parameter.requires_grad_("norm" in name)
    load_checkpoint(file, other, torch.optim.AdamW(other.parameters()))
    assert same_weights(model.network, other)
    assert file.stat().st_size < 20_000


def test_bad_trainings_are_refused_before_they_start(fresh, items):
    def refuse(message, items=items, **weights):
        with pytest.raises(ValueError, match=message):
            next(train_sua(fresh(), items, weights))

    refuse(r"unknown term\(s\) \['tasks'\]; known: task, consistency", tasks=1)
    refuse("every weight is 0", task=0)
    lost = dataclasses.replace(items[0], answer=-1)
    refuse(f"question {lost.question_id} has no right answer", [lost], task=1)


def test_no_text_is_in_two_parts(table):
    asked = pd.concat([table, knowledge_questions(300, seed=6)], ignore_index=True)
    parts = split_by_text(asked, (0.5, 0.2, 0.3), seed=1)
    texts = [set(part.text) for part in parts]
    assert sum(map(len, texts)) == asked.text.nunique() == len(set.union(*texts))
    assert sorted(i for part in parts for i in part.index) == list(asked.index)
    assert len(texts[0]) / asked.text.nunique() == pytest.approx(0.5, abs=0.01)
    again = split_by_text(asked, (0.5, 0.2, 0.3), seed=1)
    assert all(a.equals(b) for a, b in zip(parts, again, strict=True))
    assert set(split_by_text(asked, (0.5, 0.2, 0.3), seed=2)[0].text) != texts[0]


def simulated(n, temperature=1.0, seed=0):
    """Calibrated answers to n questions with two edits each, then divided by a temperature."""
    rng = np.random.default_rng(seed)
    log_p = log_softmax(rng.normal(0, 1.5, (n, 3)), axis=-1)
    right = [rng.choice(3, p=np.exp(row)) for row in log_p]
    answers = [np.stack([row, row, row[::-1]]) / temperature for row in log_p]
    return answers, [Item(str(i), int(a), [[0]] * 3, [[0]] * 3) for i, a in enumerate(right)]


def test_the_temperature_that_was_put_in_is_found():
    for temperature in (0.5, 1, 2):
        assert fit_temperature(*simulated(2000, temperature)) == pytest.approx(
            1 / temperature, rel=0.12
        )


def test_a_temperature_changes_no_answer_and_repairs_calibration():
    answers, items = simulated(2000, 0.4)
    found = fit_temperature(answers, items)
    before, after = judge_answers(answers, items), judge_answers(answers, items, found)
    assert (before[["correct", "robust"]] == after[["correct", "robust"]]).all(axis=None)
    assert score_judged(after)["ece"] < score_judged(before)["ece"] / 2


def test_judged_by_hand():
    values = np.log([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25]]) - 1
    item = Item("q", 0, [[0]] * 3, [[0]] * 3)
    found = judge_answers([values, values[[0, 2]]], [item, item])
    js = [jensenshannon([0.6, 0.2, 0.2], q) ** 2 for q in ([0.1, 0.8, 0.1], [0.5, 0.25, 0.25])]
    assert found.correct.tolist() == [1, 1] and found.robust.tolist() == [0, 1]
    assert found.js.tolist() == pytest.approx([np.mean(js), js[1]])
    assert found.confidence.tolist() == pytest.approx([0.6] * 2)
    assert found.option_mass.tolist() == pytest.approx([np.exp(-1)] * 2)
    assert (found["sua"] - found.js + found.entropy).abs().max() < 1e-12


def judged(n=400, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.4, 1, n)
    correct = (rng.random(n) < confidence - shift).astype(int)
    return pd.DataFrame(
        {"question_id": range(n), "correct": correct, "robust": correct * (rng.random(n) < 0.7),
         "confidence": confidence, "entropy": 1 - confidence, "js": 0.1, "sua": 0.1 - confidence,
         "option_mass": 1.0}
    )  # fmt: skip


def test_scores_are_those_of_their_definitions():
    table = judged()
    found = score_judged(table)
    assert found["accuracy"] == table.correct.mean()
    assert found["robust_accuracy"] == table.robust.mean() <= found["accuracy"]
    assert found["auroc"] == pytest.approx(roc_auc_score(1 - table.correct, table.entropy))
    assert found["auroc_sua"] == pytest.approx(roc_auc_score(1 - table.correct, table["sua"]))
    kept = table.nsmallest(320, "entropy").correct.mean()
    assert found["selective_accuracy"] == pytest.approx(kept)
    ten = pd.cut(table.confidence, np.linspace(0, 1, 11))
    gaps = (table.correct - table.confidence).groupby(ten, observed=True).sum()
    assert found["ece"] == pytest.approx(gaps.abs().sum() / len(table))


def test_one_seed_is_compared_over_questions_several_over_seeds():
    frames = {
        seed: {"a": judged(seed=seed), "b": judged(seed=seed, shift=0.2)} for seed in range(4)
    }
    one = compare_recipes({0: frames[0]}, "a", replicates=400).set_index(["recipe", "score"])
    accuracy = one.loc[("b", "accuracy")]
    difference = frames[0]["b"].correct - frames[0]["a"].correct
    assert accuracy.difference == pytest.approx(difference.mean())
    error = 1.96 * difference.std() / 20
    assert [accuracy.low, accuracy.high] == pytest.approx(
        [difference.mean() - error, difference.mean() + error], abs=0.015
    )
    assert (one.loc["a"][["difference", "low", "high"]] == 0).all(axis=None)
    several = compare_recipes(frames, "a").set_index(["recipe", "score"])
    drawn = [
        score_judged(pair["b"])["ece"] - score_judged(pair["a"])["ece"] for pair in frames.values()
    ]
    expected = ttest_1samp(drawn, 0).confidence_interval()
    ece = several.loc[("b", "ece")]
    assert (ece.low, ece.high, ece.seeds) == pytest.approx((*expected, 4))


def test_adapters_say_what_they_need(fresh, monkeypatch):
    whole = builtins.__import__

    def without_peft(name, *rest, **named):
        if name == "peft":
            raise ImportError(name)
        return whole(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(ImportError, match="pip install peft"):
        add_lora(fresh())


def test_adapters_are_asked_of_peft_as_documented(fresh, monkeypatch):
    seen = {}
    peft = types.ModuleType("peft")
    peft.LoraConfig = lambda **settings: seen.setdefault("settings", settings)
    peft.get_peft_model = lambda network, config: network
    monkeypatch.setitem(sys.modules, "peft", peft)
    assert add_lora(fresh(), rank=4).identity["lora"] == 4
    assert seen["settings"] == {
        "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"
    }  # fmt: skip


def test_adapters_alone_are_trained_and_go_on_from_a_checkpoint(fresh, items, tmp_path):
    pytest.importorskip("peft")
    weights = recipes()["SUA-TR"]
    model, again = add_lora(fresh()), add_lora(fresh())
    frozen = {n: v.clone() for n, v in model.network.named_parameters() if not v.requires_grad}
    log = last(train_sua(model, items, weights, steps=20, learning_rate=1e-2, checkpoints=tmp_path))
    assert log.loss.iloc[-1] < log.loss.iloc[0]
    assert all(torch.equal(dict(model.network.named_parameters())[n], v) for n, v in frozen.items())
    last(train_sua(again, items, weights, steps=20, learning_rate=1e-2, checkpoints=tmp_path))
    assert same_weights(model.network, again.network)
    both = answer_items(model, items[:3]), answer_items(fresh(), items[:3])
    assert np.abs(both[0][0] - both[1][0]).max() > 1e-3
