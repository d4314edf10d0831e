"""Inference-time uncertainty measures of a next-token distribution.

Every function takes log-probabilities along the last axis (anything `torch.as_tensor` accepts) and
returns a float32 tensor without that axis. Entropies are Shannon entropies divided by the logarithm
of the number of tokens they run over, so they lie in [0, 1]. Source: Moore et al. (2025), section
3.
"""

import math

import numpy as np
import torch
from scipy.special import entr

TOP_K = (5, 10, 25, 50, 100)
TOP_P = (50, 75, 90, 95)
TOLERANCE = 1e-6
MEASURES = (
    "top1_probability",
    "total_entropy",
    *(f"top_k_entropy_{k}" for k in TOP_K),
    "choice_entropy",
    *(f"top_p_size_{p}" for p in TOP_P),
    *(f"top_p_entropy_{p}" for p in TOP_P),
)
CERTAINTIES = ("top1_probability",)


def top1_probability(log_probs) -> torch.Tensor:
    """Largest next-token probability, in (0, 1]: a certainty, not an uncertainty.

    Examples
    --------
    >>> top1_probability(torch.tensor([0.5, 0.3, 0.2]).log()).item()
    0.5
    """
    return _float(log_probs).amax(-1).exp()


def total_entropy(log_probs) -> torch.Tensor:
    """Entropy over the whole vocabulary divided by ln V, in [0, 1].

    Examples
    --------
    >>> total_entropy(torch.zeros(50).log_softmax(-1)).item()
    1.0
    """
    return _normalised(_float(log_probs))


def top_k_entropy(log_probs, k: int) -> torch.Tensor:
    """Entropy of the k most probable tokens, renormalised by their sum, divided by ln k; in [0, 1].

    With fewer than `k` tokens in the vocabulary, all are taken.

    Raises
    ------
    ValueError
        If k is less than 2.

    Examples
    --------
    >>> top_k_entropy(torch.tensor([0.4, 0.4, 0.1, 0.1]).log(), k=2).item()
    1.0
    """
    if k < 2:
        raise ValueError(f"top-k entropy needs k >= 2, not {k}")
    log_probs = _float(log_probs)
    k = min(k, log_probs.shape[-1])
    return _normalised(log_probs.topk(k).values.log_softmax(-1))


def choice_entropy(choice_log_probs) -> torch.Tensor:
    """Entropy over the option labels, renormalised by their sum, divided by ln n; in [0, 1].

    Parameters
    ----------
    choice_log_probs : array_like, shape (..., n)
        Log-probability of each option label over the whole vocabulary. A single option leaves no
        choice, and has entropy 0.

    Raises
    ------
    ValueError
        If every option of a row has probability 0: there is nothing to renormalise.

    Examples
    --------
    >>> choice_entropy(torch.tensor([0.01, 0.01, 0.01]).log()).item()
    1.0
    """
    log_probs = _float(choice_log_probs)
    if (log_probs == -torch.inf).all(-1).any():
        raise ValueError("choice entropy is undefined where every option has probability 0")
    return _normalised(log_probs.log_softmax(-1))


def top_p_size(log_probs, p: float, rule: str = "nucleus") -> torch.Tensor:
    """Count the tokens in the top-p set.

    Parameters
    ----------
    log_probs : array_like, shape (..., V)
    p : float
        In (0, 1].
    rule : {"nucleus", "published"}
        `nucleus`: the smallest set of most probable tokens that reaches `p`. `published`: the
        largest set that stays at or below `p`, as in the released code; it may be empty.
        A sum within `TOLERANCE` of `p` counts as equal, so that rounding does not decide.

    Returns
    -------
    Tensor of int64, shape (...)
        Between 1 (0 under `published`) and V.

    Examples
    --------
    >>> p = torch.tensor([0.6, 0.4]).log()
    >>> top_p_size(p, 0.5).item(), top_p_size(p, 0.5, rule="published").item()
    (1, 0)
    """
    mass, _ = _cumulative(_descending(log_probs))
    return _size(mass, p, rule)


def top_p_entropy(log_probs, p: float, rule: str = "nucleus") -> torch.Tensor:
    """Entropy of the top-p set, renormalised by its sum, divided by the ln of its size; in [0, 1].

    A set of one token has entropy 0. Under `published`, an empty set has entropy 1, as in the
    released code. Parameters are those of `top_p_size`.

    Examples
    --------
    >>> p = torch.tensor([0.6, 0.4]).log()
    >>> [top_p_entropy(p, 0.5).item(), top_p_entropy(p, 0.5, rule="published").item()]
    [0.0, 1.0]
    """
    mass, entropy = _cumulative(_descending(log_probs))
    return _top_entropy(mass, entropy, _size(mass, p, rule))


