import sys
import types

import pandas as pd
import pytest

from uqlib.paths import data_folder
from uqlib.questions import hub
from uqlib.questions.mmlu import load_mmlu
from uqlib.questions.sources import missing_files


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """A stand-in for the library: reads a local parquet file for a data set and split."""
    asked = []

    def load_dataset(path, name=None, split=None, revision=None):
        asked.append((path, name, split, revision))
        return iter(pd.read_parquet(tmp_path / f"{split}.parquet").to_dict("records"))

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    module.asked = asked
    return module


def test_rows_come_from_the_hub_at_the_pinned_commit(datasets, tmp_path):
    frame = pd.DataFrame({"question": ["Hot?"], "subject": ["herbal_tea"],
                          "choices": [["a", "b", "c", "d"]], "answer": [2]})  # fmt: skip
    frame.to_parquet(tmp_path / "dev.parquet")
    table, _ = hub.load_mmlu_rows(hub.fetch_hub("mmlu", "dev"), "dev")
    assert datasets.asked == [("cais/mmlu", "all", "dev", hub.REVISIONS["mmlu"])]
    assert len(hub.REVISIONS["mmlu"]) == 40
    assert (table.dataset[0], table.subject[0], table.answer[0]) == ("mmlu_dev", "herbal tea", 2)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"uqlib\[hub\]"):
        hub.fetch_hub("subpop", "train")


@pytest.mark.parametrize("answer", [4, -1, None])
def test_an_answer_outside_the_options_is_named(answer):
    row = {"question": "Hot?", "subject": "tea", "choices": list("abcd"), "answer": answer}
    with pytest.raises(ValueError, match="cais/mmlu, row 1"):
        hub.load_mmlu_rows([row])


@pytest.mark.skipif(bool(missing_files("mmlu")), reason="MMLU is not in the data folder")
def test_rows_of_the_hub_get_the_ids_of_the_files():
    table, _ = load_mmlu(data_folder() / "mmlu/test")
    rows = [
        {"question": r.text, "subject": r.subject.replace(" ", "_"), "choices": r.choices,
         "answer": r.answer}
        for r in table.sample(300, random_state=0).itertuples()
    ]  # fmt: skip
    assert set(hub.load_mmlu_rows(rows)[0].question_id) <= set(table.question_id)


def opinion(selections, options="['Yes', 'No', 'Refused']", question="Tea?"):
    return {"question": question, "options": options, "selections": selections, "source": "demo"}


WALES = "defaultdict(<class 'list'>, {'Wales': [0.6, 0.3, 0.1], 'Malta': [0.0, 0.0, 1.0]})"


def test_opinions_of_a_country():
    rows = [
        opinion(WALES),
        opinion("defaultdict(<class 'list'>, {'Malta': [0.1, 0.2, 0.7]})"),
        opinion(WALES, question=None),
    ]
    table, report = hub.load_global_opinions(rows, "Wales")
    assert table.choices[0] == ["Yes", "No"]
    assert table.human_shares[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert report.dropped.tolist() == [0, 1, 1]
    table, report = hub.load_global_opinions(rows, "Malta")
    assert len(table) == 1 and report.dropped.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (opinion("{'Wales': [0.5, 0.5]}"), "row 1: 2 shares for 3 options"),
        (opinion("{'Wales': open('x')}"), "row 1: not a list or dict"),
        (opinion("{'Malta': [0.5, 0.4, 0.1]}"), "no question was asked in 'Wales'; .*: Malta"),
        (opinion("{'Wales': [0.0, 0.0, 1.0]}"), "no question is left"),
    ],
)
def test_bad_opinions_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        hub.load_global_opinions([row], "Wales")


def group(name, responses=(0.75, 0.25)):
    return {"qkey": "TEA_W1", "attribute": "AGE", "group": name, "question": "Tea?",
            "options": ["Yes", "No", "Refused"], "responses": list(responses)}  # fmt: skip


def test_a_group_of_subpop():
    table, report = hub.load_subpop([group("18-29"), group("65+", (0.5, 0.5))], "AGE", "65+")
    assert (table.question_id[0], table.subject[0]) == ("subpop-TEA_W1", "AGE: 65+")
    assert table.human_shares[0].tolist() == [0.5, 0.5]
    assert report.to_numpy().tolist() == [["read", "rows", 2, 0], ["other groups", "rows", 1, 1]]
    with pytest.raises(ValueError, match="there are AGE: 18-29"):
        hub.load_subpop([group("18-29")], "AGE", "65+")
    with pytest.raises(ValueError, match="row 1: 3 shares for 3 options"):
        hub.load_subpop([group("65+", (0.5, 0.3, 0.2))], "AGE", "65+")
