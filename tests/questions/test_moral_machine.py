import pandas as pd
import pytest

from uqlib.paths import data_folder
from uqlib.questions import moral_machine
from uqlib.questions.moral import EFFECTS, LEVELS
from uqlib.questions.sources import missing_files

FOLDER = data_folder() / "moral_machine"
real = pytest.mark.skipif(
    bool(missing_files("moral_machine")), reason="moral_machine is not in the data folder"
)
ANSWERS = pd.DataFrame(
    {
        "ResponseID": ["a_1_1", "a_1_2"],
        "ScenarioType": ["Utilitarian"] * 2,
        "ScenarioTypeStrict": ["Utilitarian"] * 2,
        "AttributeLevel": ["Less", "More"],
        "Intervention": [0, 1],
        "PedPed": [1, 1],
        "Barrier": [0, 0],
        "CrossingSignal": [1, 2],
        "NumberOfCharacters": [1, 3],
        "DiffNumberOFCharacters": [2, 2],
        "Saved": [0, 1],
    }
)


def test_effects_of_people_follow_the_order_of_the_analysis():
    assert list(moral_machine.HUMAN_EFFECTS.index) == list(EFFECTS)
    assert set(moral_machine.NAMES.values()) == set(LEVELS)
    changed = moral_machine.HUMAN_EFFECTS != moral_machine.POOLED_HUMAN_EFFECTS
    assert list(changed[changed].index) == ["number"]


def test_answers_are_read_in_our_words(tmp_path):
    ANSWERS.to_csv(tmp_path / "answers.csv")
    table = moral_machine.read_shared_responses(tmp_path / "answers.csv")
    assert list(table.question_id) == ["a_1", "a_1"]
    assert list(table.scenario_type) == ["number"] * 2
    assert list(table.attribute_level) == ["fewer", "more"]
    assert list(table.saved) == [0, 1] and list(table.n_difference) == [2, 2]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("AttributeLevel", "Tall", r"answers.csv, row 3: AttributeLevel is 'Tall'"),
        ("Saved", 0, r"answers.csv: scenario a_1 has 2 rows, 0 of them saved"),
        ("ResponseID", "b_1", r"answers.csv: scenario a_1 has 1 rows"),
    ],
)
def test_bad_answers_are_named(tmp_path, column, value, message):
    broken = ANSWERS.copy()
    broken.loc[1, column] = value
    broken.to_csv(tmp_path / "answers.csv")
    with pytest.raises(ValueError, match=message):
        moral_machine.read_shared_responses(tmp_path / "answers.csv")


def test_bad_tables_are_named(tmp_path):
    path = tmp_path / "table.csv"
    ANSWERS.drop(columns="Saved").to_csv(path)
    with pytest.raises(ValueError, match=r"table.csv lacks the column\(s\) Saved"):
        moral_machine.read_shared_responses(path)
    effects = pd.DataFrame({"m": 0.5}, index=list(moral_machine.NAMES))
    effects.iloc[2] = 1.5
    effects.to_csv(path)
    with pytest.raises(ValueError, match=r"table.csv, m, law: 1.5 is no effect"):
        moral_machine.read_model_effects(path)
    effects.iloc[1:].to_csv(path)
    with pytest.raises(ValueError, match=r"lacks the row\(s\) intervention"):
        moral_machine.read_model_effects(path)
    country = pd.DataFrame({"Estimates": [0.1], "se": [0.1], "Label": ["Law"], "Country": ["XYZ"]})
    country.to_csv(path)
    with pytest.raises(ValueError, match="XYZ has 1 effects, not 13"):
        moral_machine.read_country_effects(path)
    country.assign(Label="Luck").to_csv(path)
    with pytest.raises(ValueError, match="row 2: Label is 'Luck'"):
        moral_machine.read_country_effects(path)


@real
def test_the_published_files_are_what_the_book_says_of_them():
    effects = moral_machine.read_model_effects(FOLDER / "table_S2.csv")
    assert effects.shape == (76, 9)
    pd.testing.assert_series_equal(
        effects.loc["Human"], moral_machine.HUMAN_EFFECTS, check_names=False
    )
    countries = moral_machine.read_country_effects(FOLDER / "country_specific_ACME.csv")
    assert countries.country.nunique() == 196
    # PAPERS section 4, inverse-variance means; countries with few answers have errors of nearly 0
    spread = countries.groupby("country").se.agg(["min", "max"])
    many = countries[countries.country.isin(spread.query("min > 1e-4 and max < 0.05").index)]
    weighted = many.assign(weight=1 / many.se**2)
    weighted["effect"] *= weighted.weight
    sums = weighted.groupby("dimension")[["effect", "weight"]].sum()
    expected = {"number": 0.506, "number_1": 0.340, "number_4": 0.646, "age": 0.491, "law": 0.359,
                "relation": 0.102, "species": 0.602, "intervention": 0.058}  # fmt: skip
    for name, value in expected.items():
        assert sums.effect[name] / sums.weight[name] == pytest.approx(value, abs=6e-4), name
