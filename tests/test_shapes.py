import pytest
import torch

from uqlib.measures import MEASURES, vocabulary_measures
from uqlib.shapes import FAMILIES, SIZE, family_table, shaped_log_probs


def test_a_shape_by_hand():
    # Plausible tokens share .88 as 6 : 3 : 2 (1, 1/2, 1/3); two others share .12 as 2 : 1.
    p = shaped_log_probs(options=3, tail=0.12, size=5).exp()
    torch.testing.assert_close(p, torch.tensor([0.48, 0.24, 0.16, 0.08, 0.04]))


def test_temperature_divides_log_probabilities():
    cold, hot = (shaped_log_probs(temperature=t, size=100) for t in (1, 2))
    torch.testing.assert_close((cold / 2).log_softmax(-1), hot)


def test_the_families_hold_every_measure_within_its_bounds():
    table = family_table()
    assert set(table.measure) == set(MEASURES)
    assert len(table) == len(MEASURES) * sum(map(len, FAMILIES.values()))
    assert (table.low <= table.value + 2e-5).all() and (table.value <= table.high + 2e-5).all()
    row = table[(table.family == "tail") & (table.measure == "total_entropy")].iloc[-1]
    expected = vocabulary_measures(shaped_log_probs(tail=0.9)[None])["total_entropy"].item()
    assert row.value == pytest.approx(expected) and len(shaped_log_probs()) == SIZE
