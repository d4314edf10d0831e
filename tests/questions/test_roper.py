import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.questions.common import is_refusal
from uqlib.questions.roper import PAPER, SEARCH, load_roper, read_export

RULE = "-" * 60


def record(number, answers, question="How do you take your tea?", date="[01/02/2020 - 01/09/2020]"):
    return "\n".join(
        [
            f"Kettle Poll {number} {date}",
            "",
            question,
            "",
            *answers,
            "",
            f"Citation: Kettle Institute. Kettle Poll {number}, 2020.",
            f"Question: [3110{number}.00001]",
            f"Study: [Roper #3110{number}]",
            "Sample: National adult",
            "Sample Size: 1004",
            "",
        ]
    )


def export(folder, *records, encoding="utf-8"):
    text = "\n".join(["iPoll export", "", f"\n{RULE}\n".join(records), RULE, ""])
    file = folder / "export.txt"
    file.write_bytes(text.encode(encoding))
    return file


def many(*answers):
    return [record(k, a) for k, a in enumerate(answers, start=1)]


def left(report, unit="questions"):
    return dict(report[report.unit == unit][["step", "left"]].to_numpy())


def test_a_record_is_read_with_its_fields(tmp_path):
    answers = ["42% Strong,", "", "with milk", "  8%\tWeak", "% Cold", "*  Iced", "50% Refused"]
    question = "(Thinking of tea)...\nHow do you take yours?"
    (found,) = read_export(export(tmp_path, record(1, answers, question, "[01/02/2020]")))
    assert found["answers"] == [
        ("Strong, with milk", 42),
        ("Weak", 8),
        ("Cold", 0),
        ("Iced", 0),
        ("Refused", 50),
    ]
    assert found["text"] == "(Thinking of tea)... How do you take yours?"
    assert (found["id"], found["study"]) == ("31101.00001", "31101")
    assert (found["sample"], found["sample_size"]) == ("National adult", 1004)
    assert found["source"] == "export.txt:3"


def test_refusals_go_and_rejections_stay(tmp_path):
    file = export(tmp_path, *many(["60% Tea", "20% None of these", "20% Don’t know/Refused"]))
    table, report = load_roper(file)
    shares = dict(zip(table.choices[0], table.human_shares[0], strict=True))
    assert shares == pytest.approx({"Tea": 0.75, "None of these": 0.25})
    assert left(report, "options") == {
        "read": 3,
        "in questions with such an answer": 3,
        "refusal": 2,
    }


@pytest.mark.parametrize(
    ("answers", "text", "published"),
    [
        # Two options and a refusal: N is 2 as the text says, 3 in the code. The sum is 102.
        (["52% Tea", "48% Coffee", "2% Refused"], False, True),
        (["51% Tea", "48% Coffee", "2% Refused"], True, True),
        (["50% Tea", "47% Coffee", "1% Refused"], False, True),
        (["50% Tea", "46% Coffee", "1% Refused"], False, False),
        (["60% Tea", "42% Coffee"], False, False),
        (["59% Tea", "42% Coffee"], True, True),
    ],
)
def test_the_sum_must_be_within_n_of_a_hundred(tmp_path, answers, text, published):
    file = export(tmp_path, *many(answers, ["50% Yes", "50% No"]))
    for method, kept in (("text", text), ("published", published)):
        table, report = load_roper(file, method=method)
        assert len(table) == 1 + kept
        assert left(report)["raw percentages do not sum to 100"] == 1 + kept


def test_the_order_of_the_tests_is_that_of_the_method(tmp_path):
    both = ["90% Tea", "60% Refused"]
    file = export(tmp_path, *many(both, ["50% Yes", "50% No"]))
    for method, step in (
        ("text", "fewer than two options after refusals"),
        ("published", "raw percentages do not sum to 100"),
    ):
        report = load_roper(file, method=method)[1].set_index("step")
        assert report.dropped[step] == 1


def test_twenty_six_options_are_kept_and_twenty_seven_are_not(tmp_path):
    full = ["75% Tea", *[f"1% Blend {k}" for k in range(25)]]
    over = ["74% Tea", *[f"1% Blend {k}" for k in range(26)]]
    file = export(tmp_path, *many(full, over))
    for method in ("text", "published"):
        table, report = load_roper(file, method=method)
        assert table.choices.map(len).tolist() == [26]
        assert left(report)["more than 26 options"] == 1
    assert report.step.iloc[-1] == "more than 26 options"


def test_a_percentage_without_text_drops_its_question_and_is_counted(tmp_path):
    file = export(tmp_path, *many(["50% Tea", "50%"], ["50% Yes", "50% No"]))
    table, report = load_roper(file)
    assert len(table) == 1 and left(report)["an answer without text"] == 1


def test_a_question_nobody_answered_is_dropped(tmp_path):
    file = export(tmp_path, *many(["* Tea", "* Coffee", "100% Refused"], ["50% Yes", "50% No"]))
    table, report = load_roper(file)
    assert len(table) == 1 and left(report)["nobody chose an option"] == 1


