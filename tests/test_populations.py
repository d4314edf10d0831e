import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from transformers import AutoConfig, AutoModelForCausalLM

from uqlib.collect import collect
from uqlib.forward import next_token_log_probs, prefix_reader
from uqlib.populations import (
    answer_frequency,
    ask_population,
    draw_identities,
    dropout_identity,
    population_measures,
    population_variance,
    self_report,
)
from uqlib.prompts import render

PROMPTS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11], [5, 6, 7, 8, 9, 12, 13, 14]]
STATES = st.lists(st.lists(st.floats(-30, 0), min_size=3, max_size=3), min_size=1, max_size=6).map(
    np.array
)


def ask(network, prompts=PROMPTS, **sharing):
    return next_token_log_probs(network, prompts, **sharing)


def test_a_member_is_the_network_with_columns_of_its_weights_scaled(model):
    identity = draw_identities(model.network, members=1, rate=0.4)[0]
    with dropout_identity(model.network, identity):
        masked = ask(model.network)
    weights = {name: model.network.get_submodule(name).weight for name in identity}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(identity[name][:, None])
        expected = ask(model.network)
        for name, weight in weights.items():
            weight.copy_(kept[name])
    torch.testing.assert_close(masked, expected)
    assert (masked - ask(model.network)).abs().max() > 0.01


def test_the_network_is_itself_again_also_after_an_error(model):
    before = ask(model.network)
    identity = draw_identities(model.network, members=1, rate=0.5)[0]
    with pytest.raises(KeyError), dropout_identity(model.network, identity):
        raise KeyError
    assert not any(module._forward_hooks for module in model.network.modules())
    assert not model.network.training
    assert torch.equal(ask(model.network), before)


def test_an_identity_of_another_model_is_refused_and_leaves_nothing_behind(model):
    identity = draw_identities(model.network, members=1)[0] | {"layers.9.fc2": torch.ones(3)}
    with (
        pytest.raises(ValueError, match=r"no module 'layers\.9\.fc2'"),
        dropout_identity(model.network, identity),
    ):
        pass
    assert not any(module._forward_hooks for module in model.network.modules())


def test_a_member_answers_alike_alone_and_in_any_batch(model):
    for identity in draw_identities(model.network, members=3, rate=0.3):
        with dropout_identity(model.network, identity):
            together = ask(model.network)
            alone = torch.cat([ask(model.network, [prompt]) for prompt in PROMPTS])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_beginnings_may_be_shared_within_a_member_and_not_between_members(model):
    plain = prefix_reader(model.network)
    ask(model.network, shared=4, read=plain)
    identity = draw_identities(model.network, members=1, rate=0.3)[0]
    with dropout_identity(model.network, identity):
        whole = ask(model.network)
        shared = ask(model.network, shared=4)
        stale = ask(model.network, shared=4, read=plain)
    torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)
    assert (stale - whole).abs().max() > 0.01


def test_identities_depend_on_seed_and_rate_and_not_on_how_many_follow(model):
    two, five = (draw_identities(model.network, members=m, seed=3) for m in (2, 5))
    other = draw_identities(model.network, members=2, seed=4)
    for name in two[0]:
        assert torch.equal(two[1][name], five[1][name])
        assert not torch.equal(two[0][name], two[1][name])
    assert any(not torch.equal(two[0][name], other[0][name]) for name in two[0])
    assert set(two[0]) == {f"model.layers.{i}.mlp.down_proj" for i in range(2)}


def test_masks_keep_the_expected_activation(model):
    drawn = draw_identities(model.network, members=500, rate=0.25)
    masks = torch.stack([torch.cat(list(identity.values())) for identity in drawn])
    assert masks.unique().tolist() == pytest.approx([0, 4 / 3])
    assert masks.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(
        torch.cat(list(draw_identities(model.network, 1, rate=0)[0].values())), torch.ones(64)
    )


@pytest.mark.parametrize(
    ("kind", "settings", "place"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "mlp.c_proj"),
        ("opt", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "ffn_dim": 48, "word_embed_proj_dim": 32}, "fc2"),
        ("gpt_neox", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "intermediate_size": 48}, "mlp.dense_4h_to_h"),
    ],
)  # fmt: skip
def test_every_block_is_masked_whatever_its_names(kind, settings, place):
    config = AutoConfig.for_model(kind, vocab_size=60, **settings)
    network = AutoModelForCausalLM.from_config(config).eval()
    identity = draw_identities(network, members=1, rate=0.5)[0]
    assert len(identity) == 2 and all(name.endswith(place) for name in identity)
    assert all(mask.shape == (32,) for mask in identity.values())
    before = ask(network)
    with dropout_identity(network, identity):
        assert not torch.equal(ask(network), before)
    assert torch.equal(ask(network), before)


