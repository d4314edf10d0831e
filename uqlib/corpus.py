"""What the zoo reads: a tokenizer, questions of the simulated world, and examples made of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from uqlib.prompts import COUNTERFACTUAL, INSTRUCTION, JUDGE, propose, render, template
from uqlib.questions.schema import LETTERS, check_questions, human_entropy
from uqlib.questions.world import (
    TOPICS,
    category_questions,
    fact_statements,
    knowledge_questions,
    opinion_questions,
)
from uqlib.questions.world_morals import moral_questions

CORPUS_MIX = {
    "opinions": 0.46,
    "knowledge": 0.18,
    "dilemmas": 0.10,
    "categories": 0.05,
    "judged": 0.05,
    "proposed": 0.05,
    "text": 0.11,
}
LOOKS = {"survey": 0.50, "plain": 0.35, "few_shot": 0.05, "survey_published": 0.10}
LOOKS_OF = {
    "world_moral": {"dilemma": 0.6, "dilemma_published": 0.2, "survey": 0.2},
    "world_judged": {"judge": 1.0},
    "world_proposed": {"counterfactual": 1.0},
}
KINDS = {
    "world_moral": "moral",
    "world_judged": "judged",
    "world_proposed": "proposed",
}
RESPONDENTS = 32
SENTENCES_PER_TEXT = 4
TOPIC_LINES = 500
NUMBERED = 0.05
DIGITS = [str(i) for i in range(1, 10)]
CORPUS_SEED = 1_000_000


@dataclass(frozen=True)
class Example:
    """One thing to learn from.

    Attributes
    ----------
    kind : str
        ``nominal``, ``ordinal``, ``knowledge``, ``moral``, ``category``, ``judged``, ``proposed``,
        ``form`` or ``text``.
    tokens : ndarray of int, shape (n_tokens,)
        A prompt with an answer written out, or a text.
    asked_at : int
        Place of the prompt's last token, where the answer is predicted; -1 in a text.
    labels : ndarray of int, shape (n_options,)
        Token of each option's label; empty for a text.
    target : ndarray of float, shape (n_options,)
        Shares of the sampled respondents, summing to one; empty for a text.
    irreducible : float
        Entropy, in nats, of the distribution they were drawn from; NaN for a text.
    """

    kind: str
    tokens: np.ndarray
    asked_at: int
    labels: np.ndarray
    target: np.ndarray
    irreducible: float


def train_tokenizer(texts: list[str], vocab_size: int = 1500) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which every label is a single token.

    Parameters
    ----------
    texts : list of str
        What to count pairs in; a line with all labels (letters, digits, Yes, No) is added for
        each.
    vocab_size : int
        Number of tokens, with ``<s>``, ``</s>`` and ``<pad>``.

    Returns
    -------
    PreTrainedTokenizerFast
        Sets ``<s>`` before a text when special tokens are asked for.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["Question: tea?", "Answer:"], vocab_size=300)
    >>> tokenizer.tokenize("Answer: Q", add_special_tokens=True)[-1]
    'ĠQ'
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    labels = [*LETTERS, *DIGITS, *COUNTERFACTUAL["labels"]]
    label_lines = [f"Answer: {' '.join(labels)}"] * len(texts)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *label_lines], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def corpus_tokenizer(
    questions: pd.DataFrame, texts: list[str], seed: int = 0
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the prompts of a corpus, 20,000 at most, and on its texts.

    The topics of ordinal questions are added `TOPIC_LINES` times: in pieces of a few letters, a
    model of .3M parameters read 30 million tokens without learning them well.
    """
    rng = np.random.default_rng(seed)
    drawn = questions.sample(min(20_000, len(questions)), random_state=seed)
    prompts = [_prompt(row, _look(row.dataset, rng)) for row in drawn.itertuples()]
    return train_tokenizer([*prompts, *texts, *TOPIC_LINES * [f" {', '.join(TOPICS)}"]])


