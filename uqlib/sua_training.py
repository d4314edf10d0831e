"""SUA-TR: training for sensitivity-uncertainty alignment, its controls, and what they change.

Hiremath and Hiremath (2026) propose a loss of three terms: the task, consistency under edits, and
the positive part of the score S - lambda H. They leave weights, edits and stopped gradients open;
those here are ours. All terms are in nats, over the options of a question, renormalised.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import entr, log_softmax, softmax

from uqlib import __version__
from uqlib.artifacts import sha256_of
from uqlib.calibration import calibration_error
from uqlib.checkpoints import load_checkpoint, save_checkpoint
from uqlib.collect import plan_collection
from uqlib.forward import only_last_position
from uqlib.models import LanguageModel
from uqlib.reliability import confidence_bins
from uqlib.resampling import interval
from uqlib.selective import selective_scores
from uqlib.sensitivity import by_style, js_divergence, perturb, sua

TERMS = ("task", "consistency", "alignment", "entropy", "edited", "worst")
OF_EDITS = {"consistency", "alignment", "edited", "worst"}
SCORES = ("accuracy", "robust_accuracy", "ece", "auroc", "selective_accuracy")
WARM_UP_STEPS = 5


@dataclass(frozen=True)
class Item:
    """A question and its edits, as a model reads them.

    Attributes
    ----------
    question_id : str
    answer : int
        Place of the right option, -1 if there is none.
    prompts : list of list of int
        Token ids: of the question, then of each edit.
    labels : list of list of int
        For each prompt, the token that stands for each option, in the order of the question's
        options, wherever the edit put them.
    """

    question_id: str
    answer: int
    prompts: list[list[int]]
    labels: list[list[int]]


def recipes(
    consistency: float = 1.0, alignment: float = 0.1, entropy: float = 1.0
) -> dict[str, dict[str, float]]:
    """Return the weights of SUA-TR, of its ablations and of its controls, for `train_sua`.

    Parameters
    ----------
    consistency, alignment : float
        Weights alpha and beta.
    entropy : float
        Lambda; the bonus of the control is beta lambda H, as much as in SUA-TR.

    Returns
    -------
    dict of str to dict
        ``edited items`` and ``worst edit`` train on the edits' right answers with as many passes as
        SUA-TR: augmentation, and adversarial training in the proper sense.

    Examples
    --------
    >>> recipes()["SUA-TR"]
    {'task': 1.0, 'consistency': 1.0, 'alignment': 0.1}
    """
    full = {"task": 1.0, "consistency": consistency, "alignment": alignment}
    task = {"task": 1.0}
    return {
        "task only": task,
        "SUA-TR": full,
        **{f"without {term}": {t: w for t, w in full.items() if t != term} for term in full},
        "entropy bonus": task | {"entropy": -alignment * entropy},
        "edited items": task | {"edited": consistency},
        "worst edit": task | {"worst": consistency},
    }


def encode_items(
    model: LanguageModel,
    questions: pd.DataFrame,
    k: int = 4,
    prompt_style: str = "survey",
    seed: int = 0,
) -> list[Item]:
    """Edit every question `k` times (see `uqlib.sensitivity.perturb`) and encode all of it."""
    asked, edits = perturb(questions, k, prompt_style, seed)
    encoded = {}
    for style, label_style, part in by_style(asked, edits):
        plan = plan_collection(model, part, prompt_style=style, label_style=label_style)
        rows = zip(plan.questions["question_id"], plan.prompts, plan.options, strict=True)
        encoded |= {name: (prompt, [ids[0] for ids in options]) for name, prompt, options in rows}
    items = []
    answers = questions.set_index("question_id")["answer"].fillna(-1)
    for name, rows in edits.groupby("original_id", sort=False):
        found = [encoded[edit] for edit in rows["question_id"]]
        labels = [
            [labels[i] for i in np.argsort(order)]
            for (_, labels), order in zip(found, rows["order"], strict=True)
        ]
        items.append(Item(name, int(answers[name]), [prompt for prompt, _ in found], labels))
    return items


def split_by_text(
    questions: pd.DataFrame, shares: tuple[float, ...] = (0.6, 0.1, 0.3), seed: int = 0
) -> list[pd.DataFrame]:
    """Split questions at random so that no text is in two parts, whatever its options.

    Examples
    --------
    >>> table = pd.DataFrame({"text": ["a", "a", "b", "b"]})
    >>> [part.text.tolist() for part in split_by_text(table, (0.5, 0.5))]
    [['a', 'a'], ['b', 'b']]
    """
    rng = np.random.default_rng(seed)
    texts = rng.permutation(questions["text"].unique())
    ends = (np.cumsum(shares) * len(texts)).round().astype(int)
    return [
        questions[questions["text"].isin(part)].sample(frac=1, random_state=rng)
        for part in np.split(texts, ends[:-1])
    ]


def option_log_probs(network, prompts: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of the labels after each prompt, with their gradients.

    Returns
    -------
    Tensor of float32, shape (n_prompts, most options of a prompt)
        Among all tokens, not renormalised; -inf where a prompt has no such option.
    """
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
    index = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in labels], batch_first=True, padding_value=-1
    ).to(network.device)
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    with only_last_position(network, last):
        logits = network(input_ids=ids.to(network.device), use_cache=False).logits[:, -1]
    found = logits.float().log_softmax(-1).gather(1, index.clamp(min=0))
    return found.masked_fill(index < 0, -torch.inf)