def cut(text, line):
    return text[: text.index(line)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (cut(record(2, ["1% a", "99% b"]), "Sample: "), r"line \d+: .*ends without 'Sample: '"),
        (cut(record(2, ["1% a", "99% b"]), "Citation: "), r"line \d+: .*ends without 'Citation: '"),
        (record(2, ["1% a", "99% b"], date=""), r"line \d+: .*no line ending in \[mm/dd/yyyy\]"),
        (record(2, ["Tea"]), r"line \d+: a question without answer lines"),
        (record(2, ["1% a"], question=""), r"line \d+: no question before '1% a'"),
        (record(1, ["1% a", "99% b"]), r"export.txt:\d+: question 31101.00001 again, first at"),
        (
            record(2, ["1% a"]).replace("Size: 1004", "Size: many"),
            r"line \d+: not as expected: 'Sample Size: many'",
        ),
    ],
)
def test_a_malformed_record_is_named(tmp_path, broken, message):
    with pytest.raises(ValueError, match=f"export.txt.*{message}|{message}"):
        load_roper(export(tmp_path, record(1, ["50% Yes", "50% No"]), broken))


def test_the_line_in_a_message_is_the_line_in_the_file(tmp_path):
    file = export(tmp_path, record(1, ["50% Yes", "50% No"]), record(2, ["Tea"]))
    lines = file.read_text().splitlines()
    place = next(k for k, line in enumerate(lines, start=1) if line.startswith("Kettle Poll 2"))
    with pytest.raises(ValueError, match=f"export.txt, line {place}: "):
        read_export(file)


@pytest.mark.parametrize("text", ["", "iPoll export\n\n"])
def test_a_file_without_records_is_refused(tmp_path, text):
    (tmp_path / "export.txt").write_text(text)
    with pytest.raises(ValueError, match=r"export.txt (is empty|holds no records)"):
        load_roper(tmp_path / "export.txt")


def test_a_file_whose_every_question_is_dropped_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no question is left of 1"):
        load_roper(export(tmp_path, *many(["100% Tea"])))


def test_byte_order_marks_and_latin_1_are_read(tmp_path):
    answers = ["50% Café", "50% Thé"]
    for written, read in (("utf-8-sig", "utf-8-sig"), ("latin-1", "latin-1")):
        table, _ = load_roper(export(tmp_path, *many(answers), encoding=written), encoding=read)
        assert sorted(table.choices[0]) == ["Café", "Thé"]
    with pytest.raises(ValueError, match=r"export.txt, line 7: .*latin-1"):
        load_roper(export(tmp_path, *many(answers), encoding="latin-1"))


@pytest.fixture
def hundred(tmp_path):
    return many(*[[f"{k}% Tea", f"{100 - k}% Coffee", "* Water"] for k in range(1, 100)])


def test_the_sample_and_the_order_of_options_follow_the_seed_not_the_file(tmp_path, hundred):
    first, _ = load_roper(export(tmp_path, *hundred), n=30, seed=4)
    turned, _ = load_roper(export(tmp_path, *hundred[::-1]), n=30, seed=4)
    other, _ = load_roper(export(tmp_path, *hundred), n=30, seed=5)
    assert len(first) == 30
    assert set(first.question_id) == set(turned.question_id) != set(other.question_id)
    orders = turned.set_index("question_id").choices
    assert all(orders[row.question_id] == row.choices for row in first.itertuples())
    everything, report = load_roper(export(tmp_path, *hundred), n=None)
    assert len(everything) == 99 and report.dropped.sum() == 0


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'text' or 'published', not 'code'"):
        load_roper(tmp_path / "export.txt", method="code")


def test_the_papers_attrition_adds_up():
    # Moore et al. (2025), appendix A: 30,571 - 332 - 572 = 29,667; 3,000 sampled; 2,998 used.
    assert PAPER.dropped.tolist() == [0, 332, 572, 26667, 2]
    assert len(SEARCH) == 8


OPTION = st.sampled_from(["Tea", "Coffee", "Refused", "Skipped", "None of these", "Water 50% hot"])


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 100), OPTION), min_size=1, max_size=5), min_size=1)
)
def test_what_is_left_has_shares_that_sum_to_one_and_no_refusal(tmp_path_factory, answers):
    lines = [[f"{percent}% {text}" for percent, text in group] for group in answers]
    folder = tmp_path_factory.mktemp("roper")
    file = export(folder, record(99, ["50% Yes", "50% No"]), *[
        record(100 + k, group) for k, group in enumerate(lines)
    ])  # fmt: skip
    table, report = load_roper(file)
    assert table.question_id.is_unique
    for row in table.itertuples():
        assert np.sum(row.human_shares) == pytest.approx(1)
        assert not any(is_refusal(option) for option in row.choices)
    questions = report[report.unit == "questions"]
    assert questions.left.iloc[0] - questions.dropped.sum() == len(table)
