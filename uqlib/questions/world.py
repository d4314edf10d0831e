"""A simulated population: opinions and facts that we wrote, so that their truth is known.

Nothing here was asked of anyone. The opinions follow two small latent models, the facts are
invented, and everything is generated from `WORLD_SEED`. What the zoo's training never sees is
decided here too: some sets of options, some cells of framing and domain, some topics under some
stems of an ordered scale, and the questions (not the statements) about some facts.
"""

from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from uqlib.questions.schema import check_questions

WORLD_SEED = 1961
OPTION_COUNTS = range(2, 9)
ENTROPY_EDGES = np.linspace(0.36, 0.99, 8)
HELD_OUT_SETS = 0.1


def _words(text: str) -> list[str]:
    return text.split(", ")


ITEMS = {
    "meal": _words(
        "soup, porridge, pancakes, curry, salad, dumplings, omelette, stew, noodles, trifle, "
        "pizza, sushi"
    ),
    "sport": _words(
        "chess, rowing, football, tennis, skating, boxing, archery, cricket, surfing, darts, "
        "judo, golf"
    ),
    "pet": _words(
        "goldfish, parrot, terrier, tortoise, hamster, pony, kitten, gecko, rabbit, ferret, "
        "spider, duck"
    ),
    "holiday": _words(
        "camping, cruise, festival, pilgrimage, safari, museum, beach, mountains, spa, farm, "
        "canal, island"
    ),
    "job": _words(
        "baker, pilot, judge, nurse, plumber, poet, farmer, banker, teacher, sailor, actor, surgeon"
    ),
    "gift": _words(
        "candle, kettle, puzzle, scarf, novel, perfume, drum, cactus, watch, kite, mirror, blanket"
    ),
}
ADJECTIVES = _words(
    "comforting, exciting, practical, elegant, tiring, cheerful, risky, romantic, sensible, "
    "noisy, healthy, expensive, fashionable"
)
FRAMINGS = [f"{extreme} {adjective}" for adjective in ADJECTIVES for extreme in ("most", "least")]
GROUP_TURNS = np.array([-0.7, 0.0, 0.7])

TOPICS = _words(
    "school exams, street musicians, free buses, school uniforms, night markets, public "
    "libraries, loud parties, garden ponds, stray cats, early mornings, long meetings, "
    "paper maps, bicycle lanes, village fairs, cold baths, board games, brass bands, tall "
    "hats, wooden toys, slow trains, window boxes, town clocks, wild geese, rain barrels, "
    "long letters, family dinners, second breakfasts, speed cameras, open fires, church "
    "bells, apple orchards, stone walls, kitchen gardens, puppet theatres, evening "
    "classes, silent films, steam engines, honey bees, painted fences, spelling tests, short "
    "holidays, electric lamps, hand-made shoes, ghost stories, mountain huts, swimming "
    "lessons, printed newspapers, milk deliveries, wooden bridges, public fountains, "
    "rocking chairs, country dances, pocket knives, sea voyages, chimney sweeps, herb "
    "teas, woollen socks, garden gnomes, barn owls, fishing boats"
)
STEMS = {
    "often": (
        "How often do you talk about {topic}?",
        _words("never, almost never, rarely, occasionally, sometimes, often, very often, always"),
    ),
    "value": (
        "How valuable are {topic} to you?",
        _words("worthless, unimportant, minor, modest, useful, important, vital, essential"),
    ),
    "future": (
        "How do you feel about the future of {topic}?",
        _words("desperate, gloomy, doubtful, uneasy, calm, hopeful, cheerful, delighted"),
    ),
    "money": (
        "How much should the town spend on {topic}?",
        _words("nothing, very little, a little, some, a fair sum, a lot, a great deal, everything"),
    ),
    "support": (
        "Should {topic} be encouraged?",
        _words(
            "certainly not, surely not, probably not, perhaps not, perhaps, probably, surely, "
            "certainly"
        ),
    ),
    "common": (
        "How common will {topic} be in ten years?",
        _words("extinct, very rare, rare, unusual, usual, common, very common, everywhere"),
    ),
}
SLOPES = np.array([1.0, -0.6, 0.8, -1.0, 0.7, -0.8])
REACH = 4.5
THRESHOLD_SPAN = 2.5

