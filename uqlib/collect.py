"""Collection: forward passes, each reduced on the device to a row of a response table.

Batches are planned by length over the whole question table, so the same work forms the same batches
however often it is interrupted. Finished batches are kept as shards; a rerun of the same work skips
them and ends in the same bytes.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from uqlib import __version__
from uqlib.artifacts import (
    manifest_difference,
    only_one,
    read_manifest,
    read_parquet,
    sha256_of,
    table_hash,
    write_parquet,
    write_table,
    write_text,
)
from uqlib.dropout import attention_dropout, check_dropout, row_seed
from uqlib.forward import (
    Batch,
    next_token_log_probs,
    plan_batches,
    prefix_reader,
    shares_prefixes,
)
from uqlib.measures import choice_entropy, vocabulary_measures
from uqlib.models import LanguageModel, as_chat, encode_prompts, prompt_option_tokens
from uqlib.paths import display_path
from uqlib.prompts import (
    COUNTERFACTUAL,
    propose,
    render_questions,
    template,
    template_hash,
)
from uqlib.responses import PART_SCHEMA, SCHEMA, check_responses

BATCHES_PER_SHARD = 32
BATCH_TOKENS = {"cpu": 512, "mps": 4096, "cuda": 16384}
OVERLENGTH = ("error", "skip")


@dataclass(frozen=True)
class Plan:
    """Everything a collection will do, decided before the first forward pass.

    Attributes
    ----------
    questions : DataFrame
        The questions to ask, without those left out, once for each pass; `pass_index` counts.
    prompts : list of list of int
        Token ids.
    options : list of list of list of int
        For each question and label, the tokens that stand for it.
    seeds : list of int
        For each prompt, the seed of its dropout masks.
    batches : list of Batch
    skipped : DataFrame
        Questions left out: `question_id`, `tokens`, `limit`.
    manifest : dict
    """

    questions: pd.DataFrame
    prompts: list[list[int]]
    options: list[list[list[int]]]
    seeds: list[int]
    batches: list[Batch]
    skipped: pd.DataFrame
    manifest: dict


def plan_collection(
    model: LanguageModel,
    questions: pd.DataFrame,
    prompt_style: str = "survey",
    label_style: str = "space",
    shots: int = 0,
    examples: pd.DataFrame | None = None,
    chat: bool = False,
    condition: str = "plain",
    batch_tokens: int = 0,
    overlength: str = "error",
    dropout_rate: float = 0.0,
    n_passes: int = 1,
    seed: int = 0,
) -> Plan:
    """Encode every prompt, find the option tokens and form the batches.

    Parameters
    ----------
    model : LanguageModel
    questions : DataFrame
        A checked question table. `counterfactual` asks one question for each option of each.
    prompt_style, label_style : str
        See `uqlib.prompts`.
    shots, examples
        Solved examples before each question; see `render_questions`.
    chat : bool
        Wrap each prompt in the tokenizer's chat template.
    condition : str
        A name for this way of asking, where there are several; `plain` under dropout becomes
        ``dropout=<rate>``.
    batch_tokens : int
        Tokens of a forward pass at most; 0: `BATCH_TOKENS` of the device.
    overlength : {"error", "skip"}
        What to do with prompts longer than the model's context. Nothing is ever truncated.
    dropout_rate : float
        Rate of attention dropout, in [0, 1); see `uqlib.dropout.attention_dropout`.
    n_passes : int
        How often each question is asked, every time with other masks.
    seed : int
        Of the dropout masks, with data set, question and pass. A plain pass draws nothing.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If a label is not one token, a prompt is too long (with their count and first ids), the
        table is empty, a setting is unknown, or dropout does not change what the model says.
    """
    if n_passes < 1 or (n_passes > 1 and not dropout_rate):
        raise ValueError(
            f"{n_passes} passes at dropout rate {dropout_rate:g}: one without dropout, at least "
            "one with it"
        )
    if dropout_rate:
        check_dropout(model.network, dropout_rate)
        condition = f"dropout={dropout_rate:g}" if condition == "plain" else condition
    if overlength not in OVERLENGTH:
        raise ValueError(f"unknown overlength {overlength!r}; known: {', '.join(OVERLENGTH)}")
    if questions.empty:
        raise ValueError("there are no questions to ask")
    asked = questions
    if prompt_style == "counterfactual":
        asked = propose(questions, list(questions["choices"]), **COUNTERFACTUAL)
    texts = render_questions(asked, prompt_style, shots, examples)
    if chat:
        texts = [as_chat(model.tokenizer, text) for text in texts]
    options = prompt_option_tokens(
        model.tokenizer, texts, list(asked["labels"]), prompt_style, label_style
    )
    prompts = encode_prompts(model.tokenizer, texts, template(prompt_style).bos and not chat)
    lengths = np.array([len(prompt) for prompt in prompts])
    limit = getattr(model.network.config.get_text_config(), "max_position_embeddings", None)
    fits = lengths <= (limit or lengths.max())
    skipped = pd.DataFrame(
        {"question_id": asked["question_id"][~fits], "tokens": lengths[~fits], "limit": limit}
    )
    if overlength == "error" and len(skipped):
        first = ", ".join(skipped["question_id"][:3])
        raise ValueError(
            f"{len(skipped)} of {len(asked)} prompts are longer than the model's {limit} "
            f"tokens (first: {first}; the longest has {lengths.max()}); "
            'overlength="skip" leaves them out and lists them'
        )
    kept = np.flatnonzero(fits)
    if not kept.size:
        raise ValueError(f"every prompt is longer than the model's {limit} tokens")
    prompts = [prompts[i] for i in kept] * n_passes
    told = [asked.iloc[kept].assign(pass_index=number) for number in range(n_passes)]
    told = pd.concat(told, ignore_index=True)
    rows = zip(told["dataset"], told["question_id"], told["pass_index"], strict=True)
    batch_tokens = batch_tokens or BATCH_TOKENS[model.network.device.type]
    share = not dropout_rate and shares_prefixes(model.network)
    batches = plan_batches(prompts, batch_tokens, share)
    manifest = {
        **model.identity,
        "condition": condition,
        "prompt_style": prompt_style,
        "template": template_hash(prompt_style),
        "chat": chat,
        "label_style": label_style,
        "option_tokens": sha256_of(json.dumps(options)),
        "shots": shots,
        "examples": table_hash(examples) if shots else "",
        "questions": table_hash(questions),
        "overlength": overlength,
        "dropout_rate": dropout_rate,
        "n_passes": n_passes,
        "seed": seed,
        "batch_tokens": batch_tokens,
        "batches": sha256_of(json.dumps([[batch.rows, batch.shared] for batch in batches])),
        "uqlib": __version__,
    }
    return Plan(
        questions=told,
        prompts=prompts,
        options=[options[i] for i in kept] * n_passes,
        seeds=[row_seed(seed, *row) for row in rows],
        batches=batches,
        skipped=skipped.reset_index(drop=True),
        manifest=manifest,
    )


def run_plan(model: LanguageModel, plan: Plan, shards: Path | None = None) -> pd.DataFrame:
    """Ask every question of a plan.

    Parameters
    ----------
    model : LanguageModel
    plan : Plan
    shards : Path, optional
        Folder for finished work; what lies there from the same plan is not computed again.

    Returns
    -------
    DataFrame
        A checked response table in the order of the questions.

    Raises
    ------
    ValueError
        If a logit is not finite; the message names model and question.
    """
    groups = [
        plan.batches[start : start + BATCHES_PER_SHARD]
        for start in range(0, len(plan.batches), BATCHES_PER_SHARD)
    ]
    read, frames = prefix_reader(model.network), []
    total = sum(len(batch.rows) for batch in plan.batches)
    with _progress(total, model.name) as bar:
        for number, group in enumerate(groups):
            path = shards and Path(shards) / f"shard-{number:05d}.parquet"
            frame = path and _read_shard(path, plan.manifest)
            if frame is None:
                rows = [_ask(model, plan, batch, read, bar) for batch in group]
                frame = pd.concat(rows, ignore_index=True)
                if path:
                    write_parquet(frame, path, plan.manifest, SCHEMA)
            else:
                bar.update(len(frame))
            frames.append(frame)
    order = [position for group in groups for batch in group for position in batch.rows]
    table = pd.concat(frames, ignore_index=True)
    return check_responses(table.iloc[np.argsort(order)])


def collect(model: LanguageModel, questions: pd.DataFrame, **settings) -> pd.DataFrame:
    """Collect the response table of a model; `settings` are those of `plan_collection`."""
    return run_plan(model, plan_collection(model, questions, **settings))


def collect_to_file(model: LanguageModel, plan: Plan, path: Path) -> dict:
    """Run a plan, keeping shards beside `path`, and write the response table there.

    Beside it go ``<path>.run.json`` (what varies from run to run) and, if questions were left out,
    ``<path>.skipped.csv``. A finished file of the same plan is left as it is.

    Returns
    -------
    dict
        The content of ``<path>.run.json``.

    Raises
    ------
    ValueError
        If `path` holds other work; the message says what differs.
    RuntimeError
        If another process is doing the same work.
    """
    path = Path(path)
    run_path = path.with_name(path.name + ".run.json")
    if path.exists():
        difference = manifest_difference(read_manifest(path), plan.manifest)
        if difference:
            raise ValueError(
                f"{display_path(path)} holds other work ({'; '.join(difference)}); "
                "move it away or choose another output"
            )
        return json.loads(run_path.read_text())
    key = sha256_of(json.dumps(plan.manifest, sort_keys=True))[:12]
    shards = path.parent / ".shards" / f"{path.stem}-{key}"
    started = time.time()
    with only_one(shards):
        responses = run_plan(model, plan, shards)
    asked = sorted(row for batch in plan.batches for row in batch.rows)
    run = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.time() - started, 2),
        "prompts": len(responses),
        "prompt_tokens": sum(len(plan.prompts[row]) for row in asked),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": _device_name(model.network.device),
    }
    if len(plan.skipped):
        write_table(plan.skipped, path.with_name(path.name + ".skipped.csv"))
    write_text(json.dumps(run, indent=1), run_path)
    if "part" in plan.manifest:
        write_parquet(responses.assign(position=asked), path, plan.manifest, PART_SCHEMA)
    else:
        write_parquet(responses, path, plan.manifest, SCHEMA)
    shutil.rmtree(shards)
    if not any(shards.parent.iterdir()):
        shards.parent.rmdir()
    return run


def part_of_plan(plan: Plan, part: str) -> Plan:
    """Return the plan of one range of batches, for collections that several jobs share.

    The batches are those of the whole plan, so the parts together do just what one job would.

    Parameters
    ----------
    plan : Plan
    part : str
        ``k/n``, k from 1: the k-th of n ranges that are alike in number of batches.

    Raises
    ------
    ValueError
        If `part` is not of that form, or there are fewer batches than parts.
    """
    number, _, parts = part.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"part must be k/n with k from 1 to n, not {part!r}")
    if len(plan.batches) < int(parts):
        raise ValueError(f"{parts} parts of {len(plan.batches)} batches: take fewer")
    bounds = np.linspace(0, len(plan.batches), int(parts) + 1).round().astype(int)
    batches = plan.batches[bounds[int(number) - 1] : bounds[int(number)]]
    return replace(plan, batches=batches, manifest=plan.manifest | {"part": part})


def choice_log_probs(log_probs: torch.Tensor, options: list[list[list[int]]]) -> list[np.ndarray]:
    """Log-probability of each option label, the probabilities of its spellings added.

    Parameters
    ----------
    log_probs : Tensor of float32, shape (batch, V)
    options : list of list of list of int
        For each row and label, the tokens that stand for it.

    Returns
    -------
    list of ndarray of float32
        One a row, as long as the row has labels.

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> np.exp(choice_log_probs(p, [[[0, 1], [2]]])[0])
    array([0.75, 0.25], dtype=float32)
    """
    labels = max(map(len, options))
    spellings = max(len(tokens) for row in options for tokens in row)
    index = torch.full((len(options), labels, spellings), -1)
    for i, row in enumerate(options):
        for j, tokens in enumerate(row):
            index[i, j, : len(tokens)] = torch.tensor(tokens)
    index = index.to(log_probs.device)
    found = log_probs.gather(1, index.clamp(min=0).flatten(1)).view_as(index)
    summed = found.masked_fill(index < 0, -torch.inf).logsumexp(-1).cpu().numpy()
    return [values[: len(row)] for values, row in zip(summed, options, strict=True)]


def reduced(log_probs: torch.Tensor, options: list[list[list[int]]]) -> dict:
    """Reduce next-token distributions to what a response table keeps of them.

    Parameters
    ----------
    log_probs : Tensor of float32, shape (batch, V)
    options : list of list of list of int
        For each row and label, the tokens that stand for it.

    Returns
    -------
    dict of array_like, each as long as the batch
        `n_choices`, `choice_log_probs`, `option_mass`, `predicted` and the measures.

    Examples
    --------
    >>> row = reduced(torch.tensor([[0.5, 0.25, 0.25]]).log(), [[[0], [2]]])
    >>> row["predicted"], row["option_mass"], round(row["choice_entropy"][0], 3)
    ([0], [0.75], 0.918)
    """
    choices = choice_log_probs(log_probs, options)
    return {
        "n_choices": [len(choice) for choice in choices],
        "choice_log_probs": choices,
        "option_mass": [float(min(np.exp(choice).sum(), 1)) for choice in choices],
        "predicted": [int(choice.argmax()) for choice in choices],
        "choice_entropy": [choice_entropy(choice).item() for choice in choices],
        **{name: value.cpu().numpy() for name, value in vocabulary_measures(log_probs).items()},
    }


def _halving(
    network: PreTrainedModel,
    prompts: list[list[int]],
    shared: int,
    read,
    rate: float,
    seeds: list[int],
) -> torch.Tensor:
    """Ask all at once, or in halves if the device has no memory for that."""
    try:
        with attention_dropout(network, rate, seed=seeds):
            return next_token_log_probs(network, prompts, shared, read)
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise
    half = len(prompts) // 2
    tqdm.write(f"out of memory with {len(prompts)} prompts; going on with {half}", sys.stderr)
    torch.cuda.empty_cache()
    parts = [
        _halving(network, prompts[part], shared, read, rate, seeds[part])
        for part in (slice(half), slice(half, None))
    ]
    return torch.cat(parts)


def _ask(model: LanguageModel, plan: Plan, batch: Batch, read, bar: tqdm) -> pd.DataFrame:
    rows = plan.questions.iloc[batch.rows]
    try:
        prompts = [plan.prompts[i] for i in batch.rows]
        seeds = [plan.seeds[i] for i in batch.rows]
        rate = plan.manifest["dropout_rate"]
        log_probs = _halving(model.network, prompts, batch.shared, read, rate, seeds)
    except FloatingPointError as error:
        bad = rows["question_id"].iloc[error.args[1][0]]
        raise ValueError(f"{model.name}, question {bad}: {error.args[0]}") from None
    frame = pd.DataFrame(
        {
            "model": model.name,
            "dataset": rows["dataset"].to_numpy(),
            "question_id": rows["question_id"].to_numpy(),
            **reduced(log_probs, [plan.options[i] for i in batch.rows]),
            "condition": plan.manifest["condition"],
            "dropout_rate": rate,
            "pass_index": rows["pass_index"].to_numpy(),
            "prompt_style": plan.manifest["prompt_style"],
            "label_style": plan.manifest["label_style"],
            "shots": plan.manifest["shots"],
        }
    )
    bar.update(len(rows))
    return frame


def _read_shard(path: Path, manifest: dict) -> pd.DataFrame | None:
    try:
        return read_parquet(path) if read_manifest(path) == manifest else None
    except (FileNotFoundError, ValueError):
        return None


def _progress(total: int, name: str) -> tqdm:
    interval = 0.1 if sys.stderr.isatty() else 5
    return tqdm(total=total, desc=name, unit="prompt", mininterval=interval)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
