"""The playground: what Vega computes in the page is what `uqlib.measures` computes."""

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from uqlib.measures import MEASURES
from uqlib.playground import (
    START,
    VOCABULARIES,
    drawn_measures,
    expected_measures,
    playground_html,
    playground_log_probs,
    read_measures,
)

STATES = [
    START,
    START | {"temperature": 0.1},
    START | {"temperature": 5.0, "tail": 0.95, "vocabulary": 10000},
    START | {"ratio": 1.0, "tail": 0.0, "options": 5},
    START | {"ratio": 1.0, "tail": 0.5, "options": 10, "vocabulary": 20},
    START | {"options": 2, "ratio": 0.05, "tail": 0.8, "temperature": 2.35},
    START | {"options": 7, "ratio": 0.35, "tail": 0.05, "temperature": 0.45, "vocabulary": 5000},
]


def assert_equal(found, state):
    expected = expected_measures(state)
    assert found.keys() == set(MEASURES)
    for name in MEASURES:
        tolerance = 0 if "size" in name else 2e-6
        assert found[name] == pytest.approx(expected[name], abs=tolerance), (name, state)


@given(
    st.floats(0.1, 5),
    st.integers(2, 10),
    st.floats(0.05, 1),
    st.just(0.0) | st.floats(0.001, 0.95),
    st.sampled_from(VOCABULARIES),
)
def test_the_family_of_distributions_is_what_the_page_says(
    temperature, options, ratio, tail, vocabulary
):
    log_probs = playground_log_probs(temperature, options, ratio, tail, vocabulary)
    assert len(log_probs) == vocabulary
    assert np.exp(log_probs).sum() == pytest.approx(1)
    np.testing.assert_allclose(
        np.diff(log_probs[:options]) * temperature, np.log(ratio), rtol=0, atol=1e-8
    )
    at_one = np.exp(playground_log_probs(1, options, ratio, tail, vocabulary))
    assert at_one[options:].sum() == pytest.approx(tail, abs=1e-12)
    if tail:
        np.testing.assert_allclose(
            at_one[options] / at_one[options:], np.arange(1, vocabulary - options + 1)
        )


def test_expected_measures_by_closed_form():
    values = expected_measures(
        {"temperature": 1.7, "options": 5, "ratio": 1.0, "tail": 0.0, "vocabulary": 20}
    )
    assert values["choice_entropy"] == values["top_k_entropy_5"] == pytest.approx(1)
    assert values["total_entropy"] == pytest.approx(np.log(5) / np.log(20))
    assert [values[f"top_p_size_{p}"] for p in (50, 75, 90, 95)] == [3, 4, 5, 5]
    uneven = expected_measures(START | {"tail": 0.0})
    p = 0.6 ** np.arange(4)
    assert uneven["choice_entropy"] == pytest.approx(entropy(p) / np.log(4))


@pytest.mark.parametrize("state", STATES, ids=str)
def test_vega_computes_the_measures_of_uqlib(state):
    assert_equal(drawn_measures(state), state)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            "temperature": st.integers(2, 100).map(lambda i: round(i * 0.05, 2)),
            "options": st.integers(2, 10),
            "ratio": st.integers(1, 20).map(lambda i: round(i * 0.05, 2)),
            "tail": st.integers(0, 19).map(lambda i: round(i * 0.05, 2)),
            "vocabulary": st.sampled_from(VOCABULARIES),
        }
    )
)
def test_vega_computes_the_measures_of_uqlib_wherever_the_sliders_stand(state):
    assert_equal(drawn_measures(state), state)


def test_the_page_holds_all_it_needs():
    page = playground_html()
    tree = BeautifulSoup(page, "html.parser")
    assert not tree.find_all(["link", "img", "iframe"])
    assert [script.attrs for script in tree.find_all("script")] == [{}, {}]
    assert {control["name"] for control in tree.select("[name]")} == START.keys()
    assert all(control.find_parent("label") for control in tree.select("[name]"))


def address_of(file, state):
    return f"{file.as_uri()}#" + "&".join(f"{name}={value}" for name, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES, ids=str)
def test_a_browser_shows_the_measures_of_uqlib_from_a_file(state, tmp_path, browser):
    file = tmp_path / "playground.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'>{playground_html()}")
    shown = browser(address_of(file, state))
    assert_equal(read_measures(shown), state)


@pytest.mark.slow
def test_sliders_move_the_measures(tmp_path, browser):
    move = """<script>
    const wait = () => document.querySelector("#playground form").dataset.drawn
      ? step() : setTimeout(wait, 20);
    const step = () => {
      for (const [name, value] of [["temperature", 2.35], ["options", 2], ["vocabulary", 50]]) {
        const control = document.querySelector(`#playground [name=${name}]`);
        control.value = value;
        control.dispatchEvent(new Event("input", { bubbles: true }));
      }
    };
    wait();
    </script>"""
    file = tmp_path / "playground.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'>{playground_html()}{move}")
    shown = browser(file.as_uri())
    state = START | {"temperature": 2.35, "options": 2, "vocabulary": 50}
    assert_equal(read_measures(shown), state)
    assert "<output>2.35</output>" in shown