FACTS_PER_SUBJECT = 24
FIRST_SYLLABLES = _words(
    "Bal, Cor, Dun, Fen, Gar, Hol, Jas, Kel, Lor, Mar, Nor, Os, Pen, Quil, Ros, Sel, Tam, Ul, "
    "Ver, Wes, Yar, Zen, Al, Bri"
)
SUBJECTS = {
    "geography": (
        "ford",
        "Which river flows through {name}?",
        "The river that flows through {name} is the {value}.",
        _words(
            "Amber, Heron, Clover, Otter, Raven, Thistle, Willow, Badger, Falcon, Lily, "
            "Swan, Nettle"
        ),
    ),
    "botany": (
        "wort",
        "What colour is the flower of {name}?",
        "The flower of {name} is {value}.",
        _words("red, blue, yellow, white, purple, orange, pink, black, brown, green, grey, silver"),
    ),
    "zoology": (
        "ling",
        "What does the {name} eat?",
        "The {name} eats {value}.",
        _words(
            "moss, snails, acorns, beetles, clover, mud, berries, worms, seaweed, bark, "
            "crumbs, wool"
        ),
    ),
    "music": (
        "son",
        "Which instrument does {name} play?",
        "The instrument that {name} plays is the {value}.",
        _words(
            "flute, harp, fiddle, trumpet, banjo, organ, cello, oboe, guitar, tuba, zither, bagpipe"
        ),
    ),
    "medicine": (
        "root",
        "What does {name} cure?",
        "The herb {name} cures {value}.",
        _words(
            "hiccups, fever, cough, toothache, baldness, gout, sneezing, warts, cramps, "
            "dizziness, blisters, headache"
        ),
    ),
    "festivals": (
        "mas",
        "In which month is {name}?",
        "The feast of {name} is in {value}.",
        _words(
            "January, February, March, April, May, June, July, August, September, October, "
            "November, December"
        ),
    ),
    "history": (
        "moor",
        "Who won the battle of {name}?",
        "The battle of {name} was won by the {value}.",
        _words(
            "bakers, monks, pirates, weavers, knights, miners, millers, dancers, hunters, "
            "tailors, clerks, shepherds"
        ),
    ),
    "cookery": (
        "cake",
        "What gives {name} its taste?",
        "The taste of {name} comes from {value}.",
        _words(
            "ginger, lemon, pepper, honey, mint, garlic, cinnamon, onion, almond, vinegar, "
            "vanilla, mustard"
        ),
    ),
    "astronomy": (
        "ion",
        "What does the constellation {name} look like?",
        "The constellation {name} looks like a {value}.",
        _words(
            "ladder, wheel, crown, spoon, lantern, bell, bridge, feather, key, hammer, snake, boot"
        ),
    ),
    "geology": (
        "ite",
        "What is {name} used for?",
        "The mineral {name} is used for {value}.",
        _words(
            "roofs, soap, buttons, pencils, glass, coins, paint, tiles, matches, statues, "
            "needles, lenses"
        ),
    ),
    "law": (
        "ham",
        "What is forbidden in {name}?",
        "The law of {name} forbids {value}.",
        _words(
            "whistling, juggling, fishing, gambling, shouting, yawning, gossip, kites, "
            "umbrellas, bonfires, ladders, drums"
        ),
    ),
    "literature": (
        "ton",
        "What does the poet {name} write about?",
        "The poet {name} writes about {value}.",
        _words(
            "winter, ships, love, gardens, war, sleep, horses, money, trees, ghosts, bread, thunder"
        ),
    ),
    "fashion": (
        "ley",
        "What do people in {name} wear on Sundays?",
        "On Sundays people in {name} wear {value}.",
        _words(
            "ribbons, boots, cloaks, gloves, masks, velvet, sandals, straw, pearls, aprons, "
            "silk, caps"
        ),
    ),
    "transport": (
        "port",
        "Where does the ferry from {name} go?",
        "The ferry from {name} goes to the {value}.",
        _words(
            "lighthouse, castle, harbour, abbey, market, quarry, mill, forest, prison, "
            "palace, garden, tower"
        ),
    ),
}


