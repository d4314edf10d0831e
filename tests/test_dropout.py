import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp
from test_architectures import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

from uqlib.dropout import (
    attention_dropout,
    attention_modules,
    check_dropout,
    dropout_mask,
    row_seed,
)
from uqlib.forward import next_token_log_probs

MORE = {
    "gemma": FAMILIES["llama"] | {"head_dim": 8},
    "gemma2": FAMILIES["llama"] | {"head_dim": 8, "sliding_window": 4},
    "phi3": FAMILIES["llama"] | {"pad_token_id": 1},
    "cohere": FAMILIES["llama"],
    "qwen2": FAMILIES["llama"],
}
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]


def tiny(kind, attention=None, seed=0):
    torch.manual_seed(seed)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=60, **(FAMILIES | MORE)[kind] | special)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.fixture(params=[*FAMILIES, *MORE])
def network(request):
    return tiny(request.param)


def ask(network, prompts=(PROMPT,)):
    return next_token_log_probs(network, [list(p) for p in prompts])


def attention_of(network, layer, rows=1, **settings):
    """Output and weights of one layer's attention, for copies of the prompt."""
    kept = []
    handle = attention_modules(network)[layer].register_forward_hook(
        lambda module, inputs, output: kept.append([value.detach() for value in output[:2]])
    )
    with torch.inference_mode(), attention_dropout(network, **settings):
        network(torch.tensor([PROMPT] * rows))
    handle.remove()
    return kept[0]


def state_of(network):
    modules = {name: vars(module) for name, module in network.named_modules()}
    return {
        name: {key: repr(value) for key, value in values.items()}
        for name, values in modules.items()
    } | {"config": network.config.to_dict(), "attention": network.config._attn_implementation}


def test_rate_0_changes_nothing_to_the_bit(network):
    before = ask(network)
    with attention_dropout(network, 0):
        assert torch.equal(ask(network), before)


def test_next_to_nothing_dropped_is_next_to_the_plain_model(network):
    with attention_dropout(network, 1e-12):
        dropped = ask(network)
    torch.testing.assert_close(dropped, ask(network), rtol=0, atol=2e-5)


@pytest.mark.parametrize("implementation", ["seeded", "native"])
def test_the_model_is_as_it_was_also_after_an_error(network, implementation):
    before, answer, drawn = state_of(network), ask(network), torch.random.get_rng_state()
    with attention_dropout(network, 0.3, implementation=implementation):
        assert (ask(network) - answer).abs().max() > 1e-3
    assert state_of(network) == before
    with pytest.raises(KeyError), attention_dropout(network, 0.3, implementation=implementation):
        ask(network)
        raise KeyError
    assert state_of(network) == before
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert torch.equal(ask(network), answer)


def test_a_row_has_the_same_masks_alone_and_in_any_batch(network):
    prompts = [PROMPT, PROMPT[:5], [9, 8, 7] * 6]
    with attention_dropout(network, 0.3, seed=[1, 2, 3]):
        together = ask(network, prompts)
    for i, prompt in enumerate(prompts):
        with attention_dropout(network, 0.3, seed=i + 1):
            alone = ask(network, [prompt])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=2e-5)
    with attention_dropout(network, 0.3, seed=[3, 2, 1]):
        other = ask(network, prompts)
    assert (other[0] - together[0]).abs().max() > 1e-3
    torch.testing.assert_close(other[1], together[1])


def test_the_expected_attention_is_the_undropped_one(network):
    plain, _ = attention_of(network, 0, rate=1e-12)
    many, _ = attention_of(network, 0, rows=3000, rate=0.2, seed=range(3000))
    error = many.std(dim=0) / np.sqrt(3000)
    z = ((many.mean(dim=0) - plain[0]) / error.clamp(min=1e-9))[1:]  # the first reads itself alone
    assert z.abs().max() < 5 and 0.6 < z.std() < 1.4


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_weights_are_dropped_as_often_as_asked_and_the_others_scaled(rate):
    network = tiny("llama")
    _, plain = attention_of(network, 1, rate=1e-12, layers=[1])
    _, dropped = attention_of(network, 1, rows=400, rate=rate, layers=[1], seed=range(400))
    seen = (plain > 1e-6).expand_as(dropped)
    ratio = (dropped / plain)[seen]
    zero = ratio == 0
    torch.testing.assert_close(ratio[~zero], torch.full_like(ratio[~zero], 1 / (1 - rate)))
    spread = np.sqrt(rate * (1 - rate) / len(ratio))
    assert zero.float().mean().item() == pytest.approx(rate, abs=4 * spread)


def test_only_the_layers_heads_and_positions_named_are_masked(network):
    first, weights = attention_of(network, 0, rate=1e-12)
    with attention_dropout(network, 0.5, layers=[1]):
        both = ask(network)
    torch.testing.assert_close(attention_of(network, 0, rate=0.5, layers=[1])[0], first)
    assert (both - ask(network)).abs().max() > 1e-3
    _, heads = attention_of(network, 0, rate=0.5, heads=[2])
    torch.testing.assert_close(heads[:, [0, 1, 3]], weights[:, [0, 1, 3]])
    assert (heads[:, 2] == 0)[weights[:, 2] > 0].any()
    _, positions = attention_of(network, 0, rate=0.5, positions=[7])
    torch.testing.assert_close(positions[:, :, :7], weights[:, :, :7])
    assert (positions[:, :, 7] == 0).any()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox"])