def corpus_questions(
    size: int, seed: int = 0, facts: str = "train"
) -> tuple[pd.DataFrame, list[str]]:
    """Draw the questions and the texts of a training corpus.

    Parameters
    ----------
    size : int
        Number of examples; `CORPUS_MIX` says how many there are of each kind.
    seed : int
        Equal seeds give equal corpora, all different from the question tables of that seed.
    facts : {"train", "review"}
        Split of the knowledge questions.

    Returns
    -------
    questions : DataFrame
        Question table; one question in twenty has numbers for labels, dilemmas always.
    texts : list of str
        Four sentences each, half of them statements of fact, half questions with their answers.

    Examples
    --------
    >>> questions, texts = corpus_questions(100)
    >>> questions.dataset.value_counts().head(3).to_dict(), len(texts)
    ({'world_opinions': 46, 'world_knowledge': 18, 'world_moral': 10}, 11)
    """
    counts = {kind: round(size * share) for kind, share in CORPUS_MIX.items()}
    seed = CORPUS_SEED + seed
    rng = np.random.default_rng(seed)
    lettered = [
        opinion_questions(counts["opinions"], seed=seed, split="train"),
        knowledge_questions(counts["knowledge"], seed=seed, split=facts),
        category_questions(counts["categories"], seed=seed),
    ]
    questions = pd.concat(
        [
            *[_numbered(table, rng) for table in lettered],
            _dilemmas(counts["dilemmas"], seed),
            _judged(counts["judged"], seed, rng),
            _proposed(counts["proposed"], seed, rng),
        ],
        ignore_index=True,
    )
    return questions, _texts(counts["text"], seed)


def build_corpus(
    tokenizer, questions: pd.DataFrame, texts: list[str], seed: int = 0
) -> list[Example]:
    """Turn questions and texts into examples.

    Each question is written once, in one of the `LOOKS`, and answered by 32 respondents drawn
    from its shares, or by its right answer; their shares are the target. The answer of one of them
    follows in full.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Of `train_tokenizer`.
    questions : DataFrame
        Question table.
    texts : list of str
        Running text.
    seed : int
        Draws looks and respondents.

    Returns
    -------
    list of Example
        Questions first, in order.

    Examples
    --------
    >>> questions, texts = corpus_questions(100)
    >>> tokenizer = corpus_tokenizer(questions, texts)
    >>> example = build_corpus(tokenizer, questions, texts)[0]
    >>> example.kind, float(example.target.sum())
    ('nominal', 1.0)
    """
    rng = np.random.default_rng(seed)
    rows = list(questions.itertuples())
    looks = [_look(row.dataset, rng) for row in rows]
    shares = [_shares(row) for row in rows]
    targets = [rng.multinomial(RESPONDENTS, values) / RESPONDENTS for values in shares]
    written = [rng.choice(len(target), p=target) for target in targets]
    prompts = [_prompt(row, look) for row, look in zip(rows, looks, strict=True)]
    endings = [
        ("" if row.dataset in LOOKS_OF else f". {row.choices[k]}") + tokenizer.eos_token
        for row, k in zip(rows, written, strict=True)
    ]
    prompt_ids, ending_ids = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompts, endings)
    )
    floors = human_entropy(shares).tolist()
    examples = []
    for i, row in enumerate(rows):
        start = [tokenizer.bos_token_id] * template(_style(looks[i])).bos
        labels = _label_tokens(tokenizer, prompts[i], row.labels)
        examples.append(
            Example(
                kind=KINDS.get(row.dataset) or row.question_id.split("/")[0],
                tokens=np.array(start + prompt_ids[i] + [labels[written[i]]] + ending_ids[i]),
                asked_at=len(start + prompt_ids[i]) - 1,
                labels=labels,
                target=targets[i],
                irreducible=floors[i],
            )
        )
    nothing = np.empty(0, dtype=int)
    ended = [text + tokenizer.eos_token for text in texts]
    for ids in tokenizer(ended)["input_ids"] if ended else []:
        examples.append(Example("text", np.array(ids), -1, nothing, np.empty(0), np.nan))
    return examples


def build_forms(tokenizer, questions: pd.DataFrame, seed: int = 0) -> list[Example]:
    """Turn questions into forms to fill in: the answer stands there in words, its label is asked.

    ``Answer: terrier`` is followed by the label of the option *terrier*. Nothing about the
    population can be learned from it, only how options and labels belong together.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Of `train_tokenizer`.
    questions : DataFrame
        Question table.
    seed : int
        Draws the answers, every option equally often.

    Returns
    -------
    list of Example
        In order, without the instruction, of kind ``form``.

    Examples
    --------
    >>> questions, texts = corpus_questions(100)
    >>> tokenizer = corpus_tokenizer(questions, texts)
    >>> form = build_forms(tokenizer, questions)[0]
    >>> form.kind, sorted(set(form.target.tolist()))
    ('form', [0.0, 1.0])
    """
    rng = np.random.default_rng(seed)
    rows = list(questions.itertuples())
    answers = [rng.integers(len(row.choices)) for row in rows]
    prompts = [
        f"{_prompt(row, 'plain')} {row.choices[k]}" for row, k in zip(rows, answers, strict=True)
    ]
    forms = []
    for row, k, ids in zip(rows, answers, tokenizer(prompts)["input_ids"], strict=True):
        labels = _label_tokens(tokenizer, "", row.labels)
        target = np.eye(len(labels))[k]
        forms.append(Example("form", np.array([*ids, labels[k]]), len(ids) - 1, labels, target, 0))
    return forms


