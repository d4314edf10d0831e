"""Collection on tiny random models of many families: padding and batching change nothing."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uqlib.collect import collect, plan_collection
from uqlib.forward import PROBE_TOLERANCE, next_token_log_probs, shares_prefixes
from uqlib.measures import MEASURES
from uqlib.models import LanguageModel, encode_prompts
from uqlib.prompts import render

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "max_position_embeddings": 256,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3},
    "gpt_neox": SMALL,
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 16},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "init_std": 0.3,
    },
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma3_text": GROUPED | {"head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 2},
}


@pytest.fixture(params=FAMILIES)
def any_model(request, tokenizer):
    torch.manual_seed(0)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tokenizer), **FAMILIES[request.param], **special
    )
    network = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(request.param, network, tokenizer, {"model": request.param})


def test_shared_beginnings_are_used_and_exact(any_model, questions):
    assert shares_prefixes(any_model.network)
    plan = plan_collection(any_model, questions)
    assert plan.batches[0].shared > 16  # more than the sliding windows hold
    for batch in plan.batches:
        prompts = [plan.prompts[i] for i in batch.rows]
        shared = next_token_log_probs(any_model.network, prompts, batch.shared)
        whole = next_token_log_probs(any_model.network, prompts)
        np.testing.assert_allclose(shared, whole, atol=1e-5)


def test_bfloat16_batches_agree_within_the_stated_tolerance(any_model, questions):
    half = replace(any_model, network=deepcopy(any_model.network).bfloat16())
    batched = collect(half, questions, batch_tokens=10_000)
    single = collect(half, questions, batch_tokens=1)
    for a, b in zip(batched.choice_log_probs, single.choice_log_probs, strict=True):
        np.testing.assert_allclose(a, b, atol=PROBE_TOLERANCE[torch.bfloat16])


def test_batched_and_padded_equals_one_by_one(any_model, questions):
    batched = collect(any_model, questions, batch_tokens=10_000)
    single = collect(any_model, questions, batch_tokens=1)
    assert batched.total_entropy.nunique() == len(questions)
    for a, b in zip(batched.choice_log_probs, single.choice_log_probs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for name in MEASURES:
        np.testing.assert_allclose(batched[name], single[name], atol=1e-5, err_msg=name)


def test_one_by_one_equals_the_models_own_unpadded_pass(any_model, questions):
    single = collect(any_model, questions, batch_tokens=1)
    for row, response in zip(questions.itertuples(), single.itertuples(), strict=True):
        prompt = render(row.text, row.choices, row.labels)
        with torch.no_grad():
            ids = torch.tensor(encode_prompts(any_model.tokenizer, [prompt]))
            log_probs = any_model.network(ids).logits[0, -1].double().log_softmax(-1)
        assert response.top1_probability == pytest.approx(log_probs.max().exp().item(), abs=1e-5)
