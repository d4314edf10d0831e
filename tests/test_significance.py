import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.multitest import multipletests

from uqlib.significance import benjamini_hochberg, correlation_p, holm


@pytest.mark.parametrize(("correct", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
@given(hnp.arrays(float, st.integers(0, 12), elements=st.floats(0, 1)))
@settings(max_examples=15, deadline=None)
def test_corrections_match_statsmodels(correct, method, p):
    if len(p):
        np.testing.assert_allclose(correct(p), multipletests(p, method=method)[1])
    np.testing.assert_allclose(correct([*p, np.nan])[:-1], correct(p))


def test_holm_by_hand():
    # Holm (1979): sorted p times (m, m-1, ...), made monotone.
    np.testing.assert_allclose(holm([0.01, 0.03, 0.04]), [0.03, 0.06, 0.06])


def test_p_values_without_freedom_are_missing():
    assert np.isnan(correlation_p([0.5, 1.0], 0)).all()