def test_bad_settings_are_refused(model):
    with pytest.raises(ValueError, match=r"\[0, 1\), not 1"):
        draw_identities(model.network, rate=1)
    with pytest.raises(ValueError, match=r"there are: .*mlp\.down_proj"):
        draw_identities(model.network, places=("no.such",))


def test_without_dropout_every_member_is_the_model(model, questions):
    identities = draw_identities(model.network, members=3, rate=0)
    asked = ask_population(model, questions, identities, rate=0)
    plain = collect(model, questions)
    assert list(asked.pass_index.value_counts()) == [len(questions)] * 3
    for _, member in asked.groupby("pass_index"):
        for a, b in zip(member.choice_log_probs, plain.choice_log_probs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    reduced = population_measures(asked)
    np.testing.assert_allclose(reduced.population_variance, 0, atol=1e-12)
    np.testing.assert_allclose(reduced.population_entropy, plain.choice_entropy, atol=1e-5)
    assert (reduced.population_agreement == 1).all()


def test_a_population_is_asked_member_by_member(model, questions):
    identities = draw_identities(model.network, members=2, rate=0.3)
    asked = ask_population(model, questions, identities, rate=0.3)
    assert set(asked.condition) == {"population"}
    assert np.allclose(asked.dropout_rate, 0.3)
    with dropout_identity(model.network, identities[1]):
        second = collect(model, questions)
    kept = asked[asked.pass_index == 1]
    for a, b in zip(kept.choice_log_probs, second.choice_log_probs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@given(STATES)
def test_population_variance_is_that_of_numpy_and_bounded(log_probs):
    p = np.exp(log_probs) / np.exp(log_probs).sum(axis=1, keepdims=True)
    value = population_variance(log_probs)
    assert value == pytest.approx(np.mean([np.var(p[:, j]) for j in range(3)]), abs=1e-12)
    assert 0 <= value <= (1 - 1 / 3) / 3 + 1e-12
    assert population_variance(log_probs - 7) == pytest.approx(value, abs=1e-12)
    assert answer_frequency(log_probs) == pytest.approx(p.max(axis=1))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_population_variance_is_largest_for_members_sure_of_different_options(n):
    sure = np.log(np.eye(n) + 1e-12)
    assert population_variance(sure) == pytest.approx((1 - 1 / n) / n, abs=1e-9)


def table(**log_probs):
    return pd.DataFrame(
        [
            {"model": "m", "dataset": "d", "question_id": question, "choice_log_probs": np.log(p)}
            for question, members in log_probs.items()
            for p in members
        ]
    )


def test_population_measures_by_hand():
    a, b = population_measures(
        table(a=[[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]], b=[[0.2, 0.2], [0.1, 0.3], [0.2, 0.2]])
    ).itertuples()
    assert a.population_variance == pytest.approx(0.26 / 3)
    assert a.population_agreement == pytest.approx(2 / 3)
    assert (a.predicted, a.members, a.n_choices) == (1 - 1, 3, 2)
    assert a.population_entropy == pytest.approx(1)
    assert a.member_entropy == pytest.approx(
        np.mean([entropy(p) for p in ([0.6, 0.4], [0.8, 0.2], [0.1, 0.9])]) / np.log(2)
    )
    assert b.predicted == 1
    assert b.population_variance == pytest.approx(np.var([0.5, 0.25, 0.5]))


def test_a_question_that_a_member_missed_is_named():
    with pytest.raises(ValueError, match="question b was answered by 1 members"):
        population_measures(table(a=[[0.5, 0.5], [0.5, 0.5]], b=[[0.5, 0.5]]))


def test_self_report_reads_the_first_tokens_after_the_answer(model, questions):
    reports = self_report(model, questions, [0] * len(questions), words=("A", "B"))
    row = questions.iloc[2]
    text = render(row.text, row.choices, row.labels) + f" {row.labels[0]}\nThis answer is"
    ids = model.tokenizer(text).input_ids
    tokens = [model.tokenizer(f" {w}", add_special_tokens=False).input_ids[0] for w in "AB"]
    p = next_token_log_probs(model.network, [ids])[0, tokens].exp()
    assert reports.question_id[2] == row.question_id
    assert reports.report[2] == pytest.approx((p[0] / p.sum()).item(), rel=1e-4)
    assert reports.word_mass[2] == pytest.approx(p.sum().item(), rel=1e-4)


def test_words_that_begin_alike_cannot_be_told_apart(model, questions):
    with pytest.raises(ValueError, match="'zqa' and 'zqb' begin with the same token"):
        self_report(model, questions, [0] * len(questions), words=("zqa", "zqb"))