def test_eager_sdpa_and_our_masks_agree_in_distribution(kind):
    rows = [PROMPT] * 1500
    network = tiny(kind)
    with attention_dropout(network, 0.2, seed=range(len(rows))):
        ours = ask(network, rows)
    for attention in ("eager", "sdpa"):
        other = tiny(kind, attention)
        with attention_dropout(other, 0.2, implementation="native", seed=1):
            theirs = ask(other, rows)
        for token in (3, 20, 41):
            assert ks_2samp(ours[:, token], theirs[:, token]).pvalue > 1e-3


def test_native_dropout_is_what_training_mode_does():
    # The released code of Kwon et al.: config.attention_dropout, then train().
    network = tiny("llama", "eager")
    with attention_dropout(network, 0.2, implementation="native", seed=3):
        ours = ask(network)
    for module in attention_modules(network).values():
        module.attention_dropout = 0.2
    torch.manual_seed(3)
    theirs = ask(network.train())
    assert torch.equal(ours, theirs)


def test_generation_with_a_cache_meets_the_masks_of_a_whole_pass():
    network, ids = tiny("llama"), torch.tensor([PROMPT])
    with torch.inference_mode(), attention_dropout(network, 0.4, seed=5):
        whole = network(ids).logits[:, -1]
        cache = network(ids[:, :5], use_cache=True).past_key_values
        steps = network(ids[:, 5:], past_key_values=cache, use_cache=True).logits[:, -1]
    torch.testing.assert_close(whole, steps)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 90), st.floats(0.01, 0.6), st.floats(0.61, 0.99))
def test_masks_are_nested_over_rates_and_differ_over_layers(seed, layer, low, high):
    seeds = torch.tensor([seed])
    a, b = (dropout_mask(seeds, layer, 3, 6, 9, rate) for rate in (low, high))
    assert (a | ~b).all()
    assert torch.equal(a, dropout_mask(seeds, layer, 3, 9, 9, low)[:, :, 3:])
    other = dropout_mask(seeds, layer + 1, 3, 40, 40, 0.5)
    assert not torch.equal(other, dropout_mask(seeds, layer, 3, 40, 40, 0.5))


def test_masks_look_independent_along_every_axis():
    mask = dropout_mask(torch.arange(64), 0, 8, 32, 32, 0.5)
    assert mask.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 2**9.5)
    layers = torch.stack([dropout_mask(torch.arange(64), k, 8, 32, 32, 0.5) for k in (0, 1)])
    neighbours = [(mask.select(axis, 0), mask.select(axis, 1)) for axis in range(4)]
    for a, b in [*neighbours, (layers[0], layers[1])]:
        table = np.bincount((2 * a.long() + b.long()).flatten(), minlength=4).reshape(2, 2)
        assert chi2_contingency(table).pvalue > 1e-4


def test_seeds_depend_on_every_part():
    parts = [(0, "a", "q", 0), (1, "a", "q", 0), (0, "b", "q", 0), (0, "a", "r", 0),
             (0, "a", "q", 1), (0, "aq", "", 0)]  # fmt: skip
    assert len({row_seed(*part) for part in parts}) == len(parts)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gpt_oss"])
def test_attention_that_cannot_be_masked_is_an_error(kind):
    sizes = {
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
        "gpt_oss": FAMILIES["qwen3"] | {"num_local_experts": 2, "num_experts_per_tok": 1,
                                        "layer_types": ["full_attention"] * 2},
    }  # fmt: skip
    config = AutoConfig.for_model(kind, vocab_size=60, pad_token_id=1, **sizes[kind])
    network = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=r"no attention that can be dropped|does not work here"):
        check_dropout(network, 0.1)


def test_a_layer_that_was_passed_by_is_an_error():
    network = tiny("llama")
    network.model.layers[1].self_attn.forward = lambda *inputs, **settings: (
        settings["hidden_states"],
        None,
    )
    with (
        pytest.raises(RuntimeError, match=r"layer\(s\) 1 were not masked"),
        attention_dropout(network, 0.2),
    ):
        ask(network)
    assert network.config._attn_implementation == "sdpa"


def test_bad_settings_are_refused():
    network = tiny("llama")
    for settings_, message in [
        ({"rate": 1}, r"\[0, 1\), not 1"),
        ({"rate": 0.1, "layers": [4]}, "there is no layer 4; there are: 0, 1"),
        ({"rate": 0.1, "implementation": "flash"}, "known: seeded, native"),
        ({"rate": 0.1, "implementation": "native", "heads": [1]}, "native dropout knows no heads"),
    ]:
        with pytest.raises(ValueError, match=message), attention_dropout(network, **settings_):
            pass
    with (
        pytest.raises(ValueError, match="2 seeds for a batch of 1 rows"),
        attention_dropout(network, 0.1, seed=[1, 2]),
    ):
        ask(network)
    with pytest.raises(ValueError, match="in training mode"), attention_dropout(network.train(), 0):
        pass