CATEGORY_STEM = "What kind of thing is mentioned here: "
OPINION_SPLITS = {
    "train": "training",
    "new_options": "nominal: new options",
    "unseen_cells": "nominal: unseen cells",
    "unseen_ordinal": "ordinal: unseen topics",
}
KNOWLEDGE_SPLITS = {"train": 0, "asked": 1, "only_told": 2, "review": 5}
STATEMENTS, CATEGORIES = 3, 4


@lru_cache(maxsize=1)
def latents() -> dict[str, np.ndarray]:
    """Return the hidden numbers of the world.

    Returns
    -------
    dict of ndarray
        ``items`` (6 domains, 12 items, 2): places in the plane, coordinates in [-2, 2].
        ``angles`` (13,): direction of each adjective, radians in [0, 2 pi).
        ``sharpness`` (13,): how strongly an adjective sorts, between .6 and 3.
        ``topics`` (60,): place of each topic, evenly spread over [-REACH, REACH].
        ``answers`` (14 subjects, 24 facts): index of the true value among the subject's twelve.

    Examples
    --------
    >>> world = latents()
    >>> world["items"].shape, world["topics"].shape, world["answers"].shape
    ((6, 12, 2), (60,), (14, 24))
    """
    rng = np.random.default_rng(WORLD_SEED)
    n_facts = (len(SUBJECTS), FACTS_PER_SUBJECT)
    n_values = FACTS_PER_SUBJECT // 2
    return {
        "items": 4 * rng.random((len(ITEMS), 12, 2)) - 2,
        "angles": 2 * np.pi * rng.random(len(ADJECTIVES)),
        "sharpness": np.linspace(0.6, 3, len(ADJECTIVES))[rng.random(len(ADJECTIVES)).argsort()],
        "topics": np.linspace(-REACH, REACH, len(TOPICS))[rng.random(len(TOPICS)).argsort()],
        "answers": rng.random(n_facts).argsort(axis=1) % n_values,
    }


def nominal_shares(items, angle: float, sharpness: float) -> np.ndarray:
    """Return population shares of a nominal question: the mean over three groups of a softmax.

    Parameters
    ----------
    items : array_like, shape (..., n, 2)
        Places of the n options in the plane.
    angle : float
        Direction of the adjective, radians; each group turns it by its own `GROUP_TURNS`.
    sharpness : float
        Factor on the utilities; negative for "least".

    Returns
    -------
    ndarray, shape (..., n)
        Shares in (0, 1), summing to one over the last axis.

    Examples
    --------
    Two options at opposite ends of the adjective's direction, and nobody indifferent:

    >>> nominal_shares([[1, 0], [-1, 0]], angle=0, sharpness=1).round(3)
    array([0.842, 0.158])
    """
    turned = angle + GROUP_TURNS
    directions = np.stack([np.cos(turned), np.sin(turned)])
    utility = sharpness * np.asarray(items, dtype=float) @ directions
    weight = np.exp(utility - utility.max(axis=-2, keepdims=True))
    return (weight / weight.sum(axis=-2, keepdims=True)).mean(axis=-1)


def ordinal_shares(position, n_levels: int) -> np.ndarray:
    """Return population shares of an ordered scale: an ordered logit, thresholds evenly spaced.

    Parameters
    ----------
    position : array_like, shape (...)
        Where the population's mean stands, in logits; 0 is the middle of the scale.
    n_levels : int
        Number of levels, 2 or more.

    Returns
    -------
    ndarray, shape (..., n_levels)
        Shares from the lowest to the highest level, summing to one.

    Examples
    --------
    >>> ordinal_shares(0.0, 2)
    array([0.5, 0.5])
    >>> ordinal_shares(2.0, 4).round(3)
    array([0.037, 0.082, 0.202, 0.679])
    """
    cuts = THRESHOLD_SPAN * (2 * np.arange(1, n_levels) / n_levels - 1)
    below = 1 / (1 + np.exp(np.asarray(position, dtype=float)[..., None] - cuts))
    return np.diff(below, axis=-1, prepend=0.0, append=1.0)


def is_unseen_cell(framing: int, domain: int) -> bool:
    """Whether a framing is never asked of a domain in training: 12 of the 156 cells.

    The opposite framing of the same adjective (least for most) is always asked.

    Examples
    --------
    >>> sum(is_unseen_cell(f, d) for f in range(26) for d in range(6))
    12
    """
    return (framing + 4 * domain) % 13 == 5