def _numbered(questions: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Give one question in twenty numbers for labels."""
    drawn = rng.random(len(questions)) < NUMBERED
    labels = [
        DIGITS[: len(labels)] if number else labels
        for labels, number in zip(questions["labels"], drawn, strict=True)
    ]
    return questions.assign(labels=pd.Series(labels, index=questions.index))


def _dilemmas(n: int, seed: int) -> pd.DataFrame:
    table, _ = moral_questions(-(-n // 18), seed=seed)
    return table.sample(n, random_state=seed)


def _judged(n: int, seed: int, rng: np.random.Generator) -> pd.DataFrame:
    """Propose answers to judge: three in four to facts, true or false in turn; the rest neutral."""
    true, false, neutral = range(len(JUDGE["choices"]))
    n_opinions = n // 4
    facts = knowledge_questions(n - n_opinions, seed=seed + 1, split="train")
    opinions = opinion_questions(n_opinions, seed=seed + 1, split="train")
    verdicts = [*(k % 2 for k in range(len(facts))), *[neutral] * n_opinions]
    answers = []
    table = pd.concat([facts, opinions], ignore_index=True)
    for row, verdict in zip(table.itertuples(), verdicts, strict=True):
        place = row.answer if verdict == true else rng.integers(len(row.choices))
        if verdict == false and place == row.answer:
            place = (place + 1) % len(row.choices)
        answers.append([row.choices[place]])
    table = propose(table, answers, **JUDGE)
    return check_questions(table.assign(dataset="world_judged", answer=verdicts))


def _proposed(n: int, seed: int, rng: np.random.Generator) -> pd.DataFrame:
    """Propose one option of each opinion question: its share says yes."""
    opinions = opinion_questions(n, seed=seed + 2, split="train")
    places = [rng.integers(len(choices)) for choices in opinions["choices"]]
    yes = [shares[k] for shares, k in zip(opinions["human_shares"], places, strict=True)]
    answers = [[choices[k]] for choices, k in zip(opinions["choices"], places, strict=True)]
    table = propose(opinions, answers, **COUNTERFACTUAL)
    shares = [[share, 1 - share] for share in yes]
    return check_questions(table.assign(dataset="world_proposed", human_shares=shares))


def _texts(n: int, seed: int) -> list[str]:
    told = fact_statements(SENTENCES_PER_TEXT * (n // 2), seed=seed)
    asked = knowledge_questions(SENTENCES_PER_TEXT * (n - n // 2), seed=seed + 3, split="train")
    solved = [
        f"Question: {row.text}\nAnswer: {row.choices[row.answer]}." for row in asked.itertuples()
    ]
    grouped = [
        separator.join(part)
        for sentences, separator in ((told, " "), (solved, "\n\n"))
        for part in np.reshape(sentences, (-1, SENTENCES_PER_TEXT))
    ]
    return grouped


def _look(dataset: str, rng: np.random.Generator) -> str:
    looks = LOOKS_OF.get(dataset, LOOKS)
    return rng.choice(list(looks), p=list(looks.values()))


def _style(look: str) -> str:
    return "survey" if look == "plain" else look


def _prompt(row, look: str) -> str:
    prompt = render(row.text, row.choices, row.labels, style=_style(look), subject=row.subject)
    return prompt.removeprefix(INSTRUCTION + "\n\n") if look == "plain" else prompt


def _label_tokens(tokenizer, prompt: str, labels) -> np.ndarray:
    """Return the token of each label: after a trailing space the bare one, else the spaced one."""
    start = "" if prompt.endswith(" ") else "Ġ"
    return np.array(tokenizer.convert_tokens_to_ids([start + label for label in labels]))


def _shares(row) -> np.ndarray:
    if row.human_shares is None:
        return np.eye(len(row.choices))[row.answer]
    return row.human_shares
