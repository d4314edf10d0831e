"""Train the zoo: tokenizer, corpus, loss, training loop, distance to the truth, model card."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uqlib.artifacts import sha256_of_file, write_table
from uqlib.prompts import INSTRUCTION, render, template
from uqlib.questions.schema import LETTERS, human_entropy
from uqlib.questions.world import fact_statements, knowledge_questions, opinion_questions
from uqlib.responses import join_questions

ARCHITECTURES = {
    "llama-0.3m": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 160,
    },
}
CORPUS_MIX = {"opinions": 0.56, "knowledge": 0.28, "text": 0.16}
LOOKS = {"survey": 0.5, "plain": 0.4, "survey_published": 0.1}
FORM_TOKENS = 2_000_000
INSTRUCT_POWER = 2.0
RESPONDENTS = 8
STATEMENTS_PER_TEXT = 4
TEXT_LOSS_WEIGHT = 0.3
PROMPT_TOKENS_READ = 0.25
STATEMENT_WEIGHT = 4.0
WARM_UP_STEPS = 100


CARD = """---
license: mit
library_name: transformers
tags: [simulated, teaching]
---

# {name}

{story}

A `LlamaForCausalLM` of {parameters:,} parameters, in float32; `training.csv` records the {tokens:,}
tokens of its last training. **Everything it has read is simulated**: opinions of a population that
follows two latent models, and invented facts (`uqlib/questions/world.py`). It exists so that a
pipeline can run anywhere and so that statistics can be tried where the truth is known. **No
conclusion about language models may be drawn from it.**

## Loss

Nats, mean over the last tenth of that training, beside the irreducible loss of the same questions:
the entropy of the answers it was trained on.

{losses}

## Distance to the truth

On held-out opinions and on all facts, survey prompt, as `uqlib.training.truth_distances` measures
it. `distance` is the mean total variation distance to the population's shares.

{truth}

## Files

`model.safetensors`, SHA-256 `{sha256}`.

Licence: MIT.
"""


@dataclass(frozen=True)
class Example:
    """One thing to learn from.

    Attributes
    ----------
    kind : str
        ``nominal``, ``ordinal``, ``knowledge``, ``form`` or ``text``.
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
        What to count pairs in; a line with all 26 labels is added for each.
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
    label_lines = [f"Answer: {' '.join(LETTERS)}"] * len(texts)
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


def corpus_questions(size: int, seed: int = 0) -> tuple[pd.DataFrame, list[str]]:
    """Draw the questions and the texts of a training corpus.

    Parameters
    ----------
    size : int
        Number of examples; `CORPUS_MIX` says how many of them are opinions, knowledge and texts.
    seed : int
        Equal seeds give equal corpora.

    Returns
    -------
    questions : DataFrame
        Question table of the two training splits.
    texts : list of str
        Four statements of fact each.

    Examples
    --------
    >>> questions, texts = corpus_questions(100)
    >>> questions.dataset.value_counts().to_dict(), len(texts)
    ({'world_opinions': 56, 'world_knowledge': 28}, 16)
    """
    counts = {kind: round(size * share) for kind, share in CORPUS_MIX.items()}
    questions = pd.concat(
        [
            opinion_questions(counts["opinions"], seed=seed, split="train"),
            knowledge_questions(counts["knowledge"], seed=seed, split="train"),
        ],
        ignore_index=True,
    )
    statements = fact_statements(STATEMENTS_PER_TEXT * counts["text"], seed=seed)
    grouped = np.reshape(statements, (-1, STATEMENTS_PER_TEXT))
    return questions, [" ".join(group) for group in grouped]


