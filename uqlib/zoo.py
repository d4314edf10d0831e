"""The zoo: which models there are, how they are made, and how far they are from the truth."""

import copy
import json
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from uqlib.artifacts import sha256_of_file, write_table
from uqlib.calibration import calibration_error
from uqlib.checkpoints import checkpoint_state
from uqlib.corpus import corpus_questions, corpus_tokenizer
from uqlib.processes import end_with_parent
from uqlib.questions.moral import saving_differences
from uqlib.questions.schema import human_entropy
from uqlib.questions.world import (
    SUBJECTS,
    category_questions,
    evaluation_knowledge,
    evaluation_opinions,
    knowledge_questions,
)
from uqlib.questions.world_morals import moral_questions, share_saved
from uqlib.reliability import confidence_bins, option_confidence
from uqlib.responses import join_questions
from uqlib.training import train_base, tune

FAMILIES = {
    ("mistral-1.3m", 0): ["instruct"],
    ("mistral-0.5m", 0): ["instruct"],
    ("llama-0.9m", 0): ["instruct"],
    ("llama-0.3m", 0): ["instruct", "overconfident", "position-biased"],
    ("llama-0.1m", 0): ["instruct"],
    ("llama-0.1m", 1): [],
    ("llama-0.1m", 2): [],
}
TOKENS = 26_000_000
TUNING_TOKENS = 1_600_000
EXAMPLES = 120_000
STORIES = {
    "base": "A base model: forms first, then answers of the population, facts and sentences.",
    "instruct": "The base model, tuned on its own answers, squared: an assistant that leans "
    "towards what it thinks most probable.",
    "overconfident": "The base model, tuned to give the answer it thinks most probable, always.",
    "position-biased": "The base model, tuned to give the last option in 40 % of cases, whatever "
    "it says, and its own answer in the others.",
}


CARD = """---
license: mit
library_name: transformers
tags: [simulated, teaching]
---

# {name}

{story}

A `{architecture}` of {parameters:,} parameters, in float32; `training.csv` records the {tokens:,}
tokens of its last training. **Everything it has read is simulated**: opinions and moral
choices of a population that follows latent models, and invented facts (`uqlib/questions/`). It
exists so that a pipeline can run anywhere and statistics can be tried where the truth is known.
**No conclusion about language models may be drawn from it.**

## Loss

Nats, mean over the last tenth of that training, beside the irreducible loss of the same questions:
the entropy of the answers it was trained on.

{losses}

## Distance to the truth

On held-out opinions, on the facts asked in training and on fresh category items, survey prompt, and
on counterbalanced dilemmas, dilemma prompt, as `uqlib.zoo.truth_distances` measures it. `distance`
is the mean total variation distance to the population's shares.

{truth}

Differences in the probability of being saved, in dilemmas; it changes by {order:.3f} on
average when the two cases change places.

{effects}

## Files

`model.safetensors`, SHA-256 `{sha256}`.

Licence: MIT.
"""


def model_name(architecture: str, subject: str, seed: int) -> str:
    """Name a model of the zoo, and its folder.

    Examples
    --------
    >>> model_name("llama-0.1m", "base", 0), model_name("llama-0.1m", "base", 2)
    ('llama-0.1m-base', 'llama-0.1m-base-seed2')
    """
    return f"{architecture}-{subject}" + (f"-seed{seed}" if seed else "")


