import re

import numpy as np
import pandas as pd
import pytest

from uqlib.questions import world
from uqlib.questions.schema import human_entropy

OPINION_SPLITS = ["new_options", "unseen_cells", "unseen_ordinal"]


@pytest.fixture(scope="module")
def train():
    return world.opinion_questions(30_000, seed=0, split="train")


def parts(question_id):
    kind, framing, about, order = question_id.split("#")[0].split("/")
    return kind, framing, about, tuple(int(i) for i in order.split("."))


def entropy_and_n(table):
    n = table.choices.str.len().to_numpy()
    return human_entropy(table.human_shares) / np.log(n), n


def test_nominal_shares_match_the_formula_by_hand():
    items = [(1.0, 0.0), (0.0, 1.0), (-0.5, 0.5)]
    expected = np.zeros(3)
    for turn in (-0.7, 0.0, 0.7):
        direction = (np.cos(0.4 + turn), np.sin(0.4 + turn))
        weights = [np.exp(-1.5 * (x * direction[0] + y * direction[1])) for x, y in items]
        expected += np.array(weights) / sum(weights) / 3
    np.testing.assert_allclose(world.nominal_shares(items, 0.4, -1.5), expected, rtol=1e-12)


def test_ordinal_shares_match_the_formula_by_hand():
    cuts = [-2.5 / 3, 2.5 / 3]
    below = [1 / (1 + np.exp(1.2 - cut)) for cut in cuts]
    expected = [below[0], below[1] - below[0], 1 - below[1]]
    np.testing.assert_allclose(world.ordinal_shares(1.2, 3), expected, rtol=1e-12)


def test_a_printed_nominal_question_has_the_shares_of_its_options_in_printed_order():
    row = world.opinion_questions(49, split="new_options").iloc[3]
    _, framing, domain, order = parts(row.question_id)
    extreme, adjective = framing.split("-")
    hidden = world.latents()
    a = world.ADJECTIVES.index(adjective)
    sign = -1 if extreme == "least" else 1
    places = hidden["items"][list(world.ITEMS).index(domain)][list(order)]
    expected = world.nominal_shares(places, hidden["angles"][a], sign * hidden["sharpness"][a])
    np.testing.assert_allclose(row.human_shares, expected)
    assert row.choices == [world.ITEMS[domain][i] for i in order]
    assert row.text == f"Which {domain} is the {extreme} {adjective}?"


def test_a_printed_scale_has_the_shares_of_its_levels_in_printed_order():
    table = world.opinion_questions(49, split="unseen_ordinal")
    row = table[table.choices.str.len() == 5].iloc[0]
    _, stem, topic, levels = parts(row.question_id)
    place = [t.replace(" ", "-") for t in world.TOPICS].index(topic)
    number = list(world.STEMS).index(stem)
    shares = world.ordinal_shares(world.SLOPES[number] * world.latents()["topics"][place], 5)
    np.testing.assert_allclose(row.human_shares, shares[np.argsort(np.argsort(levels))])
    assert row.choices == [world.STEMS[stem][1][level] for level in levels]


