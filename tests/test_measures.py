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


def two_level(n, share, size):
    """Log-probabilities of n tokens that hold `share` evenly, and the others the rest evenly."""
    p = np.full(size, (1 - share) / (size - n))
    p[:n] = share / n
    return torch.from_numpy(p).log()


@pytest.mark.parametrize(("n", "share"), [(4, 0.8), (10, 0.92), (25, 0.999)])
def test_a_two_level_distribution_has_its_closed_forms(n, share):
    # Entropy by the grouping rule: H(share) + share ln n + (1 - share) ln(V - n).
    size = 1000
    values = {
        k: v.item()
        for k, v in measures.vocabulary_measures(two_level(n, share, size)[None]).items()
    }
    total = entropy([share, 1 - share]) + share * np.log(n) + (1 - share) * np.log(size - n)
    assert values["total_entropy"] == pytest.approx(total / np.log(size), abs=1e-6)
    assert values["top1_probability"] == pytest.approx(share / n)
    for k in (5, 10, 25):
        if k <= n:
            assert values[f"top_k_entropy_{k}"] == pytest.approx(1, abs=1e-6)
    half = int(np.ceil(round(n * 0.5 / share, 9)))
    assert values["top_p_size_50"] == half
    assert values["top_p_entropy_50"] == pytest.approx(1, abs=1e-6)
    inside, outside = share, (1 - share) / (size - n)
    beyond = int(np.ceil((0.95 - inside) / outside)) if share < 0.95 else 0
    assert values["top_p_size_95"] == (n + beyond if beyond else np.ceil(n * 0.95 / share))


def test_top_k_entropies_of_a_geometric_distribution():
    # Of p_j ~ r^j the first k are geometric again, cut at k: H = ln S - (ln r / S) sum j r^j.
    r = 0.7
    log_probs = torch.arange(2000, dtype=torch.float64) * np.log(r) + np.log(1 - r)
    for k in measures.TOP_K:
        weights = r ** np.arange(k)
        expected = (
            np.log(weights.sum()) - np.log(r) * (np.arange(k) * weights).sum() / weights.sum()
        )
        value = measures.top_k_entropy(log_probs, k).item()
        assert value == pytest.approx(expected / np.log(k), abs=1e-6)
    # The first m hold 1 - r^m, so the nucleus has ceil(ln(1 - p) / ln r) tokens.
    for p in (0.5, 0.75, 0.9, 0.95):
        assert measures.top_p_size(log_probs, p) == np.ceil(np.log(1 - p) / np.log(r))


def far_from_every_cut(logits):
    p = np.sort(log_softmax(logits).exp().numpy())[::-1]
    return np.abs(np.cumsum(p)[:, None] - np.array(measures.TOP_P) / 100).min() > 3e-6


@given(logits=LOGITS, shift=st.floats(-50, 50), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_measures_ignore_order_and_added_constants(logits, shift, seed):
    order = np.random.default_rng(seed).permutation(len(logits))
    a = measures.vocabulary_measures(log_softmax(logits)[None])
    b = measures.vocabulary_measures(log_softmax(logits[order] + shift)[None])
    for name in a:
        if "top_p" not in name or far_from_every_cut(logits):
            assert a[name].item() == pytest.approx(b[name].item(), abs=1e-5)


@given(logits=LOGITS, cold=st.floats(0.2, 3), factor=st.floats(1.01, 4))
@settings(max_examples=60, deadline=None)
def test_a_higher_temperature_never_lowers_uncertainty(logits, cold, factor):
    # A hotter softmax is majorised by a colder one: its k largest hold less, for every k, and
    # renormalised to any fixed set of tokens the same holds, so these entropies rise with it.
    a, b = (
        measures.vocabulary_measures(log_softmax(logits / t)[None]) for t in (cold, cold * factor)
    )
    assert a["top1_probability"] >= b["top1_probability"] - 1e-6
    for name in a:
        if (
            name == "total_entropy"
            or "top_k" in name
            or ("size" in name and far_from_every_cut(logits / cold))
        ):
            assert a[name] <= b[name] + 1e-5, name
    few = measures.choice_entropy(log_softmax(logits / cold)[:2])
    assert few <= measures.choice_entropy(log_softmax(logits / cold / factor)[:2]) + 1e-5


def test_top_p_entropy_may_fall_as_the_temperature_rises():
    # By hand: (.5, .4, .1) has the even nucleus (.5, .4) at .9; hotter, a third token joins and the
    # set is less even than before.
    p = torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64)
    hot = (p.log() / 1.1).log_softmax(-1)
    assert measures.top_p_size(p.log(), 0.9) == 2 and measures.top_p_size(hot, 0.9) == 3
    assert measures.top_p_entropy(hot, 0.9) < measures.top_p_entropy(p.log(), 0.9) - 0.1


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


