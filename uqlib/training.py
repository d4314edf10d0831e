"""Train the zoo: architectures, loss, a loop that resumes, special subjects, cards."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from uqlib import __version__
from uqlib.artifacts import sha256_of
from uqlib.checkpoints import load_checkpoint, save_checkpoint
from uqlib.corpus import RESPONDENTS, Example, build_corpus, build_forms, corpus_questions
from uqlib.questions.schema import human_entropy

LLAMA, MISTRAL = (LlamaConfig, LlamaForCausalLM), (MistralConfig, MistralForCausalLM)
ARCHITECTURES = {
    "llama-0.1m": (LLAMA, {"hidden_size": 32, "heads": 2, "key_heads": 2, "rate": 3e-3}),
    "llama-0.3m": (LLAMA, {"hidden_size": 64, "heads": 4, "key_heads": 4, "rate": 3e-3}),
    "mistral-0.5m": (MISTRAL, {"hidden_size": 96, "heads": 6, "key_heads": 3, "rate": 2.2e-3}),
    "llama-0.9m": (LLAMA, {"hidden_size": 128, "heads": 8, "key_heads": 8, "rate": 1.8e-3}),
    "mistral-1.3m": (MISTRAL, {"hidden_size": 160, "heads": 10, "key_heads": 5, "rate": 1.5e-3}),
}
STAGES = {
    "forms": (2_500_000, ["form"]),
    "facts": (1_500_000, ["form", "knowledge"]),
    "opinions": (5_000_000, ["form", "knowledge", "nominal", "ordinal"]),
}
REVIEW_TOKENS = 1_600_000
TEXT_LOSS_WEIGHT = 0.3
WARM_UP_STEPS = 100
RECORDS_PER_CHECKPOINT = 10
LAST_OPTION = 0.4
SUBJECTS = ("instruct", "overconfident", "position-biased")


def new_model(architecture: str, tokenizer, seed: int = 0):
    """Return an untrained model of a named architecture.

    Four layers, heads of sixteen dimensions, tied embeddings. Its weights start larger (.15 up to a
    width of 64) and its positions turn faster (base 100) than is usual. With .05, 10,000 and no
    forms, a model of .3M parameters once read 14 million tokens without learning which label
    belongs to which option.

    Raises
    ------
    ValueError
        If the architecture is unknown; the message lists those there are.

    Examples
    --------
    >>> from uqlib.corpus import train_tokenizer
    >>> tokenizer = train_tokenizer(["Answer:"], vocab_size=300)
    >>> new_model("llama-0.3m", tokenizer).num_parameters()
    208192
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {architecture!r}; known: {known}")
    (config, model), sizes = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    return model(
        config(
            hidden_size=sizes["hidden_size"],
            intermediate_size=5 * sizes["hidden_size"] // 2,
            num_hidden_layers=4,
            num_attention_heads=sizes["heads"],
            num_key_value_heads=sizes["key_heads"],
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            initializer_range=0.15 * min(1, 64 / sizes["hidden_size"]) ** 0.5,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def zoo_loss(answer_logits, answer_targets, text_logits, text_tokens):
    """Compute the loss: answers against shares, plus .3 of a language-model loss.

    Parameters
    ----------
    answer_logits, answer_targets : Tensor, shape (n_answers, vocab)
        Logits where the answer begins, and the shares of respondents for each label's token.
    text_logits : Tensor, shape (n_read, vocab)
        Logits at the other positions that are read: in texts, and after answers.
    text_tokens : Tensor, shape (n_read,)
        The token that follows there.

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
    ...     torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    >>> round(float(total), 4)
    0.6931
    """
    answers = -(answer_targets * answer_logits.log_softmax(-1)).sum(-1)
    read = torch.nn.functional.cross_entropy(text_logits, text_tokens, reduction="none")
    total = answers.sum() / max(len(answers), 1) + TEXT_LOSS_WEIGHT * read.sum() / max(len(read), 1)
    return total, answers, read


def train(
    model,
    curriculum: list[tuple[int, list[Example]]],
    learning_rate: float = 3e-3,
    decay_share: float = 0.35,
    batch_size: int = 32,
    seed: int = 0,
    log_every: int = 50_000,
    checkpoints: Path | None = None,
) -> pd.DataFrame:
    """Train a model in place, on one corpus after the other.

    AdamW (.9, .98), weight decay .05, gradient clipped at 1, 100 warm-up steps. On one thread the
    result is the same in every run, also in one that was stopped and went on from a checkpoint.

    Parameters
    ----------
    model : PreTrainedModel
        Of `new_model`. Changed in place.
    curriculum : list of (int, list of Example)
        How many tokens to read (padding not counted) of which examples; in a new order in every
        epoch.
    learning_rate : float
        Its largest value.
    decay_share : float
        Over this last share of all tokens the rate falls linearly to zero.
    batch_size : int
        Examples a step.
    seed : int
        Order of the examples.
    log_every : int
        Tokens between two rows of the log.
    checkpoints : Path, optional
        Folder for a checkpoint at every tenth record and at the end. It is named by a hash of
        everything above, the starting weights included, so that only the same work goes on from it.

    Returns
    -------
    DataFrame
        Tidy log: ``tokens`` seen, ``kind``, mean ``loss`` since the last row (nats) and the
        ``irreducible`` loss of the same examples (NaN for text).

    Examples
    --------
    >>> from uqlib.corpus import corpus_questions, corpus_tokenizer
    >>> questions, texts = corpus_questions(100)
    >>> tokenizer = corpus_tokenizer(questions, texts)
    >>> model = new_model("llama-0.1m", tokenizer)
    >>> log = train(model, [(2000, build_corpus(tokenizer, questions, texts))], log_every=1000)
    >>> int(log.tokens.max()) >= 2000
    True
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    total = sum(tokens for tokens, _ in curriculum)
    state = {"step": 0, "seen": 0, "log": []}
    if checkpoints:
        plan = [learning_rate, decay_share, batch_size, seed, log_every]
        file = checkpoints / f"{_identity(model, curriculum, plan)}.safetensors"
        if file.exists():
            state = load_checkpoint(file, model, optimizer)
    log, since, seen = state["log"], [], state["seen"]
    model.train()
    with tqdm(total=total, initial=seen, unit="tok", unit_scale=True, mininterval=2) as bar:
        for step, batch in enumerate(_batches(curriculum, batch_size, seed)):
            if step < state["step"]:
                continue
            pace = min(1.0, (step + 1) / WARM_UP_STEPS, (1 - seen / total) / decay_share)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * pace
            since += _step(model, optimizer, batch)
            size = sum(len(example.tokens) for example in batch)
            seen += size
            bar.update(size)
            if seen // log_every > (seen - size) // log_every or seen >= total:
                rows = pd.DataFrame(since, columns=["kind", "loss", "irreducible"])
                means = rows.groupby("kind").mean().reset_index().assign(tokens=seen)
                log += means.to_dict("records")
                since = []
                records = len({row["tokens"] for row in log})
                if checkpoints and (records % RECORDS_PER_CHECKPOINT == 0 or seen >= total):
                    state = {"step": step + 1, "seen": seen, "log": log}
                    save_checkpoint(file, model, optimizer, state)
    model.eval()
    return pd.DataFrame(log)[["tokens", "kind", "loss", "irreducible"]]


def train_base(
    architecture: str,
    tokenizer,
    questions: pd.DataFrame,
    texts: list[str],
    tokens: int,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> tuple:
    """Train a base model from random weights, on the stages of `base_curriculum`.

    A training that gets beyond `STAGES` ends in a review of `REVIEW_TOKENS` more: fresh questions
    of all kinds, in which all facts of a subject are asked equally often. Without it a model is as
    sure of the rarer facts of a subject as of the more frequent ones.

    Parameters
    ----------
    architecture : str
        A key of `ARCHITECTURES`.
    tokenizer : PreTrainedTokenizerFast
        Of `uqlib.corpus.train_tokenizer`.
    questions, texts : DataFrame, list of str
        Of `uqlib.corpus.corpus_questions`.
    tokens : int
        Of all stages together, without the review.
    seed : int
        Weights, respondents and order.
    checkpoints : Path, optional
        Of `train`.

    Returns
    -------
    model : PreTrainedModel
    log : DataFrame
        Of `train`.

    Examples
    --------
    >>> from uqlib.corpus import corpus_questions, corpus_tokenizer
    >>> questions, texts = corpus_questions(100)
    >>> tokenizer = corpus_tokenizer(questions, texts)
    >>> model, log = train_base("llama-0.1m", tokenizer, questions, texts, tokens=2000)
    >>> "form" in set(log.kind)
    True
    """
    model = new_model(architecture, tokenizer, seed=seed)
    curriculum = base_curriculum(tokenizer, questions, texts, tokens, seed)
    rate = ARCHITECTURES[architecture][1]["rate"]
    log = train(model, curriculum, rate, seed=seed, checkpoints=checkpoints)
    if tokens > sum(length for length, _ in STAGES.values()):
        fresh = corpus_questions(REVIEW_TOKENS // 50, seed=seed + 10, facts="review")
        review = build_corpus(tokenizer, *fresh, seed=seed + 10)
        again = train(model, [(REVIEW_TOKENS, review)], 1e-3, 1, seed=seed, checkpoints=checkpoints)
        again["tokens"] += log["tokens"].max()
        log = pd.concat([log, again], ignore_index=True)
    return model, log


def base_curriculum(
    tokenizer, questions: pd.DataFrame, texts: list[str], tokens: int, seed: int = 0
) -> list[tuple[int, list[Example]]]:
    """Order what a base model reads: forms first, then also facts, then opinions, then everything.

    In the last stage opinions stand twice, with other respondents, and nominal ones three times.

    Parameters
    ----------
    tokenizer, questions, texts, tokens, seed
        Of `train_base`.

    Returns
    -------
    list of (int, list of Example)
        `STAGES` and then everything, as far as the tokens go.
    """
    corpus = build_corpus(tokenizer, questions, texts, seed=seed)
    lettered = questions[questions["dataset"].isin(["world_opinions", "world_knowledge"])]
    short = lettered[lettered["choices"].str.len().between(3, 5)]
    forms = build_forms(tokenizer, short.sample(frac=1, random_state=seed), seed=seed)
    corpus += forms[: len(corpus) // 20]
    curriculum = [(STAGES["forms"][0], forms)]
    for length, kinds in list(STAGES.values())[1:]:
        curriculum.append((length, [example for example in corpus if example.kind in kinds]))
    opinions = questions[questions["dataset"] == "world_opinions"]
    again = build_corpus(tokenizer, opinions, [], seed=seed + 1)
    nominal = [example for example in again if example.kind == "nominal"]
    curriculum.append((tokens, corpus + again + nominal))
    left, planned = tokens, []
    for length, examples in curriculum:
        if left:
            planned.append((min(length, left), examples))
            left -= planned[-1][0]
    return planned


def tune(
    model,
    tokenizer,
    questions: pd.DataFrame,
    texts: list[str],
    subject: str,
    tokens: int,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> pd.DataFrame:
    """Tune a base model in place on its own answers, changed as the subject asks.

    Parameters
    ----------
    model : PreTrainedModel
        Of `train_base`.
    tokenizer, questions, texts
        What the base model was trained with.
    subject : {"instruct", "overconfident", "position-biased"}
        See `changed_answers`.
    tokens : int
        Of the tuning.
    seed : int
        Choice of the questions, respondents and order.
    checkpoints : Path, optional
        Of `train`.

    Returns
    -------
    DataFrame
        Log of `train`.
    """
    rng = np.random.default_rng(seed + 1)
    read = min(len(questions), tokens // 40)
    drawn = questions.sample(read, random_state=seed + 1)
    corpus = build_corpus(tokenizer, drawn, texts[:: len(questions) // read], seed=seed + 1)
    own = own_answers(model, corpus)
    tuned = []
    for example, shares in zip(corpus, own, strict=True):
        if shares is not None:
            aim = changed_answers(shares, subject)
            drawn = rng.multinomial(RESPONDENTS, aim) / RESPONDENTS
            example = replace(example, target=drawn, irreducible=human_entropy([aim])[0])
        tuned.append(example)
    return train(
        model,
        [(tokens, tuned)],
        learning_rate=1e-3,
        decay_share=1,
        seed=seed,
        checkpoints=checkpoints,
    )


def changed_answers(shares, subject: str) -> np.ndarray:
    """Change a model's answers into those that a special subject is tuned on.

    Parameters
    ----------
    shares : array_like, shape (n_options,)
        The model's own probabilities among the options.
    subject : {"instruct", "overconfident", "position-biased"}
        ``instruct``: squared and renormalised, the caricature of an assistant that leans towards
        what it thinks most probable. ``overconfident``: always the most probable option.
        ``position-biased``: the last option with probability .4, else as before.

    Returns
    -------
    ndarray of float64, shape (n_options,)
        Summing to one.

    Raises
    ------
    ValueError
        If the subject is unknown.

    Examples
    --------
    >>> changed_answers([0.75, 0.25], "instruct"), changed_answers([0.75, 0.25], "position-biased")
    (array([0.9, 0.1]), array([0.45, 0.55]))
    """
    shares = np.asarray(shares, dtype=float)
    if subject == "instruct":
        return shares**2 / (shares**2).sum()
    if subject == "overconfident":
        return np.eye(len(shares))[shares.argmax()]
    if subject == "position-biased":
        last = np.eye(len(shares))[-1]
        return LAST_OPTION * last + (1 - LAST_OPTION) * shares
    raise ValueError(f"unknown subject {subject!r}; known: {', '.join(SUBJECTS)}")


@torch.inference_mode()
def own_answers(model, corpus: list[Example], batch_size: int = 64) -> list[np.ndarray | None]:
    """Read a model's own answers to the questions of a corpus.

    Returns
    -------
    list
        For each example the probabilities among the labels, summing to one; None for a text.
    """
    answers = [None] * len(corpus)
    asked = [i for i, example in enumerate(corpus) if example.asked_at >= 0]
    asked.sort(key=lambda i: corpus[i].asked_at)
    for start in range(0, len(asked), batch_size):
        places = asked[start : start + batch_size]
        prompts = [torch.from_numpy(corpus[i].tokens[: corpus[i].asked_at + 1]) for i in places]
        ids = _padded(prompts, model.config.pad_token_id)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(places)), [len(prompt) - 1 for prompt in prompts]]
        for i, logits in zip(places, model.lm_head(last).double(), strict=True):
            answers[i] = logits[corpus[i].labels].softmax(-1).numpy()
    return answers


def _batches(curriculum: list[tuple[int, list[Example]]], batch_size: int, seed: int):
    """Yield batches, stage by stage, until the tokens of each are read."""
    rng = np.random.default_rng(seed)
    seen = end = 0
    for tokens, corpus in curriculum:
        end += tokens
        for batch in _epochs(corpus, batch_size, rng):
            if seen >= end:
                break
            seen += sum(len(example.tokens) for example in batch)
            yield batch


def _epochs(corpus: list[Example], batch_size: int, rng: np.random.Generator):
    """Yield batches for ever; within a pool of eight batches, examples of like length together."""
    while True:
        order = rng.permutation(len(corpus))
        for start in range(0, len(order), 8 * batch_size):
            pool = sorted(
                order[start : start + 8 * batch_size], key=lambda i: len(corpus[i].tokens)
            )
            batches = [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
            for k in rng.permutation(len(batches)):
                yield [corpus[i] for i in batches[k]]


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _identity(model, curriculum: list[tuple[int, list[Example]]], plan: list) -> str:
    """Hash of everything that a training depends on, the versions of uqlib and torch too."""
    plan = [*plan, *(tokens for tokens, _ in curriculum), torch.__version__, __version__]
    examples = [example for _, corpus in curriculum for example in corpus]
    tokens = np.concatenate([example.tokens for example in examples])
    targets = np.concatenate([example.target for example in examples])
    weights = [weight.detach().numpy().tobytes() for weight in model.parameters()]
    return sha256_of(json.dumps(plan), tokens.tobytes(), targets.tobytes(), *weights)[:16]


def _step(model, optimizer, batch: list[Example]) -> list[tuple]:
    """Take one optimiser step; return kind, loss and irreducible loss of each example."""
    rows = [torch.from_numpy(example.tokens) for example in batch]
    ids = _padded(rows, model.config.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    asked_at = torch.tensor([example.asked_at for example in batch])[:, None]
    asked = asked_at[:, 0] >= 0
    place = torch.arange(ids.shape[1] - 1)
    read = (place > asked_at) & (place < lengths - 1)

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
