import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uqlib import forward
from uqlib.forward import (
    Batch,
    computed_tokens,
    continued_log_probs,
    next_token_log_probs,
    plan_batches,
    prefix_reader,
    shares_prefixes,
    step_log_probs,
)

PROMPTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12), st.lists(st.integers(20, 25), min_size=1)),
    min_size=1,
    max_size=25,
).map(lambda drawn: [[*([start] * repeat), *rest] for start, repeat, rest in drawn])


def single(model, prompt):
    with torch.no_grad():
        return model.network(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)


@given(PROMPTS, st.integers(1, 120), st.booleans())
def test_batches_hold_every_prompt_once_within_the_budget(prompts, budget, share):
    batches = plan_batches(prompts, budget, share)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(len(prompts)))
    for rows, shared in [(batch.rows, batch.shared) for batch in batches]:
        longest = max(len(prompts[i]) for i in rows) - shared
        assert len(rows) == 1 or longest * len(rows) <= budget
        assert all(shared < len(prompts[i]) for i in rows)
        assert share or shared == 0


@given(PROMPTS, st.integers(1, 400))
def test_families_put_together_cost_a_quarter_more_at_most(prompts, budget):
    together = plan_batches(prompts, budget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "LONGER", 0)
        apart = plan_batches(prompts, budget)
    assert len(together) <= len(apart)
    assert computed_tokens(prompts, together) <= 1.25 * computed_tokens(prompts, apart)


def test_many_small_families_do_not_add_up_to_a_large_loss():
    prompts = [[family] * (20 + 2 * family) + [99, i] for family in range(40) for i in range(3)]
    whole, planned = sum(map(len, prompts)), plan_batches(prompts, 16_384)
    assert computed_tokens(prompts, planned) < 0.6 * whole


@given(PROMPTS, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order(prompts, random):
    shuffled = random.sample(prompts, len(prompts))
    plans = [
        [([tuple(p[i]) for i in batch.rows], batch.shared) for batch in plan_batches(p, 60)]
        for p in (prompts, shuffled)
    ]
    assert plans[0] == plans[1]


def test_families_share_their_own_beginning_and_the_rest_what_all_have():
    one = [[1] * 20 + [i, 5] for i in range(4)]
    two = [[1, 1] + [2] * 30 + [i] for i in range(4)]
    odd = [[1, 3, 4, 5, 6], [1, 7, 8, 9, 10, 11]]
    batches = plan_batches([*one, *two, *odd], batch_tokens=40)
    assert [(sorted(batch.rows), batch.shared) for batch in batches] == [
        ([4, 5, 6, 7], 32),
        ([0, 1, 2, 3], 20),
        ([8, 9], 1),
    ]


def test_small_families_of_like_length_go_together():
    prompts = [[family] * 20 + [i] for family in range(3) for i in range(4)]
    (batch,) = plan_batches(prompts, batch_tokens=100)
    assert batch == Batch(batch.rows, 20) and len(batch.rows) == 12
    assert computed_tokens(prompts, [batch]) == 3 * 20 + 12


def test_a_question_is_computed_once_for_all_answers_proposed_to_it():
    ending = [7, 8, 9]
    lengths, options = [20, 35, 50], [2, 5, 3]
    prompts = [
        [question] * length + [100 + k, *ending]
        for question, (length, n) in enumerate(zip(lengths, options, strict=True))
        for k in range(n)
    ]
    batches = plan_batches(prompts, batch_tokens=60)
    assert sorted((len(batch.rows), batch.shared) for batch in batches) == [
        (2, 20),
        (3, 50),
        (5, 35),
    ]
    assert computed_tokens(prompts, batches) == sum(lengths) + 4 * sum(options)
    plain = plan_batches(prompts, batch_tokens=60, share_prefixes=False)
    assert computed_tokens(prompts, plain) >= sum(map(len, prompts))


def test_shared_beginnings_change_nothing(model):
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(2, 300, n).tolist()
    starts = [draw(14), draw(14)]
    prompts = [starts[i % 2] + draw(1 + i) for i in range(7)]
    log_probs = next_token_log_probs(model.network, prompts, shared=14)
    for row, prompt in zip(log_probs, prompts, strict=True):
        np.testing.assert_allclose(row, single(model, prompt), atol=1e-5)


def test_a_beginning_is_computed_once_for_consecutive_batches(model, monkeypatch):
    read, calls = prefix_reader(model.network), []
    real = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    first = next_token_log_probs(model.network, [[5, 6, 7, 8]], 3, read)
    again = next_token_log_probs(model.network, [[5, 6, 7, 8]], 3, read)
    assert len(calls) == 3
    assert torch.equal(first, again)


def test_only_one_position_reaches_the_output_layer(model):
    widths = []
    handle = model.network.lm_head.register_forward_hook(
        lambda module, inputs, output: widths.append(output.shape[:2])
    )
    next_token_log_probs(model.network, [[5, 6, 7], [8, 9]])
    handle.remove()
    assert widths == [(2, 1)]
    assert not model.network.lm_head._forward_pre_hooks


def test_logits_that_are_not_finite_give_their_rows(model, monkeypatch):
    weight = model.network.model.embed_tokens.weight
    kept = weight.data.clone()
    weight.data[7] = torch.nan
    try:
        with pytest.raises(FloatingPointError) as error:
            next_token_log_probs(model.network, [[5, 6], [5, 7], [7, 7, 7]])
    finally:
        weight.data.copy_(kept)
    assert error.value.args[1] == [1, 2]


def test_a_model_that_looks_ahead_gets_whole_passes(model, monkeypatch):
    assert shares_prefixes(model.network)
    real = model.network.forward

    def looks_ahead(input_ids, **settings):
        output = real(input_ids=input_ids, **settings)
        output.logits = output.logits + input_ids.shape[1]
        output.logits[..., 0] += input_ids.shape[1]
        return output

    monkeypatch.setattr(model.network, "forward", looks_ahead)
    assert not shares_prefixes(model.network)


def test_steps_and_continuations_agree_with_whole_passes(model):
    prompts, more = [[5, 6, 7], [8, 9, 10]], [[11], [12]]
    log_probs, states = step_log_probs(model.network, prompts)
    for row, prompt in zip(log_probs, prompts, strict=True):
        torch.testing.assert_close(row.double(), single(model, prompt), atol=1e-5, rtol=0)
    log_probs, states = step_log_probs(model.network, more, states)
    for row, a, b in zip(log_probs, prompts, more, strict=True):
        torch.testing.assert_close(row.double(), single(model, a + b), atol=1e-5, rtol=0)
    endings, rows = [[13, 14], [15], [16, 17, 18]], [1, 0, 1]
    for _ in range(2):
        found = continued_log_probs(model.network, endings, states, rows)
        for row, i, end in zip(found, rows, endings, strict=True):
            whole = single(model, prompts[i] + more[i] + end)
            torch.testing.assert_close(row.double(), whole, atol=1e-5, rtol=0)
        assert states.get_seq_length() == 4