def sua_terms(
    log_probs: torch.Tensor,
    edited: torch.Tensor | None,
    answers: torch.Tensor,
    entropy_weight: float = 1.0,
) -> dict[str, torch.Tensor]:
    """Compute the terms of SUA-TR's loss and of its controls, each a mean over questions.

    Parameters
    ----------
    log_probs : Tensor, shape (b, n)
        Of the options of each question, up to a constant; -inf where there is no option.
    edited : Tensor, shape (b, k, n), or None
        The same after each edit, options in the question's order. None leaves out four terms.
    answers : Tensor of int, shape (b,)
    entropy_weight : float
        Lambda.

    Returns
    -------
    dict of str to Tensor
        In nats. `task`: cross-entropy of the right option. `entropy`: H. `consistency`: mean over
        edits of KL(p || p'), p without gradient. `alignment`: the positive part of S - lambda H,
        with S the mean Jensen-Shannon divergence, gradients everywhere. `edited`, `worst`: mean and
        largest cross-entropy over edits.

    Notes
    -----
    Our operationalisation of Algorithm 1 of Hiremath and Hiremath (2026). Kullback-Leibler for
    consistency, as published; Jensen-Shannon in the score, since it is bounded like H.

    Examples
    --------
    A sure answer that an edit turns round, and lambda 1:

    >>> p = torch.tensor([[0.9, 0.1]])
    >>> terms = sua_terms(p.log(), p.flip(1)[:, None].log(), torch.tensor([0]))
    >>> {name: round(float(value), 3) for name, value in terms.items()}  # doctest: +ELLIPSIS
    {'task': 0.105, 'entropy': 0.325, 'consistency': 1.758, 'alignment': 0.043, 'edited': 2.303, ...
    """
    log_p, p = _normalised(log_probs)
    entropy = -(p * log_p).sum(-1)
    rows = torch.arange(len(answers), device=answers.device)
    terms = {"task": -log_p[rows, answers].mean(), "entropy": entropy.mean()}
    if edited is None:
        return terms
    log_q, q = _normalised(edited)
    fixed_log_p, fixed_p = log_p.detach()[:, None], p.detach()[:, None]
    divergence = (fixed_p * (fixed_log_p - log_q)).sum(-1)
    log_p, p = log_p[:, None], p[:, None]
    log_middle = ((p + q) / 2).clamp(min=torch.finfo(p.dtype).tiny).log()
    shannon = ((p * (log_p - log_middle)).sum(-1) + (q * (log_q - log_middle)).sum(-1)) / 2
    wrong = -log_q[rows, :, answers]
    return terms | {
        "consistency": divergence.mean(),
        "alignment": (shannon.mean(-1) - entropy_weight * entropy).relu().mean(),
        "edited": wrong.mean(),
        "worst": wrong.amax(-1).mean(),
    }