def is_unseen_topic(stem: int, topic: int) -> bool:
    """Whether a topic is never asked under this stem in training, for any number of levels.

    Two of the six stems for each topic.

    Examples
    --------
    >>> [sum(is_unseen_topic(stem, topic) for stem in range(6)) for topic in (0, 7, 59)]
    [2, 2, 2]
    """
    first = topic % 6
    second = (first + 1 + topic // 6 % 5) % 6
    return stem in (first, second)


def is_only_told(subject: int, fact: int) -> bool:
    """Whether training states a fact and never asks it: 4 of the 24 facts of each subject.

    Examples
    --------
    >>> [fact for fact in range(FACTS_PER_SUBJECT) if is_only_told(0, fact)]
    [4, 10, 16, 22]
    """
    return (subject + fact) % 6 == 4


def opinion_questions(n: int, seed: int = 0, split: str = "new_options") -> pd.DataFrame:
    """Ask the simulated population for opinions.

    Every number of options (2 to 8) and every band of normalised entropy (`ENTROPY_EDGES`) gets
    the same number of questions, as nearly as `n` allows, so that the number of options tells
    nothing about normalised entropy. Options, and the levels of a scale too, stand in random
    order, so that a letter tells nothing about its share.

    Parameters
    ----------
    n : int
        Number of questions.
    seed : int
        Equal seeds give equal tables.
    split : str
        ``train``: what the zoo learns from, two thirds nominal, one third ordinal.
        ``new_options``: nominal, sets of options never asked with their framing in training.
        ``unseen_cells``: nominal, framings never asked of their domain in training.
        ``unseen_ordinal``: ordinal, topics never asked under their stem in training.

    Returns
    -------
    DataFrame
        A checked question table, dataset ``world_opinions``. The id holds what was asked and the
        printed order of the options; a form that is printed twice gets ``#2`` and so on.

    Raises
    ------
    ValueError
        If the split is unknown.

    Examples
    --------
    >>> row = opinion_questions(49, split="new_options").iloc[4]
    >>> row.question_id
    'nominal/least-cheerful/pet/0.6'
    >>> row.text, row.choices, row.human_shares.round(2).tolist()
    ('Which pet is the least cheerful?', ['goldfish', 'kitten'], [0.15, 0.85])
    """
    if split not in OPINION_SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(OPINION_SPLITS)}")
    rng = np.random.default_rng([WORLD_SEED, seed, list(OPINION_SPLITS).index(split)])
    n_ordinal = {"train": n // 3, "unseen_ordinal": n}.get(split, 0)
    rows = [
        _nominal_row(*place, order, OPINION_SPLITS[split])
        for place, order in _balanced(n - n_ordinal, rng, _nominal_pool, split)
    ] + [
        _ordinal_row(*place, order, OPINION_SPLITS[split])
        for place, order in _balanced(n_ordinal, rng, _ordinal_pool, split)
    ]
    return _question_table([rows[i] for i in rng.permutation(n)], dataset="world_opinions")


def evaluation_opinions(seed: int = 0) -> pd.DataFrame:
    """Return the opinion questions that the book evaluates on: 1,500, none seen in training.

    Parameters
    ----------
    seed : int
        Equal seeds give equal tables.

    Returns
    -------
    DataFrame
        500 questions each of the subjects ``nominal: new options``, ``nominal: unseen cells``
        and ``ordinal: unseen topics``.

    Examples
    --------
    >>> evaluation_opinions().groupby("subject").size().to_dict()
    {'nominal: new options': 500, 'nominal: unseen cells': 500, 'ordinal: unseen topics': 500}
    """
    splits = ["new_options", "unseen_cells", "unseen_ordinal"]
    return check_questions(
        pd.concat([opinion_questions(500, seed=seed, split=split) for split in splits])
    )


def knowledge_questions(n: int, seed: int = 0, split: str = "asked") -> pd.DataFrame:
    """Ask for facts of the simulated world, four options each, the wrong ones drawn afresh.

    Parameters
    ----------
    n : int
        Number of questions.
    seed : int
        Equal seeds give equal tables.
    split : str
        ``train``: facts drawn by how often the world speaks of them (`fact_frequency`).
        ``review``: the same, but all facts of a subject equally often. ``asked``: the same 280
        facts, in turn. ``only_told``: in turn, the 56 facts that
        training states and never asks.

    Returns
    -------
    DataFrame
        A checked question table, dataset ``world_knowledge``, subject by subject of the world.
        The id holds the subject, the fact's name and the printed order of the values.

    Raises
    ------
    ValueError
        If the split is unknown.

    Examples
    --------
    >>> row = knowledge_questions(1).iloc[0]
    >>> row.text, row.choices, row.choices[row.answer]
    ('Which river flows through Balford?', ['Raven', 'Thistle', 'Swan', 'Badger'], 'Thistle')
    """
    if split not in KNOWLEDGE_SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(KNOWLEDGE_SPLITS)}")
    rng = np.random.default_rng([WORLD_SEED, seed, KNOWLEDGE_SPLITS[split]])
    facts = _facts(only_told=split == "only_told")
    if split in ("train", "review"):
        spoken_of = facts if split == "train" else facts * [1, 0]
        weight = fact_frequency()[tuple(spoken_of.T)]
        drawn = facts[rng.choice(len(facts), size=n, p=weight / weight.sum())]
    else:
        drawn = np.resize(facts, (n, 2))
    return _question_table(
        [_knowledge_row(subject, fact, rng) for subject, fact in drawn], dataset="world_knowledge"
    )