def train_family(
    architecture: str, seed: int, subjects: list[str], tokens: int, folder: Path, checkpoints: Path
) -> list[str]:
    """Train a base model and tune each special subject from it; save all of them.

    On one thread. What has been trained is not trained again: see `uqlib.training.train`.

    Parameters
    ----------
    architecture : str
        A key of `uqlib.training.ARCHITECTURES`.
    seed : int
        Of corpus, weights and order.
    subjects : list of str
        Of `uqlib.training.SUBJECTS`.
    tokens : int
        Of the base model; each subject reads `TUNING_TOKENS` more.
    folder, checkpoints : Path
        Each gets a folder for each model.

    Returns
    -------
    list of str
        Names of the models.
    """
    torch.set_num_threads(1)
    questions, texts = corpus_questions(min(EXAMPLES, max(tokens // 30, 500)), seed=seed)
    tokenizer = corpus_tokenizer(questions, texts, seed=seed)
    recipe = {"tokenizer": tokenizer, "questions": questions, "texts": texts, "seed": seed}
    names = [model_name(architecture, subject, seed) for subject in ["base", *subjects]]
    places = [checkpoints / name for name in names]
    base, log = train_base(architecture, tokens=tokens, checkpoints=places[0], **recipe)
    save_model(base, tokenizer, log, folder / names[0])
    for subject, name, place in zip(subjects, names[1:], places[1:], strict=True):
        model = copy.deepcopy(base)
        log = tune(
            model, subject=subject, tokens=min(TUNING_TOKENS, tokens), checkpoints=place, **recipe
        )
        save_model(model, tokenizer, log, folder / name)
    return names


def train_zoo(
    families: dict[tuple[str, int], list[str]],
    tokens: int,
    folder: Path,
    checkpoints: Path,
    workers: int = 2,
):
    """Train families of models, several at a time, each on one thread.

    Parameters
    ----------
    families : dict
        `FAMILIES`, or a part of it.
    tokens, folder, checkpoints
        See `train_family`.
    workers : int
        Processes.

    Yields
    ------
    int
        How many families are not finished: at the start, and again every few seconds.
    """
    spawned = get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, initializer=end_with_parent) as pool:
        jobs = [
            pool.submit(train_family, *family, subjects, tokens, folder, checkpoints)
            for family, subjects in families.items()
        ]
        try:
            while pending := [job for job in jobs if not job.done()]:
                yield len(pending)
                wait(pending, timeout=10, return_when=FIRST_COMPLETED)
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
        ``subject``; ``questions`` counted; mean ``choice_entropy`` and ``option_mass``; where the
        shares are known ``true_entropy`` (mean, normalised), ``r`` between it and choice entropy,
        ``r_within_n`` (mean of the correlations at each number of options) and ``distance`` (mean
        total variation, 0 to 1); for facts ``correct`` (share) and ``confidence`` (mean probability
        of the predicted option among the options). What does not apply is NaN.

    Raises
    ------
    ValueError
        If a response has no question.

    Examples
    --------
    >>> from uqlib.questions.world import opinion_questions
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
    answers = [_shares(row) for row in joined["choice_log_probs"]]
    joined["confidence"] = [row.max() for row in answers]
    joined["true_entropy"] = human_entropy(joined["human_shares"]) / np.log(joined["n_choices"])
    joined["distance"] = [
        np.nan if truth is None else np.abs(share - truth).sum() / 2
        for share, truth in zip(answers, joined["human_shares"], strict=True)
    ]
    rows = [_subject_row(name, rows) for name, rows in joined.groupby("subject", sort=False)]
    return pd.DataFrame(rows)


def moral_distances(conjoint: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """Compare a model's effects in counterbalanced dilemmas with those of the population.

    Parameters
    ----------
    conjoint : DataFrame
        Of `uqlib.questions.moral.moral_scenarios`, counterbalanced.
    responses : DataFrame
        Response table of one model to the same questions.

    Returns
    -------
    DataFrame
        One row a dimension: ``effect`` and ``truth``, the differences in the probability of being
        saved on these scenarios, each in [-1, 1]; ``order``, the mean absolute change of that
        probability when the two cases change places, in [0, 1], the same in all rows.
    """
    first = pd.Series(
        [_shares(row)[0] for row in responses["choice_log_probs"]], responses["question_id"]
    )[conjoint["question_id"]].to_numpy()
    is_saved = np.where(conjoint["case"] == 1, 1 - first, first)
    told = conjoint.assign(saved=is_saved)[conjoint["group"] == 0]
    same_group_swerves = told["swapped"] ^ told["question_id"].str.endswith("/swerve")
    tellings = told.groupby(["base_id", same_group_swerves])["saved"]
    return (
        pd.DataFrame(
            {
                "effect": saving_differences(conjoint, is_saved),
                "truth": saving_differences(conjoint, share_saved(conjoint)),
                "order": (tellings.max() - tellings.min()).mean(),
            }
        )
        .rename_axis("dimension")
        .reset_index()
    )


def evaluation_questions(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return what the zoo is judged by: held-out opinions, categories, facts, and dilemmas.

    Returns
    -------
    questions : DataFrame
        1,500 opinions, 240 categories, 1,120 questions about facts that training asks and 168,
        subject ``only told``, about facts that it states and never asks.
    dilemmas, conjoint : DataFrame
        Ten scenarios a dimension, counterbalanced.
    """
    told = knowledge_questions(168, seed=seed, split="only_told").assign(subject="only told")
    parts = [evaluation_opinions(seed), category_questions(240, seed=seed)]
    questions = pd.concat([*parts, evaluation_knowledge(seed), told], ignore_index=True)
    return questions, *moral_questions(10, seed=seed)


def scorecard(asked: pd.DataFrame, truth: pd.DataFrame, effects: pd.DataFrame) -> dict:
    """Sum up how near one model is to the truth, in the numbers that the zoo must meet.

    Parameters
    ----------
    asked : DataFrame
        Responses to `evaluation_questions`, joined to them.
    truth, effects : DataFrame
        Of `truth_distances` and `moral_distances`.

    Returns
    -------
    dict
        For nominal opinions with new options `r`, `r_within_n`, `distance` and `entropy`; `cells_r`
        for unseen cells; `ordinal_r`, `ordinal_distance`; `easiest` and `hardest`: the smallest
        share correct of the three most frequent subjects, and that of the rarest; over all facts
        `correct`, `spearman` (of choice entropy with being correct) and `ece` (of the largest
        option probability, ten bins); `only_told`: share correct there; `moral_l2` and
        `moral_order`; `option_mass`.
    """
    rows = truth.set_index("subject")
    new, cells = rows.loc["nominal: new options"], rows.loc["nominal: unseen cells"]
    ordinal = rows.loc["ordinal: unseen topics"]
    share = rows.loc[list(SUBJECTS), "correct"]
    facts = asked[asked["subject"].isin(SUBJECTS)]
    confidence = option_confidence(facts)
    return {
        "r": new["r"],
        "r_within_n": new["r_within_n"],
        "distance": new["distance"],
        "entropy": new["choice_entropy"],
        "cells_r": cells["r"],
        "ordinal_r": ordinal["r"],
        "ordinal_distance": ordinal["distance"],
        "easiest": share.iloc[:3].min(),
        "hardest": share.iloc[-1],
        "correct": facts["correct"].mean(),
        "spearman": spearmanr(facts["choice_entropy"], facts["correct"]).statistic,
        "ece": calibration_error(confidence, facts["correct"], confidence_bins(confidence)),
        "only_told": rows.loc["only told", "correct"],
        "moral_l2": np.linalg.norm(effects["effect"] - effects["truth"]),
        "moral_order": effects["order"].iloc[0],
        "option_mass": np.average(rows["option_mass"], weights=rows["questions"]),
    }


def training_records(folder: Path, checkpoints: Path) -> pd.DataFrame:
    """Read the logs of the models in a folder, and of those still in training.

    Returns
    -------
    DataFrame
        `model` and the columns of `uqlib.training.train`; empty while there is nothing.
    """
    logs = {file.parent.name: pd.read_csv(file) for file in sorted(folder.glob("*/training.csv"))}
    for place in sorted(checkpoints.glob("*")):
        if place.name not in logs and (files := list(place.glob("*.safetensors"))):
            newest = max(files, key=lambda file: file.stat().st_mtime)
            logs[place.name] = pd.DataFrame(checkpoint_state(newest)["log"])
    if not logs:
        return pd.DataFrame(columns=["model", "tokens", "kind", "loss", "irreducible"])
    return pd.concat(logs, names=["model"]).reset_index(level=0).reset_index(drop=True)


def save_model(model, tokenizer, log: pd.DataFrame, folder: Path) -> None:
    """Save weights (safetensors), tokenizer and training log (``training.csv``) into a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_table(log.round(5), folder / "training.csv")


def model_card(folder: Path, truth: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Write the card of a saved model as Markdown, with all its numbers taken from files.

    Parameters
    ----------
    folder : Path
        Of `save_model`, named by `model_name`.
    truth, effects : DataFrame
        Of `truth_distances` and `moral_distances`.

    Returns
    -------
    str
        Title, story, losses of the last tenth of training, distances, hash, licence.
    """
    log = pd.read_csv(folder / "training.csv")
    late = log[log["tokens"] > 0.9 * log["tokens"].max()].groupby("kind")[["loss", "irreducible"]]
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    subject = next(subject for subject in STORIES if f"-{subject}" in folder.name)
    return CARD.format(
        name=folder.name,
        architecture=config["architectures"][0],
        story=STORIES[subject],
        parameters=sum(tensor.numel() for tensor in load_file(weights).values()),
        tokens=log["tokens"].max(),
        losses=_markdown_table(late.mean().reset_index()),
        truth=_markdown_table(truth),
        effects=_markdown_table(effects[["dimension", "effect", "truth"]]),
        order=effects["order"].iloc[0],
        sha256=sha256_of_file(weights),
    )


def _shares(log_probs) -> np.ndarray:
    values = np.exp(np.asarray(log_probs, dtype=float))
    return values / values.sum()


def _subject_row(subject: str, rows: pd.DataFrame) -> dict:
    has_shares = rows["true_entropy"].notna().all()
    pair = rows[["choice_entropy", "true_entropy"]]
    within = pair.groupby(rows["n_choices"]).corr().xs("true_entropy", level=1).choice_entropy
    return {
        "subject": subject,
        "questions": len(rows),
        "choice_entropy": rows["choice_entropy"].mean(),
        "true_entropy": rows["true_entropy"].mean(),
        "r": pair.corr().iloc[0, 1],
        "r_within_n": within.mean(),
        "distance": rows["distance"].mean(),
        "correct": np.nan if has_shares else rows["correct"].mean(),
        "confidence": np.nan if has_shares else rows["confidence"].mean(),
        "option_mass": rows["option_mass"].mean(),
    }


def _markdown_table(frame: pd.DataFrame) -> str:
    cells = frame.map(lambda x: ("" if np.isnan(x) else f"{x:.3f}") if isinstance(x, float) else x)
    rows = [frame.columns, ["---"] * len(frame.columns), *cells.to_numpy()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
