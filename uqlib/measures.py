"""Inference-time uncertainty measures of a next-token distribution.

Every function takes log-probabilities along the last axis (anything `torch.as_tensor` accepts) and
returns a float32 tensor without that axis. Entropies are Shannon entropies divided by the logarithm
of the number of tokens they run over, so they lie in [0, 1]. Source: Moore et al. (2025), section
3.
"""

import math

import numpy as np
import torch

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
        Log-probability of each option label over the whole vocabulary.

    Examples
    --------
    >>> choice_entropy(torch.tensor([0.01, 0.01, 0.01]).log()).item()
    1.0
    """
    return _normalised(_float(choice_log_probs).log_softmax(-1))


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


def _float(log_probs) -> torch.Tensor:
    return torch.as_tensor(log_probs).float()


def _entropy(log_probs: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)


def _normalised(log_probs: torch.Tensor) -> torch.Tensor:
    return (_entropy(log_probs) / math.log(log_probs.shape[-1])).clamp(max=1)


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