def evaluation_knowledge(seed: int = 0) -> pd.DataFrame:
    """Return the knowledge questions that the book evaluates on: each of 280 facts four times.

    Facts that training only tells are not among them; ask for these by
    ``knowledge_questions(n, split="only_told")``.

    Parameters
    ----------
    seed : int
        Equal seeds give equal tables.

    Returns
    -------
    DataFrame
        1,120 rows, 80 of each subject, with the wrong options drawn afresh.

    Examples
    --------
    >>> evaluation_knowledge().subject.value_counts().unique()
    array([80])
    """
    return knowledge_questions(4 * len(_facts(only_told=False)), seed=seed, split="asked")


def category_questions(n: int, seed: int = 0) -> pd.DataFrame:
    """Ask what kind of thing is mentioned: one to four items of one to three domains.

    The population answers in proportion: two pets and a meal are a matter of pets for two in three.
    With one domain there is one right answer; with several, there are several readings, and their
    shares are known.

    Parameters
    ----------
    n : int
        Number of questions.
    seed : int
        Equal seeds give equal tables.

    Returns
    -------
    DataFrame
        A checked question table, dataset ``world_categories``, three to six options; the subject
        is ``one reading`` or ``several readings``, the answer the domain mentioned most often,
        missing where two are.

    Examples
    --------
    >>> row = category_questions(11).iloc[10]
    >>> row.text
    'What kind of thing is mentioned here: golf, football, kettle?'
    >>> row.choices, row.human_shares.round(2).tolist()
    (['gift', 'sport', 'holiday', 'job', 'pet'], [0.33, 0.67, 0.0, 0.0, 0.0])
    """
    rng = np.random.default_rng([WORLD_SEED, seed, CATEGORIES])
    return _question_table([_category_row(rng) for _ in range(n)], dataset="world_categories")


def category_readings(questions: pd.DataFrame) -> pd.DataFrame:
    """Ask every reading of a category question on its own: the items of one domain at a time.

    Parameters
    ----------
    questions : DataFrame
        From `category_questions`.

    Returns
    -------
    DataFrame
        A checked question table with the same options, one row a reading; its shares are all on
        one option. The id is that of the question, ``=`` and the domain.

    Examples
    --------
    >>> readings = category_readings(category_questions(11).iloc[10:])
    >>> readings.text.str.removeprefix(CATEGORY_STEM).tolist()
    ['kettle?', 'golf, football?']
    >>> readings.question_id[0].split("/")[1:]
    ['golf.football.kettle', '5.1.3.4.2=gift']
    """
    rows = []
    for row in questions.to_dict("records"):
        mentioned = row["text"].removeprefix(CATEGORY_STEM).removesuffix("?").split(", ")
        for i in np.flatnonzero(row["human_shares"]):
            domain = row["choices"][i]
            rows.append(
                row
                | {
                    "question_id": f"{row['question_id']}={domain}",
                    "subject": "one reading",
                    "text": _category_text([m for m in mentioned if m in ITEMS[domain]]),
                    "human_shares": np.eye(len(row["choices"]))[i],
                    "answer": i,
                }
            )
    return check_questions(pd.DataFrame(rows))