def train_sua(
    model: LanguageModel,
    items: list[Item],
    weights: dict[str, float],
    steps: int = 40,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    entropy_weight: float = 1.0,
    seed: int = 0,
    log_every: int = 5,
    checkpoints: Path | None = None,
) -> Iterator[pd.DataFrame]:
    """Train a model in place, step by step, and yield the log as it grows.

    AdamW (.9, .98) without weight decay, five steps of warm-up, then a linear fall to zero,
    gradients clipped at 1. Only parameters that ask for gradients are trained (`add_lora`). Dropout
    stays off, so that nothing but the edits moves an answer; on one thread of one machine the
    result is the same in every run, also in one that was stopped and went on from a checkpoint.

    Parameters
    ----------
    model : LanguageModel
    items : list of Item
        Of `encode_items`, with answers.
    weights : dict of str to float
        Of the terms of `sua_terms`; the others are 0. Edits are read only if a term needs them.
    steps, batch_size : int
        Items are read in a new order in every epoch.
    learning_rate : float
        Its largest value.
    entropy_weight : float
        Lambda.
    seed : int
        Of the order.
    log_every : int
        Steps between two rows of the log.
    checkpoints : Path, optional
        Folder for a checkpoint at every row. It is named by a hash of everything above, the
        starting weights included, so that only the same work goes on from it.

    Yields
    ------
    DataFrame
        `step`, the mean of each term over the steps since the last row (NaN if it was not
        computed), and their weighted sum, `loss`.

    Raises
    ------
    ValueError
        If a term is unknown, all weights are 0, or an item has no right answer.
    """
    unknown = weights.keys() - set(TERMS)
    if unknown:
        raise ValueError(f"unknown term(s) {sorted(unknown)}; known: {', '.join(TERMS)}")
    if not any(weights.values()):
        raise ValueError("every weight is 0: there is nothing to train")
    for item in items:
        if item.answer < 0:
            raise ValueError(f"question {item.question_id} has no right answer")
    trained = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0)
    state = {"step": 0, "log": []}
    if checkpoints:
        plan = [weights, steps, batch_size, learning_rate, entropy_weight, seed, log_every]
        file = checkpoints / f"{_identity(model, trained, items, plan)}.safetensors"
        if file.exists():
            state = load_checkpoint(file, model.network, optimizer)
            yield _log_table(state["log"])
    log, since = state["log"], []
    model.network.eval()
    for step, batch in enumerate(_batches(items, batch_size, steps, seed)):
        if step < state["step"]:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / WARM_UP_STEPS, 1 - step / steps)
        terms = _batch_terms(model.network, batch, weights, entropy_weight)
        loss = sum(weight * terms[name] for name, weight in weights.items() if weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        since.append({name: value.item() for name, value in (terms | {"loss": loss}).items()})
        if (step + 1) % log_every == 0 or step + 1 == steps:
            log.append({"step": step + 1} | pd.DataFrame(since).mean().to_dict())
            since = []
            if checkpoints:
                save_checkpoint(file, model.network, optimizer, {"step": step + 1, "log": log})
            yield _log_table(log)


def add_lora(model: LanguageModel, rank: int = 8, seed: int = 0) -> LanguageModel:
    """Freeze a model and add low-rank adapters to its linear layers, to be trained instead.

    Parameters
    ----------
    model : LanguageModel
        Its network is changed.
    rank : int
    seed : int
        Of the adapters' starting weights.

    Raises
    ------
    ImportError
        If the package peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("low-rank adapters need the package peft: pip install peft") from None
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    network = get_peft_model(model.network, config).eval()
    return LanguageModel(model.name, network, model.tokenizer, model.identity | {"lora": rank})


@torch.inference_mode()
def answer_items(model: LanguageModel, items: list[Item], batch_size: int = 64) -> list[np.ndarray]:
    """Ask a model every prompt of every item.

    Returns
    -------
    list of ndarray of float64, shape (k + 1, n_options)
        For each item log-probabilities of the options among all tokens, the question's own first.
    """
    model.network.eval()
    prompts = [prompt for item in items for prompt in item.prompts]
    labels = [row for item in items for row in item.labels]
    found = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = [prompts[i] for i in rows], [labels[i] for i in rows]
        for i, values in zip(rows, option_log_probs(model.network, *batch).cpu(), strict=True):
            found[i] = values[: len(labels[i])].double().numpy()
    ends = np.cumsum([len(item.prompts) for item in items])
    return [
        np.stack(found[end - len(item.prompts) : end])
        for item, end in zip(items, ends, strict=True)
    ]


def fit_temperature(answers: list[np.ndarray], items: list[Item]) -> float:
    """Temperature with the smallest cross-entropy of the right options, between .05 and 20.

    Parameters
    ----------
    answers : list of ndarray
        Of `answer_items`, on questions kept for validation; the edits are not looked at.
    items : list of Item

    Notes
    -----
    Guo et al. (2017), section 4.2.
    """

    def loss(log_t: float) -> float:
        pairs = zip(answers, items, strict=True)
        return -sum(log_softmax(row[0] / np.exp(log_t))[item.answer] for row, item in pairs)

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def judge_answers(
    answers: list[np.ndarray], items: list[Item], temperature: float = 1.0
) -> pd.DataFrame:
    """Judge the answers to each question and to its edits.

    Returns
    -------
    DataFrame
        One row an item: `question_id`; `correct`; `robust`, correct under every edit as well;
        `confidence`, the largest probability; `entropy`, `js` (mean over edits) and `sua` (lambda
        1), in nats; `option_mass`.
    """
    rows = []
    for values, item in zip(answers, items, strict=True):
        p = softmax(values / temperature, axis=-1)
        right = p.argmax(-1) == item.answer
        entropy, js = entr(p[0]).sum(), js_divergence(p[:1], p[1:]).mean()
        rows.append(
            {
                "question_id": item.question_id,
                "correct": int(right[0]),
                "robust": int(right.all()),
                "confidence": p[0].max(),
                "entropy": entropy,
                "js": js,
                "sua": float(sua(js, entropy)),
                "option_mass": np.exp(values[0]).sum(),
            }
        )
    return pd.DataFrame(rows)


def score_judged(judged: pd.DataFrame, coverage: float = 0.8) -> dict[str, float]:
    """Score a model by its judged answers.

    Parameters
    ----------
    judged : DataFrame
        Of `judge_answers`.
    coverage : float
        Share of questions answered, the least entropic ones, for the selective accuracy.

    Returns
    -------
    dict of str to float
        `SCORES` (calibration error over ten bins of confidence; `auroc` of errors by entropy),
        `auroc_sua` (by the score), and the means of `entropy`, `js` and `option_mass`.
    """
    correct, confidence = judged["correct"].to_numpy(float), judged["confidence"].to_numpy()
    auroc, _, _, selective = selective_scores(judged["entropy"], correct, coverage=coverage)
    return {
        "accuracy": correct.mean(),
        "robust_accuracy": judged["robust"].mean(),
        "ece": calibration_error(confidence, correct, confidence_bins(confidence)),
        "auroc": float(auroc),
        "selective_accuracy": float(selective),
        "auroc_sua": float(selective_scores(judged["sua"], correct)[0]),
        **judged[["entropy", "js", "option_mass"]].mean().to_dict(),
    }


def compare_recipes(
    judged: dict[int, dict[str, pd.DataFrame]],
    baseline: str,
    replicates: int = 200,
    coverage: float = 0.8,
) -> pd.DataFrame:
    """Compare every recipe with one of them, paired, on the same questions and seeds.

    Parameters
    ----------
    judged : dict of int to dict of str to DataFrame
        By seed and recipe, of `judge_answers`.
    baseline : str
        The recipe to compare with.
    replicates : int
        Bootstrap replicates over questions, used if there is one seed.
    coverage : float
        Of `score_judged`.

    Returns
    -------
    DataFrame
        `recipe`, `score`, `value` (mean over seeds), `difference` to the baseline, its interval
        `low`, `high` (95 %), `seeds`. With several seeds, each with its own questions, the interval
        is Student's over seeds; with one it is a percentile interval over questions.
    """
    scores, differences = [], []
    for seed, frames in judged.items():
        rows = pd.DataFrame({name: score_judged(f, coverage) for name, f in frames.items()})
        scores.append(rows)
        if len(judged) > 1:
            differences.append(rows.sub(rows[baseline], axis=0))
            continue
        rng = np.random.default_rng(seed)
        for _ in range(replicates):
            drawn = rng.integers(len(frames[baseline]), size=len(frames[baseline]))
            again = {name: score_judged(f.iloc[drawn], coverage) for name, f in frames.items()}
            table = pd.DataFrame(again)
            differences.append(table.sub(table[baseline], axis=0))
    value = sum(scores) / len(scores)
    difference = value.sub(value[baseline], axis=0)
    drawn = np.stack([table.to_numpy() for table in differences])
    if len(judged) > 1:
        reach = stats.t.ppf(0.975, len(drawn) - 1) * stats.sem(drawn)
        low, high = difference.to_numpy() - reach, difference.to_numpy() + reach
    else:
        low, high = interval(drawn)
    return pd.DataFrame(
        [
            {
                "recipe": recipe,
                "score": score,
                "value": value.loc[score, recipe],
                "difference": difference.loc[score, recipe],
                "low": low[i, j],
                "high": high[i, j],
                "seeds": len(judged),
            }
            for j, recipe in enumerate(value.columns)
            for i, score in enumerate(value.index)
        ]
    )


def _normalised(log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (0 where there is no option) and probabilities."""
    missing = log_probs.isneginf()
    log_p = log_probs.log_softmax(-1)
    return log_p.masked_fill(missing, 0), log_p.exp()


def _batch_terms(network, batch: list[Item], weights: dict, entropy_weight: float) -> dict:
    answers = torch.tensor([item.answer for item in batch], device=network.device)
    plain = option_log_probs(
        network, [item.prompts[0] for item in batch], [item.labels[0] for item in batch]
    )
    edited = None
    if any(weights.get(name) for name in OF_EDITS):
        edited = option_log_probs(
            network,
            [prompt for item in batch for prompt in item.prompts[1:]],
            [labels for item in batch for labels in item.labels[1:]],
        ).unflatten(0, (len(batch), -1))
    return sua_terms(plain, edited, answers, entropy_weight)


def _batches(items: list[Item], batch_size: int, steps: int, seed: int) -> Iterator[list[Item]]:
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=int)
    for _ in range(steps):
        while len(order) < batch_size:
            order = np.append(order, rng.permutation(len(items)))
        yield [items[i] for i in order[:batch_size]]
        order = order[batch_size:]


def _log_table(log: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(log, columns=["step", *TERMS, "loss"])


def _identity(model: LanguageModel, trained: list, items: list[Item], plan: list) -> str:
    """Hash of everything that a training depends on, the versions of uqlib and torch too."""
    plan = [*plan, model.identity, torch.__version__, __version__]
    read = [[item.answer, item.prompts, item.labels] for item in items]
    weights = [weight.detach().float().cpu().numpy().tobytes() for weight in trained]
    return sha256_of(json.dumps(plan), json.dumps(read), *weights)[:16]
