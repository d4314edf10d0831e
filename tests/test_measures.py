import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy

from uqlib import measures

LOGITS = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-12, 12, width=32))


def log_softmax(logits):
    return torch.as_tensor(logits, dtype=torch.float64).log_softmax(-1)


def reference(logits, name, rule="nucleus"):
    """The definition in float64 with scipy, one distribution at a time."""
    p = np.sort(log_softmax(logits).exp().numpy())[::-1]
    normalised = lambda q: entropy(q) / np.log(len(q)) if len(q) > 1 else 0.0
    kind, _, number = name.rpartition("_")
    if name == "top1_probability":
        return p[0]
    if name == "total_entropy":
        return normalised(p)
    if kind == "top_k_entropy":
        return normalised(p[: int(number)])
    threshold = int(number) / 100
    cumulative = np.cumsum(p)
    if rule == "nucleus":
        size = min(np.searchsorted(cumulative, threshold, side="left") + 1, len(p))
    else:
        size = np.searchsorted(cumulative, threshold, side="right")
    if kind == "top_p_size":
        return size
    return 1.0 if size == 0 else normalised(p[:size])


@pytest.mark.parametrize("name", [m for m in measures.MEASURES if m != "choice_entropy"])
@given(logits=LOGITS)
@settings(max_examples=40, deadline=None)
def test_vocabulary_measures_match_scipy_in_float64(name, logits):
    # Distinct logits: at a tie or a threshold hit exactly, float32 may decide otherwise.
    logits = logits + np.arange(len(logits)) * 1e-3
    ours = measures.vocabulary_measures(log_softmax(logits)[None])[name].item()
    p = np.sort(log_softmax(logits).exp().numpy())[::-1]
    near = np.abs(np.cumsum(p)[:, None] - np.array(measures.TOP_P) / 100).min() < 3e-6
    if not near:
        assert ours == pytest.approx(reference(logits, name), abs=2e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9, 0.95])
@given(logits=LOGITS)
@settings(max_examples=40, deadline=None)
def test_published_rule_is_the_largest_prefix_below(threshold, logits):
    name = f"{round(100 * threshold)}"
    p = np.sort(log_softmax(logits).exp().numpy())[::-1]
    if np.abs(np.cumsum(p) - threshold).min() > 3e-6:
        size = measures.top_p_size(log_softmax(logits), threshold, rule="published").item()
        value = measures.top_p_entropy(log_softmax(logits), threshold, rule="published").item()
        assert size == reference(logits, f"top_p_size_{name}", "published")
        assert value == pytest.approx(
            reference(logits, f"top_p_entropy_{name}", "published"), abs=2e-5
        )


def test_published_rule_by_hand():
    # Closed form: p = (.6, .4). At .5 nothing fits, "complete uncertainty"; at .75 one token fits.
    p = torch.tensor([0.6, 0.4]).log()
    assert measures.top_p_entropy(p, 0.5, rule="published") == 1
    assert measures.top_p_size(p, 0.75, rule="published") == 1
    assert measures.top_p_entropy(p, 0.75, rule="published") == 0
    assert measures.top_p_size(p, 0.75) == 2


@pytest.mark.parametrize("size", [2, 7, 1500])
def test_uniform_and_one_hot(size):
    uniform = torch.zeros(1, size).log_softmax(-1)
    values = measures.vocabulary_measures(uniform)
    for name, value in values.items():
        if "entropy" in name:
            one_token = "top_p" in name and values[name.replace("entropy", "size")] == 1
            assert value.item() == pytest.approx(0 if one_token else 1, abs=1e-5)
    assert values["top1_probability"].item() == pytest.approx(1 / size)
    one_hot = torch.full((1, size), -torch.inf)
    one_hot[0, 0] = 0
    for name, value in measures.vocabulary_measures(one_hot).items():
        assert value.item() == (0 if "entropy" in name else 1)


def test_geometric_distribution_has_its_closed_form_entropy():
    # Entropy of a geometric distribution with ratio 1/2: 2 ln 2 (tail beyond 200 tokens < 1e-58).
    log_probs = -np.arange(1, 201) * np.log(2)
    value = measures.total_entropy(log_probs).item()
    assert value * np.log(200) == pytest.approx(2 * np.log(2), rel=1e-5)


@given(logits=LOGITS, shift=st.floats(-50, 50), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_measures_ignore_order_and_added_constants(logits, shift, seed):
    order = np.random.default_rng(seed).permutation(len(logits))
    a = measures.vocabulary_measures(log_softmax(logits)[None])
    b = measures.vocabulary_measures(log_softmax(logits[order] + shift)[None])
    for name in a:
        if "top_p" not in name:
            assert a[name].item() == pytest.approx(b[name].item(), abs=1e-5)


@given(logits=hnp.arrays(np.float64, (3, 20), elements=st.floats(-9, 9, width=32)))
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_its_rows_and_lies_in_range(logits):
    log_probs = log_softmax(logits)
    batch = measures.vocabulary_measures(log_probs)
    for row in range(3):
        single = measures.vocabulary_measures(log_probs[row : row + 1])
        for name in batch:
            assert batch[name][row] == single[name][0]
            assert 0 <= batch[name][row] <= (20 if "size" in name else 1)


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=9))
def test_choice_entropy_matches_scipy(log_probs):
    p = np.exp(np.array(log_probs) - max(log_probs))
    expected = entropy(p) / np.log(len(p))
    assert measures.choice_entropy(log_probs).item() == pytest.approx(expected, abs=1e-5)


def test_top_k_keeps_ratios_where_a_second_softmax_would_not():
    # Two tokens of probability .4 and .2: renormalised to 2/3 and 1/3, not to softmax(.4, .2).
    p = torch.tensor([0.4, 0.2, 0.15, 0.15, 0.1])
    expected = entropy([2 / 3, 1 / 3]) / np.log(2)
    assert measures.top_k_entropy(p.log(), 2).item() == pytest.approx(expected, abs=1e-6)


def test_bad_settings_are_refused():
    p = torch.tensor([0.6, 0.4]).log()
    with pytest.raises(ValueError, match="k >= 2"):
        measures.top_k_entropy(p, 1)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        measures.top_p_size(p, 1.5)
    with pytest.raises(ValueError, match="known: nucleus, published"):
        measures.top_p_size(p, 0.5, rule="nucleas")