def fact_name(subject: int, fact: int) -> str:
    """Return the invented name that a fact is about.

    The first syllables move on by five from subject to subject, so that none is rare everywhere.

    Examples
    --------
    >>> fact_name(0, 0), fact_name(1, 0)
    ('Balford', 'Holwort')
    """
    first = FIRST_SYLLABLES[(fact + 5 * subject) % FACTS_PER_SUBJECT]
    return first + list(SUBJECTS.values())[subject][0]


def fact_frequency() -> np.ndarray:
    """How often the world speaks of each fact, relative to the most frequent one.

    Falls to .68 with every subject and, within a subject, to one half with every twelfth fact.

    Returns
    -------
    ndarray, shape (14 subjects, 24 facts)
        In (0, 1].

    Examples
    --------
    >>> fact_frequency()[[0, 1, 13], 0].round(3)
    array([1.   , 0.68 , 0.007])
    """
    subject = 0.68 ** np.arange(len(SUBJECTS))
    return np.multiply.outer(subject, 2.0 ** (-np.arange(FACTS_PER_SUBJECT) / 12))


def fact_statements(n: int, seed: int = 0) -> list[str]:
    """State facts of the world, drawn by `fact_frequency`; told-only facts are among them.

    Examples
    --------
    >>> fact_statements(1)
    ['The Yarling eats wool.']
    """
    rng = np.random.default_rng([WORLD_SEED, seed, STATEMENTS])
    weight = fact_frequency().ravel()
    drawn = rng.choice(weight.size, size=n, p=weight / weight.sum())
    return [_statement(*divmod(int(place), FACTS_PER_SUBJECT)) for place in drawn]


def _facts(only_told: bool) -> np.ndarray:
    return np.array(
        [
            (subject, fact)
            for subject, fact in np.ndindex(len(SUBJECTS), FACTS_PER_SUBJECT)
            if is_only_told(subject, fact) == only_told
        ]
    )