@given(logits=hnp.arrays(np.float64, (3, 20), elements=st.floats(-9, 9, width=32)))
@settings(max_examples=20, deadline=None)
def test_the_single_functions_agree_with_the_joint_one(logits):
    log_probs = log_softmax(logits)
    joint = measures.vocabulary_measures(log_probs)
    single = {
        "top1_probability": measures.top1_probability(log_probs),
        "total_entropy": measures.total_entropy(log_probs),
        **{f"top_k_entropy_{k}": measures.top_k_entropy(log_probs, k) for k in measures.TOP_K},
        **{f"top_p_size_{p}": measures.top_p_size(log_probs, p / 100) for p in measures.TOP_P},
        **{
            f"top_p_entropy_{p}": measures.top_p_entropy(log_probs, p / 100) for p in measures.TOP_P
        },
    }
    assert single.keys() == joint.keys()
    for name, value in single.items():
        torch.testing.assert_close(value.float(), joint[name], atol=1e-6, rtol=0)


def test_a_k_beyond_the_vocabulary_takes_all_of_it():
    log_probs = log_softmax(np.arange(7.0))
    for k in (7, 8, 100):
        assert measures.top_k_entropy(log_probs, k) == measures.total_entropy(log_probs)


@given(logits=LOGITS)
@settings(max_examples=30, deadline=None)
def test_total_entropy_is_top_k_entropy_of_the_whole_vocabulary(logits):
    log_probs = log_softmax(logits)
    value = measures.top_k_entropy(log_probs, len(logits)).item()
    assert value == pytest.approx(measures.total_entropy(log_probs).item(), abs=1e-6)


def test_one_choice_is_no_choice():
    assert measures.choice_entropy([-3.0]) == 0
    assert measures.total_entropy([0.0]) == 0
    assert measures.choice_entropy([[-3.0], [-0.1]]).tolist() == [0, 0]


def test_ties_at_the_boundary_leave_size_and_entropy_untouched():
    # By hand: whichever of the tied tokens enters, .4 + .2 reaches .6 with two, .4 + .2 + .2 .75.
    p = np.array([0.2, 0.4, 0.2, 0.2])
    for order in ([0, 1, 2, 3], [1, 3, 2, 0], [3, 2, 1, 0]):
        log_probs = torch.from_numpy(p[order]).log()
        assert measures.top_p_size(log_probs, 0.6) == 2
        assert measures.top_p_size(log_probs, 0.6, rule="published") == 2
        assert measures.top_p_size(log_probs, 0.75) == 3
        assert measures.top_p_size(log_probs, 0.75, rule="published") == 2
        value = measures.top_p_entropy(log_probs, 0.6).item()
        assert value == pytest.approx(entropy([2, 1]) / np.log(2), abs=1e-6)


def test_at_p_1_the_set_is_the_support():
    for rule, at_support in (("nucleus", 3), ("published", 5)):
        p = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0])
        assert measures.top_p_size(p.log(), 1, rule) == at_support
    uniform = torch.zeros(50).log_softmax(-1)
    assert measures.top_p_size(uniform, 1) == measures.top_p_size(uniform, 1, "published") == 50
    assert measures.top_p_entropy(uniform, 1).item() == pytest.approx(1, abs=1e-6)


def test_probabilities_of_exactly_zero_count_as_nothing():
    padded = torch.tensor([0.7, 0.2, 0.1] + [0.0] * 97).log()
    values = {k: v.item() for k, v in measures.vocabulary_measures(padded[None]).items()}
    assert all(np.isfinite(v) for v in values.values())
    nats = entropy([0.7, 0.2, 0.1])
    assert values["total_entropy"] == pytest.approx(nats / np.log(100), abs=1e-6)
    for k in measures.TOP_K:
        assert values[f"top_k_entropy_{k}"] == pytest.approx(nats / np.log(k), abs=1e-6)
    assert [values[f"top_p_size_{p}"] for p in measures.TOP_P] == [1, 2, 2, 3]
    assert measures.choice_entropy([-1.0, -torch.inf]) == 0


