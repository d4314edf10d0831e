import pytest

from uqlib.paths import data_folder
from uqlib.questions.mmlu import load_mmlu
from uqlib.questions.sources import missing_files


def write(folder, text, name="tea_test.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder


def test_rows_become_questions(tmp_path):
    write(tmp_path, '"Hot, or not?",yes,no,"1,000",x,C\nCold?,a,b,c,d,A\n', "herbal_tea_test.csv")
    table, report = load_mmlu(tmp_path)
    assert report.to_numpy().tolist() == [["read", "questions", 2, 0]]
    assert list(table.text) == ["Hot, or not?", "Cold?"]
    assert table.choices[0] == ["yes", "no", "1,000", "x"]
    assert list(table.answer) == [2, 0]
    assert set(table.subject) == {"herbal tea"}
    assert table.source[1] == "herbal_tea_test.csv:2"


def test_a_byte_order_mark_is_no_part_of_the_question(tmp_path):
    write(tmp_path, "Hot?,a,b,c,d,A\n", encoding="utf-8-sig")
    assert load_mmlu(tmp_path)[0].text[0] == "Hot?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hot?,a,b,c,d,A\nCold?,a,b,c,d,E\n", r"tea_test.csv, row 2: .* not 'E'"),
        ("Hot?,a,b,c,d,\n", r"tea_test.csv, row 1: .* not ''"),
        ("Hot?,a,b,c,A\n", r"tea_test.csv, row 1: 5 columns instead of 6"),
        ("Hot?,a,,c,d,A\n", r"tea_test.csv, row 1: .* empty"),
        ('Hot?,a,b,c,d,A\n"Cold?,a,b', r"tea_test.csv: unexpected end of data"),
        ("", r"tea_test.csv is empty"),
    ],
)
def test_a_malformed_file_is_named_with_row_and_value(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_mmlu(write(tmp_path, text))


def test_a_wrong_encoding_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"tea_test.csv, line 1: the byte 0xe9 is not utf-8;"):
        load_mmlu(write(tmp_path, "Café?,a,b,c,d,A\n", encoding="latin-1"))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*_test.csv"):
        load_mmlu(tmp_path)


@pytest.mark.skipif(bool(missing_files("mmlu")), reason="MMLU is not in the data folder")
def test_the_real_files_lose_nothing():
    # 14,042 test questions in 57 subjects: Hendrycks et al. (2020), Table of the appendix.
    table, _ = load_mmlu(data_folder() / "mmlu/test")
    assert len(table) == 14042
    assert table.subject.nunique() == 57


@pytest.mark.skipif(bool(missing_files("mmlu_dev")), reason="no dev files in the data folder")
def test_the_dev_files_hold_five_questions_a_subject():
    table, _ = load_mmlu(data_folder() / "mmlu/dev", "dev")
    assert set(table.dataset) == {"mmlu_dev"}
    assert (table.groupby("subject").size() == 5).all() and table.subject.nunique() == 57