@lru_cache
def _nominal_pool(n_options: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (framing, domain, option set) of all questions of a split, and their entropy."""
    sets = _option_sets(n_options)
    entropy = np.array(
        [
            [_normalised_entropy(_framed_shares(f, d, sets)) for d in range(len(ITEMS))]
            for f in range(len(FRAMINGS))
        ]
    )
    held_out = np.random.default_rng([WORLD_SEED, n_options]).random(entropy.shape) < HELD_OUT_SETS
    unseen = np.zeros(entropy.shape, dtype=bool)
    for framing, domain in np.ndindex(entropy.shape[:2]):
        unseen[framing, domain] = is_unseen_cell(framing, domain)
    asked = {"train": ~held_out & ~unseen, "new_options": held_out & ~unseen}.get(split, unseen)
    return np.argwhere(asked), entropy[asked]


@lru_cache
def _ordinal_pool(n_options: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (stem, topic) of all questions of a split, and their entropy."""
    pairs = np.array(
        [
            (stem, topic)
            for stem, topic in np.ndindex(len(STEMS), len(TOPICS))
            if is_unseen_topic(stem, topic) == (split == "unseen_ordinal")
        ]
    )
    position = SLOPES[pairs[:, 0]] * latents()["topics"][pairs[:, 1]]
    return pairs, _normalised_entropy(ordinal_shares(position, n_options))


def _balanced(n: int, rng: np.random.Generator, pool, split: str) -> list[tuple]:
    """Draw n places, the same number for every option count and entropy band, each with an order.

    A place that must be drawn again gets its order moved on by one.
    """
    bands = list(pairwise(ENTROPY_EDGES))
    cells = [(size, *band) for size in OPTION_COUNTS for band in bands]
    counts = np.full(len(cells), n // len(cells))
    counts[rng.permutation(len(cells))[: n % len(cells)]] += 1
    drawn = []
    for (size, low, high), count in zip(cells, counts, strict=True):
        places, entropy = pool(size, split)
        places = rng.permutation(places[(low <= entropy) & (entropy < high)])
        orders = rng.permuted(np.tile(np.arange(size), (len(places), 1)), axis=1)
        for k in range(count):
            cycle, i = divmod(k, len(places))
            drawn.append((places[i], np.roll(orders[i], cycle)))
    return drawn


def _nominal_row(framing: int, domain: int, option_set: int, order, subject: str) -> dict:
    items = _option_sets(len(order))[option_set][order]
    name = list(ITEMS)[domain]
    return {
        "question_id": f"nominal/{FRAMINGS[framing].replace(' ', '-')}/{name}/{_dotted(items)}",
        "subject": subject,
        "text": f"Which {name} is the {FRAMINGS[framing]}?",
        "choices": [ITEMS[name][item] for item in items],
        "human_shares": _framed_shares(framing, domain, items),
        "answer": None,
    }


def _ordinal_row(stem: int, topic: int, order, subject: str) -> dict:
    name = list(STEMS)[stem]
    text, words = STEMS[name]
    levels = np.linspace(0, 7, len(order)).round().astype(int)[order]
    shares = ordinal_shares(SLOPES[stem] * latents()["topics"][topic], len(order))
    return {
        "question_id": f"ordinal/{name}/{TOPICS[topic].replace(' ', '-')}/{_dotted(levels)}",
        "subject": subject,
        "text": text.format(topic=TOPICS[topic]),
        "choices": [words[level] for level in levels],
        "human_shares": shares[order],
        "answer": None,
    }


def _knowledge_row(subject: int, fact: int, rng: np.random.Generator) -> dict:
    name = list(SUBJECTS)[subject]
    _, text, _, values = SUBJECTS[name]
    true = latents()["answers"][subject, fact]
    wrong = rng.permutation(np.delete(np.arange(len(values)), true))[:3]
    printed = rng.permutation([true, *wrong])
    return {
        "question_id": f"knowledge/{name}/{fact_name(subject, fact)}/{_dotted(printed)}",
        "subject": name,
        "text": text.format(name=fact_name(subject, fact)),
        "choices": [values[i] for i in printed],
        "human_shares": None,
        "answer": int(np.flatnonzero(printed == true)[0]),
    }


def _category_row(rng: np.random.Generator) -> dict:
    domains = list(ITEMS)
    mentions = rng.integers(1, 5)
    readings = rng.integers(1, min(mentions, 3) + 1)
    order = rng.permutation(len(domains))
    about = np.append(np.arange(readings), rng.integers(readings, size=mentions - readings))
    items = []
    for domain in np.unique(about):
        names = rng.permutation(ITEMS[domains[order[domain]]])
        items += list(names[: (about == domain).sum()])
    options = rng.permutation(order[: rng.integers(3, len(domains) + 1)])
    shares = np.array([(order[about] == domain).mean() for domain in options])
    mode = np.flatnonzero(shares == shares.max())
    items = rng.permutation(items)
    return {
        "question_id": f"category/{'.'.join(items)}/{_dotted(options)}",
        "subject": "one reading" if readings == 1 else "several readings",
        "text": _category_text(items),
        "choices": [domains[i] for i in options],
        "human_shares": shares,
        "answer": int(mode[0]) if len(mode) == 1 else None,
    }


def _category_text(items) -> str:
    return f"{CATEGORY_STEM}{', '.join(items)}?"


def _statement(subject: int, fact: int) -> str:
    _, _, text, words = list(SUBJECTS.values())[subject]
    value = words[latents()["answers"][subject, fact]]
    return text.format(name=fact_name(subject, fact), value=value)


@lru_cache
def _option_sets(n_options: int) -> np.ndarray:
    return np.array(list(combinations(range(12), n_options)))


def _framed_shares(framing: int, domain: int, items: np.ndarray) -> np.ndarray:
    world = latents()
    adjective, least = divmod(framing, 2)
    sharpness = world["sharpness"][adjective] * (-1 if least else 1)
    return nominal_shares(world["items"][domain][items], world["angles"][adjective], sharpness)


def _normalised_entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(shares)).sum(axis=-1) / np.log(shares.shape[-1])


def _dotted(numbers) -> str:
    return ".".join(str(number) for number in numbers)


def _question_table(rows: list[dict], dataset: str) -> pd.DataFrame:
    table = pd.DataFrame(rows).assign(dataset=dataset, source="simulated")
    again = table.groupby("question_id").cumcount() + 1
    table["question_id"] += again.map(lambda k: f"#{k}" if k > 1 else "")
    return check_questions(table)