def vocabulary_measures(log_probs) -> dict[str, torch.Tensor]:
    """Compute every measure but choice entropy with a single sort of the vocabulary.

    Parameters
    ----------
    log_probs : array_like, shape (batch, V)

    Returns
    -------
    dict of Tensor, each of shape (batch,), float32
        Keys are those of `MEASURES` without `choice_entropy`; equal to the single functions.

    Examples
    --------
    >>> values = vocabulary_measures(torch.zeros(1, 100).log_softmax(-1))
    >>> len(values), values["top_p_size_50"].item()
    (15, 50.0)
    """
    log_probs = _descending(log_probs)
    mass, entropy = _cumulative(log_probs)
    values = {
        "top1_probability": top1_probability(log_probs[..., :1]),
        "total_entropy": (entropy[..., -1] / math.log(log_probs.shape[-1])).clamp(max=1).float(),
    }
    for k in TOP_K:
        values[f"top_k_entropy_{k}"] = top_k_entropy(log_probs[..., :k], k)
    for p in TOP_P:
        size = _size(mass, p / 100, "nucleus")
        values[f"top_p_size_{p}"] = size.float()
        values[f"top_p_entropy_{p}"] = _top_entropy(mass, entropy, size)
    return values


def bounds_from_top(
    top_log_probs, vocabulary_size: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Bound every measure but choice entropy, knowing only the most probable tokens.

    The tokens that are not listed share what is left, and none is more probable than the last one
    listed. Nothing else is known of them.

    Parameters
    ----------
    top_log_probs : array_like, shape (..., k)
        Log-probabilities of the k most probable tokens, as some services return them.
    vocabulary_size : int
        V, the number of tokens, at least k.

    Returns
    -------
    dict of (Tensor, Tensor), each of shape (...), float32
        Lowest and highest possible value, in [0, 1] or, for sizes, in tokens. Keys are those of
        `vocabulary_measures`.

    Raises
    ------
    ValueError
        If no vocabulary of that size can hold what is left.

    Notes
    -----
    Every bound is the value of a distribution that agrees with the list, or its limit, but for one:
    where the list does not reach p, the lower bound of top-p entropy divides the lowest entropy of
    the set by the logarithm of its largest size, and these need not occur together. Derived in
    chapters 21 to 25.

    Examples
    --------
    >>> low, high = bounds_from_top(torch.tensor([0.6, 0.2]).log(), 100)["total_entropy"]
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.206, 0.405)
    """
    top = torch.as_tensor(top_log_probs).double().cpu().numpy()
    rows = [
        _row_bounds(row, vocabulary_size)
        for row in np.exp(-np.sort(-top, axis=-1)).reshape(-1, top.shape[-1])
    ]
    shape = top.shape[:-1]
    return {
        name: tuple(
            torch.tensor([row[name][side] for row in rows], dtype=torch.float32).reshape(shape)
            for side in (0, 1)
        )
        for name in rows[0]
    }


def choice_bounds(found_log_probs, n_choices: int, top_log_probs) -> tuple[float, float]:
    """Bound the choice entropy of one question, knowing only the most probable tokens.

    Parameters
    ----------
    found_log_probs : array_like, shape (m,)
        Log-probabilities of the option labels that are among the tokens listed; m may be 0.
    n_choices : int
        Number of options, at least m.
    top_log_probs : array_like, shape (k,)
        Log-probabilities of all tokens listed.

    Returns
    -------
    (float, float)
        Lowest and highest possible value, in [0, 1]. Derived in chapter 23.

    Examples
    --------
    >>> top = torch.tensor([0.5, 0.3, 0.1]).log()
    >>> low, high = choice_bounds(top[:2], 3, top)
    >>> round(low, 3), round(high, 3)
    (0.602, 0.853)
    """
    top = torch.as_tensor(top_log_probs).double().exp()
    found = torch.as_tensor(found_log_probs).double().exp()
    missing = n_choices - len(found)
    if missing and not len(found):
        return 0.0, 1.0
    each = min(top.min().item(), max(1 - top.sum().item(), 0) / max(missing, 1))
    ends = [torch.cat([found, torch.full((missing,), x)]) for x in (0.0, each)]
    low, high = (choice_entropy(p.log()).item() for p in ends)
    return low, high


def _row_bounds(seen: np.ndarray, size: int) -> dict[str, tuple[float, float]]:
    """Bounds of the measures from one row of most probable probabilities, in descending order."""
    mass, terms = np.cumsum(seen), np.cumsum(entr(seen))
    unseen, last = size - len(seen), seen[-1]
    rest = max(1 - mass[-1], 0)
    if unseen < 0 or rest > unseen * last + TOLERANCE:
        raise ValueError(
            f"{len(seen)} tokens of together {mass[-1]:.6f}, the last with {last:.3g}, cannot be "
            f"the most probable of {size}"
        )
    rest = min(rest, unseen * last)
    bounds = {"top1_probability": (seen[0], seen[0])}
    bounds["total_entropy"] = _top_k_bounds(mass, terms, last, rest, unseen, size)
    for k in TOP_K:
        bounds[f"top_k_entropy_{k}"] = _top_k_bounds(mass, terms, last, rest, unseen, min(k, size))
    for p in TOP_P:
        sizes, entropies = _top_p_bounds(mass, terms, last, rest, unseen, p / 100)
        bounds[f"top_p_size_{p}"], bounds[f"top_p_entropy_{p}"] = sizes, entropies
    return bounds


def _top_k_bounds(mass, terms, last, rest, unseen, k) -> tuple[float, float]:
    """Bounds of top-k entropy: over all ways to give k tokens what the list leaves open.

    The highest value spreads the rest evenly. The lowest gives some tokens the probability of the
    last one listed, and the rest to one token more, or evenly to all others.
    """
    more = k - len(mass)
    if more <= 0:
        value = _renormalised(mass[k - 1], terms[k - 1]) / math.log(max(k, 2))
        return value, value
    each = min(last, rest / more)
    high = _renormalised(mass[-1] + more * each, terms[-1] + more * entr(each))
    full, part = _packed(rest, last)
    some = np.arange(min(full, more) + 1)
    even = np.maximum(rest - some * last, 0) / np.maximum(unseen - some, 1)
    low = _renormalised(
        mass[-1] + some * last + (more - some) * even,
        terms[-1] + some * entr(last) + (more - some) * entr(even),
    ).min()
    if full + (part > 0) <= more:
        low = min(low, _renormalised(mass[-1] + rest, terms[-1] + _packed_terms(rest, last)))
    return low / math.log(k), min(high / math.log(k), 1)


def _top_p_bounds(mass, terms, last, rest, unseen, p):
    """Bounds of top-p size and top-p entropy; equal where the list reaches p."""
    n_seen, need = len(mass), p - TOLERANCE - mass[-1]
    if need <= 0 or not rest:
        size = min((mass < p - TOLERANCE).sum() + 1, n_seen)
        value = _renormalised(mass[size - 1], terms[size - 1]) / math.log(max(size, 2))
        return (size, size), (value, value)
    need = min(need, rest)
    more = np.arange(math.ceil(need / last), math.ceil(need * unseen / rest) + 1)
    each = np.minimum(np.minimum(last, rest / more), need / np.maximum(more - 1, need / last))
    high = _renormalised(mass[-1] + more * each, terms[-1] + more * entr(each))
    low = _renormalised(mass[-1] + need, terms[-1] + _packed_terms(need, last))
    sizes = n_seen + more
    return (sizes[0], sizes[-1]), (low / math.log(sizes[-1]), min((high / np.log(sizes)).max(), 1))


def _packed(rest: float, last: float) -> tuple[int, float]:
    """How many tokens of probability `last` hold `rest`, and what is left for one more."""
    full = int(rest / last * (1 + 1e-12)) if rest else 0
    return full, max(rest - full * last, 0)


def _packed_terms(rest: float, last: float) -> float:
    full, part = _packed(rest, last)
    return full * entr(last) + entr(part)


def _renormalised(mass, terms):
    """Entropy of probabilities that sum to `mass`, from their summed -p ln p, after division."""
    return np.maximum(terms / mass + np.log(mass), 0)


def _float(log_probs) -> torch.Tensor:
    return torch.as_tensor(log_probs).float()


def _entropy(log_probs: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)


def _normalised(log_probs: torch.Tensor) -> torch.Tensor:
    return (_entropy(log_probs) / math.log(max(log_probs.shape[-1], 2))).clamp(max=1)


def _descending(log_probs) -> torch.Tensor:
    log_probs = _float(log_probs)
    if log_probs.device.type == "cpu":
        return torch.from_numpy(-np.sort(-log_probs.numpy(), axis=-1))
    return log_probs.sort(-1, descending=True).values


def _cumulative(descending: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum p and -p ln p over the first tokens, for every number of them."""
    dtype = torch.float32 if descending.device.type == "mps" else torch.float64
    probabilities = descending.exp()
    terms = -probabilities * descending.clamp(min=torch.finfo(torch.float32).min)
    return probabilities.cumsum(-1, dtype=dtype), terms.cumsum(-1, dtype=dtype)


def _size(mass: torch.Tensor, p: float, rule: str) -> torch.Tensor:
    if not 0 < p <= 1:
        raise ValueError(f"p must lie in (0, 1], not {p}")
    if rule == "nucleus":
        return ((mass < p - TOLERANCE).sum(-1) + 1).clamp(max=mass.shape[-1])
    if rule == "published":
        return (mass <= p + TOLERANCE).sum(-1)
    raise ValueError(f"unknown rule {rule!r}; known: nucleus, published")


def _top_entropy(mass: torch.Tensor, entropy: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    last = (size - 1).clamp(min=0).unsqueeze(-1)
    mass, entropy = mass.gather(-1, last).squeeze(-1), entropy.gather(-1, last).squeeze(-1)
    value = ((entropy / mass + mass.log()) / size.clamp(min=2).log()).clamp(0, 1).float()
    return torch.where(size > 1, value, (size == 0).float())
