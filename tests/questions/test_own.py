import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.paths import data_folder
from uqlib.questions.gss import load_gss, load_gss_subpop
from uqlib.questions.own import load_own
from uqlib.questions.sources import missing_files

WIDE = pd.DataFrame(
    {
        "id": ["t", "c"],
        "question": ["Tea?", "Coffee, or not?"],
        "options": [["yes", "no"], ["none", "some", "NA"]],
        "shares": [[0.7, 0.3], [0.2, 0.3, 0.5]],
        "subject": ["kitchen", "office"],
    }
)


def write(folder, text, encoding="utf-8", name="mine.csv"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def as_csv(table, folder):
    cells = table.assign(options=table.options.map(json.dumps), shares=table.shares.map(json.dumps))
    cells.to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


def as_long(table, folder):
    long = table.explode(["options", "shares"])
    long = long.rename(columns={"options": "option", "shares": "share"})
    long.to_csv(folder / "long.csv", index=False)
    return folder / "long.csv"


def as_parquet(table, folder):
    table.to_parquet(folder / "mine.parquet")
    return folder / "mine.parquet"


@pytest.mark.parametrize("form", [as_csv, as_long, as_parquet])
def test_every_form_gives_the_same_questions(tmp_path, form):
    table, report = load_own(form(WIDE, tmp_path), "mine")
    assert list(table.question_id) == ["mine-t", "mine-c"]
    assert list(table.choices) == [["yes", "no"], ["none", "some", "NA"]]
    assert table.human_shares[1].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert list(table.subject) == ["kitchen", "office"]
    assert report.to_numpy().tolist() == [["read", "questions", 2, 0]]


def test_without_ids_they_come_from_the_content(tmp_path):
    table, _ = load_own(as_csv(WIDE.drop(columns=["id", "subject"]), tmp_path))
    turned, _ = load_own(as_csv(WIDE.drop(columns=["id", "subject"])[::-1], tmp_path))
    assert list(table.question_id) == list(turned.question_id)[::-1]
    assert set(table.subject) == {"survey"}


def test_rows_of_a_long_question_may_stand_apart(tmp_path):
    text = "question,option,share\nTea?,yes,0.7\nCoffee?,yes,0.4\nTea?,no,0.3\nCoffee?,no,0.6\n"
    table, _ = load_own(write(tmp_path, text))
    assert table.human_shares.map(list).tolist() == [[0.7, 0.3], [0.4, 0.6]]


def test_a_column_of_another_name_is_found(tmp_path):
    file = as_parquet(WIDE.rename(columns={"question": "wording"}), tmp_path)
    assert len(load_own(file, columns={"question": "wording"})[0]) == 2


HEAD = "question,options,shares\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv is empty"),
        (HEAD, "mine.csv has no rows"),
        ("question,options\nTea?,[]\n", "mine.csv: the columns must include question, options"),
        (HEAD + 'Tea?,"[""a"",""b""]"\n', r"mine.csv, row 1: not the 3 columns"),
        (HEAD + 'Tea?,"[""a"",""b""]","[1, 0]",x\n', r"mine.csv, row 1: not the 3 columns"),
        (HEAD + 'Tea?,"a, b","[1, 0]"\n', r"mine.csv, row 1: options: not a JSON list: 'a, b'"),
        (HEAD + 'Tea?,"[""a"",""b""]",1\n', r"mine.csv, row 1: shares: not a list: 1"),
        (HEAD + 'Tea?,"[""a"",""b""]","[1, null]"\n', r"mine.csv, row 1: .*number, not None"),
        (HEAD + 'Tea?,"[""a"",""b""]","[70, 30]"\n', r"from mine.csv:1\): .*sum to 100, not to 1"),
        (HEAD + 'Tea?,"[""a"",""b""]","[1]"\n', r"from mine.csv:1\): 1 human shares for 2"),
        (HEAD + 'Tea?,"[""a""]","[1]"\n', r"from mine.csv:1\): 1 options"),
        (HEAD + ' ,"[""a"",""b""]","[1, 0]"\n', r"mine.csv, row 1: the question is empty"),
        ("question,option,share\nTea?,yes,most\n", r"mine.csv, row 1: .*number, not 'most'"),
        ("question,option,share\nTea?,yes,1\n", r"from mine.csv:1\): 1 options"),
        (
            "id,question,option,share\n1,Tea?,yes,0.5\n1,Cake?,no,0.5\n",
            r"mine.csv, row 2: '1' is another question above: 'Cake\?'",
        ),
        (HEAD + '"Tea?', "mine.csv, after line 1: unexpected end of data"),
    ],
)
def test_bad_input_names_file_row_and_value(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_own(write(tmp_path, text))


def test_twenty_six_options_pass_and_twenty_seven_are_named(tmp_path):
    for n in (26, 27):
        rows = [f"Tea?,blend {k},{1 / n}" for k in range(n)]
        file = write(tmp_path, "\n".join(["question,option,share", *rows]))
        if n == 26:
            assert len(load_own(file)[0].choices[0]) == 26
        else:
            with pytest.raises(ValueError, match=r"from mine.csv:1\): 27 options"):
                load_own(file)


def test_encodings(tmp_path):
    text = "question,option,share\nCafé?,oui,0.5\nCafé?,non,0.5\n"
    assert load_own(write(tmp_path, text, "utf-8-sig"))[0].text[0] == "Café?"
    file = write(tmp_path, text, "latin-1")
    assert load_own(file, encoding="latin-1")[0].text[0] == "Café?"
    with pytest.raises(ValueError, match=r"mine.csv, line 2: the byte 0xe9 is not utf-8"):
        load_own(file)


def test_other_files_and_broken_parquet_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mine.xlsx: .*\.csv or a \.parquet"):
        load_own(write(tmp_path, "x", name="mine.xlsx"))
    with pytest.raises(ValueError, match=r"mine.parquet cannot be read as parquet"):
        load_own(write(tmp_path, "x", name="mine.parquet"))


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 50), min_size=2, max_size=26), min_size=1, max_size=5))
def test_rounded_shares_come_back_summing_to_one(tmp_path_factory, counts):
    rows = [
        (f"Question {k}?", f"option {j}", round(count / sum(group), 3))
        for k, group in enumerate(counts)
        for j, count in enumerate(group)
    ]
    file = tmp_path_factory.mktemp("own") / "mine.csv"
    pd.DataFrame(rows, columns=["question", "option", "share"]).to_csv(file, index=False)
    table, _ = load_own(file)
    assert table.human_shares.map(sum).tolist() == pytest.approx([1] * len(counts))
    assert table.question_id.is_unique


@pytest.mark.skipif(bool(missing_files("gss")), reason="no GSS file in the data folder")
def test_the_general_social_survey_is_read_whole():
    table, _ = load_gss(data_folder() / "survey/gss_latest_year.csv")
    assert len(table) == 5169 and table.choices.map(len).max() == 10
    work = table.set_index("question_id").loc["gss-wrkstat"]
    assert work.human_shares[0] == pytest.approx(1460 / 3299, abs=1e-5)


@pytest.mark.skipif(bool(missing_files("gss_subpop")), reason="no SubPOP file in the data folder")
def test_the_evaluation_questions_of_subpop_are_read_whole():
    table, _ = load_gss_subpop(data_folder() / "survey/gss_subpop_eval_joined.csv")
    assert len(table) == 126
    space = table.set_index("question_id").loc["gss_subpop-natspac"]
    assert space.human_shares.tolist() == pytest.approx(np_shares([358, 831, 496]), abs=1e-5)


def np_shares(counts):
    return [count / sum(counts) for count in counts]