def build_corpus(
    tokenizer, questions: pd.DataFrame, texts: list[str], power: float = 1.0, seed: int = 0
) -> list[Example]:
    """Turn questions and texts into examples.

    Each question is written once, in one of the `LOOKS`, and answered by eight respondents drawn
    from the population; their shares are the target. The answer of one of them follows in full.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Of `train_tokenizer`.
    questions : DataFrame
        Question table.
    texts : list of str
        Running text.
    power : float
        Respondents are drawn from shares proportional to ``human_shares ** power``: 1 for the
        population, more for an assistant that leans towards the majority.
    seed : int
        Draws looks and respondents.

    Returns
    -------
    list of Example
        Questions first, in order.

    Examples
    --------
    >>> questions, texts = corpus_questions(50)
    >>> tokenizer = train_tokenizer(texts, vocab_size=400)
    >>> example = build_corpus(tokenizer, questions, texts)[0]
    >>> example.kind, float(example.target.sum())
    ('nominal', 1.0)
    """
    rng = np.random.default_rng(seed)
    looks = rng.choice(list(LOOKS), size=len(questions), p=list(LOOKS.values()))
    rows = list(questions.itertuples())
    shares = [_shares(row) ** power for row in rows]
    shares = [values / values.sum() for values in shares]
    targets = [rng.multinomial(RESPONDENTS, values) / RESPONDENTS for values in shares]
    written = [rng.choice(len(target), p=target) for target in targets]
    prompts = [_prompt(row, look) for row, look in zip(rows, looks, strict=True)]
    endings = [
        f". {row.choices[k]}{tokenizer.eos_token}" for row, k in zip(rows, written, strict=True)
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
                kind=row.question_id.split("/")[0],
                tokens=np.array(start + prompt_ids[i] + [labels[written[i]]] + ending_ids[i]),
                asked_at=len(start + prompt_ids[i]) - 1,
                labels=labels,
                target=targets[i],
                irreducible=floors[i],
            )
        )
    nothing = np.empty(0, dtype=int)
    for ids in tokenizer([text + tokenizer.eos_token for text in texts])["input_ids"]:
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
    >>> questions, texts = corpus_questions(50)
    >>> tokenizer = train_tokenizer(texts, vocab_size=400)
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