@given(logits=hnp.arrays(np.float64, (2, 60), elements=st.floats(-8, 8, width=32)))
@settings(max_examples=30, deadline=None)
def test_half_precision_is_computed_in_float32(logits):
    half = log_softmax(logits).half()
    ours = measures.vocabulary_measures(half)
    same = measures.vocabulary_measures(half.float())
    exact = measures.vocabulary_measures(log_softmax(logits))
    for name in ours:
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], same[name])
        # Rounded to 11 bits a log-probability is off by up to 4e-3, as are its probabilities.
        if "top_p" not in name:
            torch.testing.assert_close(ours[name], exact[name], atol=2e-2, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_computes_the_same():
    torch.manual_seed(0)
    log_probs = (4 * torch.randn(16, 50_000)).log_softmax(-1)
    cpu, gpu = (measures.vocabulary_measures(log_probs.to(d)) for d in ("cpu", "cuda"))
    for name in cpu:
        tolerance = 1 if "size" in name else 1e-4
        torch.testing.assert_close(gpu[name].cpu(), cpu[name], atol=tolerance, rtol=0)


SEEN = st.integers(2, 20)
WIDE = hnp.arrays(np.float64, st.integers(21, 150), elements=st.floats(-9, 9, width=32))


@given(logits=WIDE, k=SEEN)
@settings(max_examples=80, deadline=None)
def test_the_truth_lies_within_the_bounds(logits, k):
    log_probs = log_softmax(logits)
    bounds = measures.bounds_from_top(log_probs.topk(k).values, len(logits))
    values = measures.vocabulary_measures(log_probs[None])
    assert bounds.keys() == values.keys()
    for name, value in values.items():
        low, high = bounds[name]
        if "top_p" not in name or far_from_every_cut(logits):
            assert low - 2e-5 <= value.item() <= high + 2e-5, name


def completions(seen, size):
    """Distributions that agree with the seen probabilities and stand at the edge of what may be."""
    last, rest, unseen = seen[-1], 1 - seen.sum(), size - len(seen)
    full = int(rest / last + 1e-9)
    packed = np.r_[seen, np.full(full, last), max(rest - full * last, 0)]
    yield np.r_[packed, np.zeros(size - len(packed))]
    for n in range(full + 1):
        yield np.r_[
            seen, np.full(n, last), np.full(unseen - n, max(rest - n * last, 0) / (unseen - n))
        ]
    needs = [p / 100 - 2e-6 - seen.sum() for p in measures.TOP_P]
    for n in range(2, unseen):
        for each in (rest, *(need * n / (n - 1) for need in needs if need > 0)):
            each = min(each / n, last, rest / n)
            left = max(rest - n * each, 0) / (unseen - n)
            if left <= each:
                yield np.r_[seen, np.full(n, each), np.full(unseen - n, left)]


@pytest.mark.parametrize(
    "seen", [[0.5, 0.2, 0.1], [0.3, 0.25, 0.01], [0.92, 0.02], [0.3, 0.1, 0.003]]
)
def test_the_bounds_are_attained(seen):
    seen, size = np.array(seen), 300
    p = np.array(list(completions(seen, size)))
    assert np.allclose(p.sum(1), 1) and (np.sort(p, 1)[:, ::-1][:, : len(seen)] == seen).all()
    values = measures.vocabulary_measures(torch.from_numpy(p).log())
    for name, (low, high) in measures.bounds_from_top(np.log(seen), size).items():
        assert values[name].max().item() == pytest.approx(high.item(), abs=1e-4), name
        if "top_p_entropy" not in name or low == high:
            assert values[name].min().item() == pytest.approx(low.item(), abs=1e-4), name
        assert (values[name] >= low - 1e-5).all() and (values[name] <= high + 1e-5).all(), name


def test_bounds_by_hand():
    # Seen .6 and .2 of ten tokens: the rest, .2, is one token more at least, or .025 each of eight.
    low, high = measures.bounds_from_top(np.log([0.6, 0.2]), 10)["total_entropy"]
    assert low.item() == pytest.approx(entropy([0.6, 0.2, 0.2]) / np.log(10), abs=1e-6)
    assert high.item() == pytest.approx(entropy([0.6, 0.2] + [0.025] * 8) / np.log(10), abs=1e-6)
    sizes = measures.bounds_from_top(np.log([0.6, 0.2]), 10)["top_p_size_90"]
    assert [side.item() for side in sizes] == [3, 6]


@given(logits=WIDE, n=st.integers(2, 8), k=SEEN)
@settings(max_examples=80, deadline=None)
def test_choice_entropy_lies_within_its_bounds(logits, n, k):
    log_probs = log_softmax(logits)
    top = log_probs.topk(k)
    found = [log_probs[i] for i in range(n) if i in top.indices.tolist()]
    low, high = measures.choice_bounds(found, n, top.values)
    assert low - 1e-5 <= measures.choice_entropy(log_probs[:n]).item() <= high + 1e-5
    if len(found) == n:
        assert low == high


def test_choice_bounds_are_attained():
    top, missing = np.log([0.5, 0.3, 0.1]), 2
    low, high = measures.choice_bounds(top[1:], 4, top)
    absent, even = [0.3, 0.1, 0, 0], [0.3, 0.1, *[0.1 / missing] * missing]
    assert low == pytest.approx(entropy(absent) / np.log(4), abs=1e-6)
    assert high == pytest.approx(entropy(even) / np.log(4), abs=1e-6)
    assert measures.choice_bounds([], 4, top) == (0, 1)


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
    with pytest.raises(ValueError, match="every option has probability 0"):
        measures.choice_entropy([[-1.0, -2.0], [-torch.inf, -torch.inf]])
    with pytest.raises(ValueError, match="cannot be the most probable of 4"):
        measures.bounds_from_top(np.log([0.5, 0.1]), 4)
    with pytest.raises(ValueError, match="cannot be the most probable of 1"):
        measures.bounds_from_top(np.log([0.5, 0.5]), 1)
