"""P-values of correlations, and their correction for a family of tests."""

import numpy as np
from scipy import stats


def correlation_p(r, freedom: int) -> np.ndarray:
    """Two-sided p-value of a correlation by the t distribution; NaN without degrees of freedom.

    Examples
    --------
    >>> x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 7]
    >>> expected = stats.pearsonr(x, y)
    >>> bool(np.isclose(correlation_p(expected.statistic, 3), expected.pvalue))
    True
    """
    r = np.asarray(r, dtype=float)
    if freedom < 1:
        return np.full(r.shape, np.nan)
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt(freedom / (1 - r**2))
    return 2 * stats.t.sf(t, freedom)


def holm(p) -> np.ndarray:
    """Holm-corrected p-values over one family; NaN stays NaN and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, np.nan])
    array([0.02, 0.04,  nan])
    """

    def step_down(p):
        order = np.argsort(p, kind="stable")
        factors = np.arange(len(p), 0, -1)
        corrected = np.empty(len(p))
        corrected[order] = np.maximum.accumulate(p[order] * factors).clip(max=1)
        return corrected

    return _among_tested(step_down, p)


def benjamini_hochberg(p) -> np.ndarray:
    """Benjamini-Hochberg-corrected p-values over one family; NaN stays NaN and does not count.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, np.nan])
    array([0.02, 0.04,  nan])
    """
    return _among_tested(stats.false_discovery_control, p)


def _among_tested(correct, p) -> np.ndarray:
    p = np.asarray(p, dtype=float)
    tested = ~np.isnan(p)
    corrected = np.full(len(p), np.nan)
    if tested.any():
        corrected[tested] = correct(p[tested])
    return corrected