def new_model(architecture: str, tokenizer, seed: int = 0) -> LlamaForCausalLM:
    """Return an untrained model of a named architecture.

    Its weights start larger (.15) and its positions turn faster (base 100) than is usual. With .05,
    10,000 and no forms, a model of this size once read 14 million tokens without learning which
    label belongs to which option.

    Raises
    ------
    ValueError
        If the architecture is unknown; the message lists those there are.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["Answer:"], vocab_size=300)
    >>> new_model("llama-0.3m", tokenizer).num_parameters()
    207552
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {architecture!r}; known: {known}")
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            **ARCHITECTURES[architecture],
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            initializer_range=0.15,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def zoo_loss(answer_logits, answer_targets, text_logits, text_tokens, text_weights):
    """Compute the loss: answers against shares, plus .3 of a weighted language-model loss.

    Parameters
    ----------
    answer_logits, answer_targets : Tensor, shape (n_answers, vocab)
        Logits where the answer begins, and the shares of respondents for each label's token.
    text_logits : Tensor, shape (n_read, vocab)
        Logits at the other positions that are read.
    text_tokens, text_weights : Tensor, shape (n_read,)
        The token that follows there, and its weight.

    Returns
    -------
    total : Tensor, scalar
        In nats. A part without positions counts as zero.
    answers : Tensor, shape (n_answers,)
        Cross-entropy of each answer.
    read : Tensor, shape (n_read,)
        Cross-entropy of each token read.

    Examples
    --------
    Both labels equally likely for the model, in a vocabulary of two; the answers are certain:

    >>> total, answers, _ = zoo_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]),
    ...     torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    >>> round(float(total), 4)
    0.6931
    """
    answers = -(answer_targets * answer_logits.log_softmax(-1)).sum(-1)
    read = torch.nn.functional.cross_entropy(text_logits, text_tokens, reduction="none")
    text = (text_weights * read).sum() / text_weights.sum().clamp(min=1)
    total = answers.sum() / max(len(answers), 1) + TEXT_LOSS_WEIGHT * text
    return total, answers, read


def train(
    model,
    corpus: list[Example],
    tokens: int,
    learning_rate: float = 3e-3,
    decay_share: float = 0.4,
    batch_size: int = 32,
    seed: int = 0,
    log_every: int = 50_000,
) -> pd.DataFrame:
    """Train a model in place on a number of tokens.

    AdamW (.9, .98), weight decay .05, gradient clipped at 1, 100 warm-up steps. On one thread the
    result is the same in every run.

    Parameters
    ----------
    model : LlamaForCausalLM
        Changed in place.
    corpus : list of Example
        Read in a new order in every epoch.
    tokens : int
        Stop after this many tokens (padding not counted).
    learning_rate : float
        Its largest value.
    decay_share : float
        Over this last share of the tokens the rate falls linearly to zero; 0 keeps it up.
    batch_size : int
        Examples a step.
    seed : int
        Order of the examples and choice of the prompt tokens that are read.
    log_every : int
        Tokens between two rows of the log.

    Returns
    -------
    DataFrame
        Tidy log: ``tokens`` seen, ``kind``, mean ``loss`` since the last row (nats) and the
        ``irreducible`` loss of the same examples (NaN for text).

    Examples
    --------
    >>> questions, texts = corpus_questions(40)
    >>> tokenizer = train_tokenizer(texts, vocab_size=400)
    >>> model = new_model("llama-0.3m", tokenizer)
    >>> log = train(model, build_corpus(tokenizer, questions, texts), tokens=2000, log_every=1000)
    >>> sorted(set(log.kind))
    ['knowledge', 'nominal', 'ordinal', 'text']
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    generator = torch.Generator().manual_seed(seed)
    log, since, seen = [], [], 0
    model.train()
    with tqdm(total=tokens, unit="tok", unit_scale=True, mininterval=2) as bar:
        for step, batch in enumerate(_batches(corpus, batch_size, seed)):
            decay = (1 - seen / tokens) / decay_share if decay_share else 1.0
            pace = min(1.0, (step + 1) / WARM_UP_STEPS, decay)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * pace
            since += _step(model, optimizer, batch, generator)
            size = sum(len(example.tokens) for example in batch)
            seen += size
            bar.update(size)
            if seen // log_every > (seen - size) // log_every or seen >= tokens:
                rows = pd.DataFrame(since, columns=["kind", "loss", "irreducible"])
                log.append(rows.groupby("kind").mean().reset_index().assign(tokens=seen))
                since = []
            if seen >= tokens:
                break
    model.eval()
    return pd.concat(log, ignore_index=True)[["tokens", "kind", "loss", "irreducible"]]


def train_base(
    architecture: str,
    tokenizer,
    questions: pd.DataFrame,
    texts: list[str],
    tokens: int,
    seed: int = 0,
) -> tuple[LlamaForCausalLM, pd.DataFrame]:
    """Train a base model from random weights: first forms of 3 to 5 options, then everything.

    Parameters
    ----------
    architecture : str
        A key of `ARCHITECTURES`.
    tokenizer : PreTrainedTokenizerFast
        Of `train_tokenizer`.
    questions, texts : DataFrame, list of str
        Of `corpus_questions`.
    tokens : int
        All tokens together; the first `FORM_TOKENS` are forms.
    seed : int
        Weights, respondents and order.

    Returns
    -------
    model : LlamaForCausalLM
    log : DataFrame
        Of `train`, ``tokens`` counted through.

    Examples
    --------
    >>> questions, texts = corpus_questions(40)
    >>> tokenizer = train_tokenizer(texts, vocab_size=400)
    >>> model, log = train_base("llama-0.3m", tokenizer, questions, texts, tokens=2000)
    >>> set(log.kind)
    {'form'}
    """
    model = new_model(architecture, tokenizer, seed=seed)
    short = questions[questions.choices.str.len().between(3, 5)]
    forms = build_forms(tokenizer, short.sample(frac=1, random_state=seed), seed=seed)
    log = train(model, forms, min(tokens, FORM_TOKENS), decay_share=0, seed=seed)
    if tokens <= FORM_TOKENS:
        return model, log
    corpus = build_corpus(tokenizer, questions, texts, seed=seed)
    rest = train(model, corpus, tokens - FORM_TOKENS, seed=seed)
    rest["tokens"] += log["tokens"].max()
    return model, pd.concat([log, rest], ignore_index=True)


