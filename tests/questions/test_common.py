import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.questions.common import REFUSALS, attrition, is_refusal, read_text, shuffle_choices


@st.composite
def question_tables(draw):
    rows = []
    for k in range(draw(st.integers(1, 6))):
        n = draw(st.integers(2, 26))
        weights = np.array(draw(st.lists(st.integers(1, 99), min_size=n, max_size=n)), dtype=float)
        answer = draw(st.one_of(st.none(), st.integers(0, n - 1)))
        shares = draw(st.sampled_from([None, weights / weights.sum()]))
        rows.append((f"q{k}", [f"option {j}" for j in range(n)], shares, answer))
    table = pd.DataFrame(rows, columns=["question_id", "choices", "human_shares", "answer"])
    table["human_shares"] = pd.Series([row[2] for row in rows], dtype=object)
    return table.astype({"answer": "Int64"})


def as_pairs(row):
    shares = [None] * len(row.choices) if row.human_shares is None else list(row.human_shares)
    return sorted(zip(row.choices, shares, strict=True))


@given(question_tables(), st.integers(0, 99))
def test_a_shuffle_is_a_permutation_that_carries_shares_and_answer(table, seed):
    shuffled = shuffle_choices(table, seed)
    for before, after in zip(table.itertuples(), shuffled.itertuples(), strict=True):
        assert as_pairs(before) == as_pairs(after)
        assert pd.isna(before.answer) == pd.isna(after.answer)
        if not pd.isna(before.answer):
            assert before.choices[before.answer] == after.choices[after.answer]


@given(question_tables(), st.integers(0, 99))
def test_a_shuffle_follows_seed_and_id_and_not_the_order_of_rows(table, seed):
    first = shuffle_choices(table, seed)
    turned = shuffle_choices(table[::-1], seed)[::-1]
    assert list(first.choices) == list(turned.choices)


def test_a_shuffle_puts_every_option_in_every_place_equally_often():
    table = pd.DataFrame({"question_id": [f"q{k}" for k in range(3000)]})
    table = table.assign(choices=[["a", "b", "c"]] * 3000, human_shares=None, answer=pd.NA)
    shuffled = shuffle_choices(table.astype({"human_shares": object}), 0)
    counts = shuffled.choices.str[0].value_counts()
    assert (abs(counts - 1000) < 4 * np.sqrt(3000 * 2 / 9)).all()
    assert list(shuffle_choices(table, 1).choices) != list(shuffled.choices)


def test_the_list_of_refusals_has_the_seventeen_of_the_paper():
    # Moore et al. (2025), appendix A.
    assert len(set(REFUSALS)) == 17
    assert all(map(is_refusal, REFUSALS)) and is_refusal(" SKIPPED on web ")
    for answer in ("None of these", "Don't know", "Not sure", "Refused to pay", ""):
        assert not is_refusal(answer)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Café?".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "Café?"


def test_another_encoding_is_refused_with_its_place_and_read_when_named(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("Tea?\nCafé?".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.txt, line 2: the byte 0xe9 is not utf-8; .*latin-1"):
        read_text(file)
    assert read_text(file, "latin-1") == "Tea?\nCafé?"


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.txt is empty"):
        read_text(tmp_path / "a.txt")


def test_a_report_counts_within_its_unit():
    report = attrition([("read", "answers", 10), ("read", "questions", 4), ("none", "answers", 7)])
    assert report.dropped.tolist() == [0, 0, 3]