@pytest.mark.parametrize("split", OPINION_SPLITS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_number_of_options_does_not_predict_normalised_entropy(split, seed):
    entropy, n = entropy_and_n(world.opinion_questions(500, seed=seed, split=split))
    assert abs(np.corrcoef(n, entropy)[0, 1]) <= 0.05
    assert sorted(set(n)) == list(range(2, 9))


def test_the_training_questions_are_balanced_too(train):
    for _, rows in train.groupby(train.question_id.str.split("/").str[0]):
        entropy, n = entropy_and_n(rows)
        assert abs(np.corrcoef(n, entropy)[0, 1]) <= 0.02


def test_letters_tell_nothing_about_shares(train):
    for _, rows in train.groupby(train.question_id.str.split("/").str[0]):
        for n in (2, 4, 8):
            shares = np.stack(rows.human_shares[rows.choices.str.len() == n])
            error = shares.std(axis=0) / np.sqrt(len(shares))
            assert (np.abs(shares.mean(axis=0) - 1 / n) < 4 * error).all()


def test_new_option_sets_are_never_in_training(train):
    held_out = world.opinion_questions(2000, seed=5, split="new_options")
    asked, new = (
        {(framing, about, frozenset(order)) for _, framing, about, order in map(parts, ids)}
        for ids in (train.question_id, held_out.question_id)
    )
    assert not asked & new


def test_unseen_cells_are_never_in_training_but_their_opposites_are(train):
    held_out = world.opinion_questions(500, seed=5, split="unseen_cells")
    asked, new = (
        {(framing, about) for _, framing, about, _ in map(parts, ids)}
        for ids in (train.question_id, held_out.question_id)
    )
    assert len(new) == 12
    assert not asked & new
    swap = {"most": "least", "least": "most"}
    opposites = {
        (f"{swap[framing.split('-')[0]]}-{framing.split('-')[1]}", about) for framing, about in new
    }
    assert opposites <= asked


def test_unseen_topics_are_never_in_training_under_their_stem(train):
    held_out = world.opinion_questions(500, seed=5, split="unseen_ordinal")
    asked, new = (
        {(stem, topic) for _, stem, topic, _ in map(parts, ids)}
        for ids in (train.question_id, held_out.question_id)
    )
    assert not asked & new
    assert {topic for _, topic in new} <= {topic for _, topic in asked}


def test_told_facts_are_stated_but_never_asked_in_training():
    asked = set(world.knowledge_questions(30_000, split="train").text)
    told = world.knowledge_questions(56, split="only_told")
    assert not asked & set(told.text)
    stated = " ".join(world.fact_statements(30_000))
    assert np.mean([parts(i)[2] in stated for i in told.question_id]) > 0.95


def test_answers_point_at_the_true_fact():
    for row in world.evaluation_knowledge(seed=3).itertuples():
        subject, name = row.question_id.split("/")[1:3]
        s = list(world.SUBJECTS).index(subject)
        fact = [world.fact_name(s, k) for k in range(24)].index(name)
        true = world.SUBJECTS[subject][3][world.latents()["answers"][s, fact]]
        assert row.choices[row.answer] == true
        assert len(set(row.choices)) == 4


def test_statements_tell_the_same_facts_as_the_answers():
    statements = set(world.fact_statements(20_000))
    row = world.knowledge_questions(1).iloc[0]
    assert f"The river that flows through Balford is the {row.choices[row.answer]}." in statements


def test_facts_fall_geometrically_in_frequency():
    counts = world.knowledge_questions(40_000, split="train").subject.value_counts()
    drawn = counts[list(world.SUBJECTS)].to_numpy() / counts.sum()
    expected = 0.68 ** np.arange(14)
    np.testing.assert_allclose(drawn[:6], (expected / expected.sum())[:6], rtol=0.1)


@pytest.mark.parametrize(("split", "ratio"), [("train", 0.5), ("review", 1)])
def test_a_review_asks_all_facts_of_a_subject_equally_often(split, ratio):
    questions = world.knowledge_questions(40_000, split=split)
    counts = questions.question_id.str.split("/").str[2].value_counts()
    first, later = (counts[world.fact_name(0, fact)] for fact in (0, 12))
    assert later / first == pytest.approx(ratio, rel=0.15)
    assert (questions.subject == "geography").mean() > (questions.subject == "botany").mean()


@pytest.mark.parametrize("make", [world.evaluation_opinions, world.evaluation_knowledge])
def test_evaluation_tables_reproduce_and_their_ids_are_unique_without_repeats(make):
    first, again, other = make(), make(), make(seed=1)
    pd.testing.assert_frame_equal(first, again)
    assert first.question_id.is_unique
    assert not first.question_id.str.contains("#").any()
    assert set(first.question_id) != set(other.question_id)


def test_shares_sum_to_one(train):
    assert train.human_shares.map(sum).between(1 - 1e-9, 1 + 1e-9).all()


WORLD = {
    "first item": [0.3121, -1.9267],
    "angles": 31.3031,
    "first answers": [5, 7, 1, 6, 5, 8, 7, 8, 5, 2, 4, 2, 5, 1],
}


def test_the_world_that_the_committed_zoo_was_trained_on_has_not_moved():
    hidden = world.latents()
    assert hidden["items"][0, 0].round(4).tolist() == WORLD["first item"]
    assert round(float(hidden["angles"].sum()), 4) == WORLD["angles"]
    assert hidden["answers"][:, 0].tolist() == WORLD["first answers"]


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match="new_options"):
        world.opinion_questions(10, split="test")
    with pytest.raises(ValueError, match="only_told"):
        world.knowledge_questions(10, split="test")


def test_categories_are_shared_in_proportion_to_what_is_mentioned():
    domain_of = {item: domain for domain, items in world.ITEMS.items() for item in items}
    table = world.category_questions(400, seed=2)
    for row in table.itertuples():
        mentioned = re.search("here: (.*)[?]", row.text)[1].split(", ")
        domains = [domain_of[item] for item in mentioned]
        expected = [domains.count(choice) / len(domains) for choice in row.choices]
        np.testing.assert_allclose(row.human_shares, expected)
        assert (row.subject == "one reading") == (len(set(domains)) == 1)
        modes = [k for k, share in enumerate(expected) if share == max(expected)]
        assert row.answer == modes[0] if len(modes) == 1 else pd.isna(row.answer)
    assert set(table.choices.str.len()) == {3, 4, 5, 6}


def test_readings_of_a_category_question_mix_to_its_shares():
    table = world.category_questions(200, seed=2)
    readings = world.category_readings(table)
    original = readings.question_id.str.rsplit("=", n=1).str[0]
    domain_of = {item: domain for domain, items in world.ITEMS.items() for item in items}
    for row in table.itertuples():
        mine = readings[(original == row.question_id).to_numpy()]
        asked = [re.search("here: (.*)[?]", text)[1].split(", ") for text in mine.text]
        together = re.search("here: (.*)[?]", row.text)[1].split(", ")
        assert sorted(item for items in asked for item in items) == sorted(together)
        assert all(len({domain_of[item] for item in items}) == 1 for items in asked)
        weights = [row.human_shares[answer] for answer in mine.answer]
        assert weights == pytest.approx([len(items) / len(together) for items in asked])
        mixture = np.average(np.stack(mine.human_shares.tolist()), axis=0, weights=weights)
        assert mixture == pytest.approx(row.human_shares)
        assert all(choices == row.choices for choices in mine.choices)