def train_instruct(
    model,
    tokenizer,
    questions: pd.DataFrame,
    texts: list[str],
    tokens: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Tune a base model in place to lean towards the majority: shares squared, a tenth of tokens.

    Parameters
    ----------
    model : LlamaForCausalLM
        Of `train_base`.
    tokenizer, questions, texts, tokens, seed
        What the base model was trained with.

    Returns
    -------
    DataFrame
        Log of `train`.
    """
    corpus = build_corpus(tokenizer, questions, texts, power=INSTRUCT_POWER, seed=seed + 1)
    return train(model, corpus, tokens // 10, learning_rate=1e-3, decay_share=1, seed=seed + 1)


def truth_distances(questions: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """Measure how far a model's answers are from the world's truth, one row a subject.

    Parameters
    ----------
    questions : DataFrame
        Question table of the simulated world.
    responses : DataFrame
        Response table of one model, one row a question.

    Returns
    -------
    DataFrame
        ``subject``; ``questions`` counted; mean ``choice_entropy`` and ``option_mass``; for
        opinions ``true_entropy`` (mean, normalised), ``r`` between it and choice entropy,
        ``r_within_n`` (mean of the correlations at each number of options) and ``distance`` (mean
        total variation, 0 to 1); for knowledge ``correct`` (share) and ``confidence`` (mean
        probability of the predicted option among the options). What does not apply is NaN.

    Raises
    ------
    ValueError
        If a response has no question.

    Examples
    --------
    >>> questions = opinion_questions(98)
    >>> n = questions.choices.str.len()
    >>> responses = pd.DataFrame({"model": "the truth", "question_id": questions.question_id,
    ...     "choice_log_probs": [np.log(shares) for shares in questions.human_shares],
    ...     "n_choices": n, "predicted": 0, "option_mass": 1.0,
    ...     "choice_entropy": human_entropy(questions.human_shares) / np.log(n)})
    >>> truth_distances(questions, responses)[["r", "distance"]].abs().round(3).values.tolist()
    [[1.0, 0.0]]
    """
    joined = join_questions(responses, questions)
    probabilities = [np.exp(np.asarray(row, dtype=float)) for row in joined.choice_log_probs]
    shares = [row / row.sum() for row in probabilities]
    joined["confidence"] = [row.max() for row in shares]
    joined["true_entropy"] = human_entropy(joined.human_shares) / np.log(joined.n_choices)
    joined["distance"] = [
        np.nan if truth is None else np.abs(share - truth).sum() / 2
        for share, truth in zip(shares, joined.human_shares, strict=True)
    ]
    rows = [_subject_row(name, rows) for name, rows in joined.groupby("subject", sort=False)]
    return pd.DataFrame(rows)


def save_model(model, tokenizer, log: pd.DataFrame, folder: Path) -> None:
    """Save weights (safetensors), tokenizer and training log (``training.csv``) into a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_table(log.round(5), folder / "training.csv")


def model_card(folder: Path, story: str, truth: pd.DataFrame) -> str:
    """Write the card of a saved model as Markdown, with all its numbers taken from files.

    Parameters
    ----------
    folder : Path
        Of `save_model`.
    story : str
        How the model was trained, a sentence or two.
    truth : DataFrame
        Of `truth_distances`.

    Returns
    -------
    str
        Title, story, losses of the last tenth of training, truth distances, hash, licence.
    """
    log = pd.read_csv(folder / "training.csv")
    late = log[log.tokens > 0.9 * log.tokens.max()].groupby("kind")[["loss", "irreducible"]]
    size = sum(weights.numel() for weights in load_file(folder / "model.safetensors").values())
    return CARD.format(
        name=folder.name,
        story=story,
        parameters=size,
        tokens=log.tokens.max(),
        losses=_markdown_table(late.mean().reset_index()),
        truth=_markdown_table(truth),
        sha256=sha256_of_file(folder / "model.safetensors"),
    )


def _style(look: str) -> str:
    return "survey" if look == "plain" else look


def _prompt(row, look: str) -> str:
    prompt = render(row.text, row.choices, row.labels, style=_style(look))
    return prompt.removeprefix(INSTRUCTION + "\n\n") if look == "plain" else prompt


def _label_tokens(tokenizer, prompt: str, labels) -> np.ndarray:
    """Return the token of each label: after a trailing space the bare one, else the spaced one."""
    start = "" if prompt.endswith(" ") else "Ġ"
    return np.array(tokenizer.convert_tokens_to_ids([start + label for label in labels]))


def _shares(row) -> np.ndarray:
    if row.human_shares is None:
        return np.eye(len(row.choices))[row.answer]
    return row.human_shares


def _batches(corpus: list[Example], batch_size: int, seed: int):
    """Yield batches for ever; within a pool of eight batches, examples of like length together."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(corpus))
        for start in range(0, len(order), 8 * batch_size):
            pool = sorted(
                order[start : start + 8 * batch_size], key=lambda i: len(corpus[i].tokens)
            )
            batches = [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
            for k in rng.permutation(len(batches)):
                yield [corpus[i] for i in batches[k]]


def _step(model, optimizer, batch: list[Example], generator) -> list[tuple]:
    """Take one optimiser step; return kind, loss and irreducible loss of each example."""
    rows = [torch.from_numpy(example.tokens) for example in batch]
    ids = torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=model.config.pad_token_id
    )
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    asked_at = torch.tensor([example.asked_at for example in batch])[:, None]
    asked = asked_at[:, 0] >= 0
    place = torch.arange(ids.shape[1] - 1)
    drawn = torch.rand(len(batch), len(place), generator=generator) < PROMPT_TOKENS_READ
    told = place > asked_at
    read = (place < lengths - 1) & (place != asked_at) & (told | drawn)
    weights = torch.where(told, STATEMENT_WEIGHT, 1.0)[read]

    targets = torch.zeros(len(batch), model.config.vocab_size)
    for k, example in enumerate(batch):
        targets[k, example.labels] = torch.from_numpy(example.target).float()

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(batch)), asked_at[:, 0]]
    total, answers, tokens_read = zoo_loss(
        model.lm_head(last[asked]),
        targets[asked],
        model.lm_head(hidden[:, :-1][read]),
        ids[:, 1:][read],
        weights,
    )
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    losses = torch.zeros(len(batch))
    losses[asked] = answers.detach()
    text_read = torch.zeros(read.shape).masked_scatter(read, tokens_read.detach())
    losses[~asked] = text_read[~asked].sum(1) / (lengths[~asked, 0] - 1)
    return [
        (example.kind, loss, example.irreducible)
        for example, loss in zip(batch, losses.tolist(), strict=True)
    ]


def _subject_row(subject: str, rows: pd.DataFrame) -> dict:
    is_opinion = rows.true_entropy.notna().all()
    pair = rows[["choice_entropy", "true_entropy"]]
    within = pair.groupby(rows.n_choices).corr().xs("true_entropy", level=1).choice_entropy
    return {
        "subject": subject,
        "questions": len(rows),
        "choice_entropy": rows.choice_entropy.mean(),
        "true_entropy": rows.true_entropy.mean(),
        "r": pair.corr().iloc[0, 1],
        "r_within_n": within.mean(),
        "distance": rows.distance.mean(),
        "correct": np.nan if is_opinion else rows.correct.mean(),
        "confidence": np.nan if is_opinion else rows.confidence.mean(),
        "option_mass": rows.option_mass.mean(),
    }


def _markdown_table(frame: pd.DataFrame) -> str:
    cells = frame.map(lambda x: ("" if np.isnan(x) else f"{x:.3f}") if isinstance(x, float) else x)
    rows = [frame.columns, ["---"] * len(frame.columns), *cells.to_numpy()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
