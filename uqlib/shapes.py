"""Next-token distributions of known shape, on which the measures are compared."""

import numpy as np
import pandas as pd
import torch

from uqlib.measures import bounds_from_top, choice_bounds, choice_entropy, vocabulary_measures

SIZE = 32_000
SEEN = 20
FAMILIES = {
    "temperature": np.geomspace(0.25, 4, 25),
    "options": np.arange(2, 27),
    "tail": np.linspace(0, 0.9, 25),
}


def with_tail(plausible: np.ndarray, tail: float, size: int, exponent: float = 1) -> np.ndarray:
    """Add a tail to plausible tokens: all others, falling off by a power law of their rank.

    Parameters
    ----------
    plausible : ndarray
        Probabilities of the tokens that come first.
    tail : float
        Probability of all other tokens together.
    size : int
        V, more than the plausible ones.
    exponent : float
        1 is Zipf's law, 0 is flat.

    Returns
    -------
    ndarray of float64, shape (V,)

    Examples
    --------
    >>> with_tail(np.array([0.7]), 0.3, size=3)
    array([0.7, 0.2, 0.1])
    """
    others = np.arange(1, size - len(plausible) + 1, dtype=float) ** -exponent
    return np.concatenate([plausible, tail * others / others.sum()])


def shaped_log_probs(
    options: int = 4, tail: float = 0.1, temperature: float = 1, size: int = SIZE
) -> torch.Tensor:
    """Log-probabilities of a simulated next-token distribution with plausible tokens and a tail.

    Parameters
    ----------
    options : int
        Number of plausible tokens, which come first. The j-th has a weight of 1/j.
    tail : float
        Share of all other tokens together, in [0, 1). Among them, too, the j-th has 1/j.
    temperature : float
        Positive; the log-probabilities are divided by it and normalised again.
    size : int
        V, more than `options`.

    Returns
    -------
    Tensor of float32, shape (V,)

    Examples
    --------
    >>> shaped_log_probs(options=2, tail=0.25, size=3).exp()
    tensor([0.5000, 0.2500, 0.2500])
    """
    first = 1 / np.arange(1, options + 1)
    weights = torch.from_numpy(with_tail((1 - tail) * first / first.sum(), tail, size))
    return (weights.log() / temperature).log_softmax(-1).float()


def family_table() -> pd.DataFrame:
    """Compute every measure on three families of shapes, and what the top tokens tell of it.

    In each of `FAMILIES` one parameter of `shaped_log_probs` varies. The labels of the options are
    the plausible tokens.

    Returns
    -------
    DataFrame
        Columns `family`, `x` (the parameter), `measure`, `value`, and its bounds `low` and `high`
        when only the `SEEN` most probable tokens are known.
    """
    rows = []
    for family, values in FAMILIES.items():
        shapes = [{family: value.item()} for value in values]
        log_probs = torch.stack([shaped_log_probs(**shape) for shape in shapes])
        top, _ = log_probs.topk(SEEN)
        bounds = bounds_from_top(top, SIZE)
        for name, value in vocabulary_measures(log_probs).items():
            columns = {"value": value, "low": bounds[name][0], "high": bounds[name][1]}
            rows.append(pd.DataFrame({"family": family, "x": values, "measure": name, **columns}))
        rows.append(_choice_rows(family, shapes, log_probs, top))
    return pd.concat(rows, ignore_index=True)


def _choice_rows(family: str, shapes: list[dict], log_probs, top) -> pd.DataFrame:
    rows = []
    for shape, row, seen in zip(shapes, log_probs, top, strict=True):
        labels = row[: shape.get("options", 4)]
        low, high = choice_bounds(labels[labels >= seen[-1]], len(labels), seen)
        value = choice_entropy(labels).item()
        rows.append({"x": shape[family], "value": value, "low": low, "high": high})
    return pd.DataFrame(rows).assign(family=family, measure="choice_entropy")
