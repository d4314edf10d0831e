"""Time, memory and downloads of a run, from arithmetic alone: no model is loaded, nothing is asked.

What a model costs follows from its shape, what a machine does from its data sheet; the time of a
step is the larger of what its arithmetic takes and what its memory traffic takes (the roofline).
"""

import heapq
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from huggingface_hub import get_token, try_to_load_from_cache

from uqlib.paths import resolve

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED = {"8bit": 1, "4bit": 0.5}
# Dense rates of NVIDIA's data sheets (SXM boards of 80 GB). The laptop: eight cores at 3 GHz, 32
# operations a cycle, and two channels of 8 bytes at 3,200 million transfers a second.
MACHINES = {
    "A100": {"flops": {4: 19.5e12, 2: 312e12}, "bandwidth": 2.039e12, "memory": 80e9},
    "H100": {"flops": {4: 67e12, 2: 989e12}, "bandwidth": 3.35e12, "memory": 80e9},
    "laptop": {"flops": {4: 0.768e12, 2: 0.768e12}, "bandwidth": 51.2e9, "memory": 16e9},
}
BATCH_TOKENS = {"A100": 16384, "H100": 16384, "laptop": 512}
SHARE = 0.4  # of the roofline's speed that is reached; chapter 81 measures it on a processor
START_SECONDS = 20  # to start a kernel and import torch, and for the scheduler
LOAD_RATE = 1e9  # bytes a second from disk to device
QK_NORMS = ("qwen3", "gemma3_text")
NORMS_A_LAYER = {"gemma2": 4, "gemma3_text": 4, "cohere2": 1}


def architectures() -> pd.DataFrame:
    """Return the shapes of the models that the profiles name, by hub id.

    Returns
    -------
    DataFrame
        `access` (`open` or `gated`), the numbers of the model's configuration, and `stored`: the
        parameters in its files on the hub, which may hold a tied output layer twice or a part that
        reads images.

    Examples
    --------
    >>> architectures().loc["Qwen/Qwen2.5-0.5B", ["layers", "hidden", "vocabulary"]].tolist()
    [24, 896, 151936]
    """
    with resources.files("uqlib").joinpath("architectures.csv").open() as file:
        return pd.read_csv(file, index_col="model")


def question_sizes() -> pd.DataFrame:
    """Return how many questions each data set has, and how long a prompt is.

    Returns
    -------
    DataFrame
        By `dataset`: `questions`, mean `options`, mean `tokens` of a prompt and the leading tokens
        that all prompts have in common, `shared` (SmolLM2's tokenizer), and `origin`: `measured`,
        or `assumed` where the data could not be had.
    """
    with resources.files("uqlib").joinpath("question_sizes.csv").open() as file:
        return pd.read_csv(file, index_col="dataset")


def shape_of(model: str) -> dict | None:
    """Return a model's shape: of its folder, of the hub's cache, or of the table; None if unknown.

    Parameters
    ----------
    model : str
        Hub id or folder. Nothing is downloaded.

    Examples
    --------
    >>> shape_of("meta-llama/Llama-3.2-1B")["layers"], shape_of("nobody/nothing")
    (16, None)
    """
    folder = resolve(model)
    cached = folder / "config.json" if folder.is_dir() else _cached(model)
    if cached and Path(cached).exists():
        return shape_of_config(json.loads(Path(cached).read_text(encoding="utf-8")))
    table = architectures()
    return table.loc[model].to_dict() if model in table.index else None


def _cached(model: str) -> str | None:
    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def shape_of_config(config: dict) -> dict:
    """Translate a configuration of the hub (``config.json``) to the columns of `architectures`.

    Examples
    --------
    >>> shape = shape_of_config({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8,
    ...     "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 10})
    >>> shape["kv_heads"], shape["head_dim"], parameters(shape)
    (2, 4, 1480)
    """
    config = config.get("text_config") or config
    heads = config["num_attention_heads"]
    return {
        "type": config["model_type"],
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "inner": config["intermediate_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "vocabulary": config["vocab_size"],
        "tied": int(bool(config.get("tie_word_embeddings", False))),
    }


def layer_products(shape: dict) -> list[tuple[int, int]]:
    """Return inputs and outputs of the weight matrices of a layer: queries to the last of the MLP.

    Examples
    --------
    >>> layer_products(shape_of("HuggingFaceTB/SmolLM2-135M"))[:3]
    [(576, 576), (576, 192), (576, 192)]
    """
    hidden, inner = shape["hidden"], shape["inner"]
    queries, keys = (shape[name] * shape["head_dim"] for name in ("heads", "kv_heads"))
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def parameters(shape: dict) -> int:
    """Count a decoder's parameters from its shape.

    Examples
    --------
    >>> parameters(shape_of("meta-llama/Llama-3.1-8B"))
    8030261248
    """
    hidden, head = shape["hidden"], shape["head_dim"]
    layer = sum(a * b for a, b in layer_products(shape))
    layer += NORMS_A_LAYER.get(shape["type"], 2) * hidden
    if shape["type"] == "qwen2":
        layer += (shape["heads"] + 2 * shape["kv_heads"]) * head
    if shape["type"] in QK_NORMS:
        layer += 2 * head
    embeddings = (1 if shape["tied"] else 2) * hidden * shape["vocabulary"]
    return int(shape["layers"] * layer + embeddings + hidden)


def flops(shape: dict, tokens: float, prompts: float, length: float) -> float:
    """Operations of a forward pass: products with weights, attention, and one output a prompt.

    Parameters
    ----------
    shape : dict
    tokens : float
        Tokens that go through the layers.
    prompts : float
        Positions that reach the output layer.
    length : float
        Mean length of a prompt, to which each token attends in full: what is masked is computed.

    Examples
    --------
    >>> small = shape_of("HuggingFaceTB/SmolLM2-135M")
    >>> f"{flops(small, tokens=1, prompts=0, length=0):.4g}"
    '2.123e+08'
    """
    weights = sum(2 * a * b for a, b in layer_products(shape))
    attention = 4 * shape["heads"] * shape["head_dim"] * length
    head = 2 * shape["hidden"] * shape["vocabulary"]
    return tokens * shape["layers"] * (weights + attention) + prompts * head


def roofline_seconds(
    shape: dict, tokens: float, prompts: float, length: float, machine: dict, size: float = 2
) -> float:
    """Least time of a forward pass: each product at the machine's speed or its memory's.

    Parameters
    ----------
    shape : dict
    tokens, prompts, length : float
        See `flops`.
    machine : dict
        `flops` by the bytes of a number, and `bandwidth` in bytes a second.
    size : float
        Bytes of a weight; quantised weights are computed with in two bytes.

    Notes
    -----
    Williams, Waterman and Patterson (2009): attainable speed is the lesser of peak speed and
    bandwidth times operations a byte.

    Examples
    --------
    >>> slow_memory = {"flops": {4: 1e12}, "bandwidth": 1.0}
    >>> small = shape_of("HuggingFaceTB/SmolLM2-135M")
    >>> roofline_seconds(small, 1, 0, 0, slow_memory, size=4) > 4 * 106e6
    True
    """
    speed, bandwidth = machine["flops"][4 if size == 4 else 2], machine["bandwidth"]
    number = 4 if size == 4 else 2

    def product(inputs, outputs, rows):
        moved = size * inputs * outputs + number * rows * (inputs + outputs)
        return max(2 * inputs * outputs * rows / speed, moved / bandwidth)

    layer = sum(product(a, b, tokens) for a, b in layer_products(shape))
    width = shape["heads"] * shape["head_dim"]
    layer += max(4 * width * length * tokens / speed, 4 * number * width * tokens / bandwidth)
    head = product(shape["hidden"], shape["vocabulary"], prompts) if prompts else 0
    return shape["layers"] * layer + head


def memory_bytes(shape: dict, batch_tokens: int, length: float, size: float = 2) -> float:
    """Memory of a collection: weights, the widest step of a layer, and logits in float32, twice.

    Examples
    --------
    >>> round(memory_bytes(shape_of("meta-llama/Llama-3.1-8B"), 16384, 100) / 1e9, 1)
    18.2
    """
    number = 4 if size == 4 else 2
    step = batch_tokens * (4 * shape["hidden"] + 3 * shape["inner"]) * number
    logits = 2 * 4 * shape["vocabulary"] * max(batch_tokens / max(length, 1), 1)
    return size * parameters(shape) + step + logits


def weight_bytes(model: str) -> float:
    """Size of a model's weights as downloaded; NaN if its shape is unknown, 0 for a folder.

    The hub's files of all models in the table hold two bytes a parameter.
    """
    if resolve(model).is_dir():
        return 0.0
    shape = shape_of(model)
    return float("nan") if shape is None else 2.0 * shape.get("stored", parameters(shape))


def access(model: str) -> str:
    """Say how a model is had, as far as that is known without network.

    Examples
    --------
    >>> access("zoo/llama-0.3m-base"), access("nobody/nothing")
    ('folder', 'unknown')
    """
    if resolve(model).is_dir():
        return "folder"
    if _cached(model):
        return "downloaded"
    table = architectures()
    if model not in table.index:
        return "unknown"
    if table.access[model] == "gated":
        return "gated, token set" if get_token() else "gated, no token"
    return "open"


def planned_work(profile: dict) -> pd.DataFrame:
    """List what a profile will ask of whom.

    Parameters
    ----------
    profile : dict
        See `uqlib.pipeline.load_profile`.

    Returns
    -------
    DataFrame
        One row a study, model and data set: `study`, `model`, `dataset`, `prompts`, `tokens` (of
        all prompts), `computed` (without beginnings that prompts share; under dropout nothing is
        shared), `length` of a prompt, `size` in bytes of a weight and `gpus`.
    """
    sizes, rows = question_sizes(), []
    moral = (profile["notebooks"].get("12_moral_scenarios") or {}).get("per_dimension", 200)
    for study, entry in profile["collect"].items():
        settings = entry["settings"]
        styles = str(settings.get("prompt_style", "survey")).split(",")
        styles *= 1 if len(styles) > 1 else len(entry["questions"])
        shots, limit = settings.get("shots", 0), settings.get("limit", 0)
        for dataset, style in zip(entry["questions"], styles, strict=True):
            known = sizes.loc[dataset]
            questions = known.questions
            if dataset.startswith("moral_"):
                questions = 9 * moral if dataset == "moral_published" else 36 * (moral // 4)
            questions = min(questions, limit or questions)
            asked = questions * (known.options if style == "counterfactual" else 1)
            prompts = int(asked * settings.get("n_passes", 1))
            length = float(known.tokens * (1 + shots))
            rate = settings.get("dropout_rate", 0)
            computed = prompts * (length if rate else known.tokens - known.shared)
            row = {"study": study, "dataset": dataset, "prompts": prompts, "length": length}
            row |= {"tokens": prompts * length, "computed": computed}
            row["size"] = QUANTIZED.get(
                settings.get("quantization", ""), BYTES[settings.get("dtype", "float32")]
            )
            row["gpus"] = gpus(entry)
            rows += [row | {"model": model} for model in entry["models"]]
    return pd.DataFrame(rows)


def gpus(entry: dict) -> int:
    """Graphics cards that a study's jobs ask for: as said, else one unless it stays on the CPU.

    Examples
    --------
    >>> gpus({"settings": {"device": "cpu"}}), gpus({"settings": {}, "gpus": 2})
    (0, 2)
    """
    return entry.get("gpus", int(entry["settings"].get("device", "auto") != "cpu"))


def predicted_hours(work: pd.DataFrame, name: str, share: float = SHARE) -> np.ndarray:
    """Predict the hours that each row of `planned_work` takes on a machine.

    Parameters
    ----------
    work : DataFrame
    name : str
        A key of `MACHINES`.
    share : float
        Of the roofline's speed that is reached.

    Returns
    -------
    ndarray
        NaN where a model's shape is unknown or it does not fit the memory of as many such machines
        as the study asks for. Start and loading of weights are not counted: see `start_hours`.
    """
    machine, batch = MACHINES[name], BATCH_TOKENS[name]
    shapes = {model: shape_of(model) for model in work.model.unique()}
    hours = []
    for row in work.itertuples():
        shape = shapes[row.model]
        room = machine["memory"] * max(row.gpus, 1)
        if shape is None or memory_bytes(shape, batch, row.length, row.size) > room:
            hours.append(float("nan"))
            continue
        per_pass = max(batch * row.prompts / row.computed, 1)
        seconds = roofline_seconds(shape, batch, per_pass, row.length, machine, row.size)
        hours.append(seconds * row.computed / batch / share / 3600)
    return np.array(hours)


def measured_shares(record: dict) -> pd.DataFrame:
    """Compare a record of ``benchmarks/speed.py`` with the roofline of the machine it was made on.

    Parameters
    ----------
    record : dict

    Returns
    -------
    DataFrame
        One row a run: `shape`, `way`, `parameters`, `tokens_per_second` computed, measured
        `seconds`, `predicted` seconds at the measured rate of bare products and the measured
        bandwidth, and `share`, predicted over measured.
    """
    size = BYTES[record["dtype"]]
    rows = []
    for run in record["runs"]:
        shape, passes = shape_of_config(record["configs"][run["shape"]]), run["passes"]
        machine = {"flops": {size: run["products_per_second"]}, "bandwidth": record["bandwidth"]}
        tokens, prompts = run["computed"] / passes, run["prompts"] / passes
        length = run["tokens"] / run["prompts"]
        predicted = passes * roofline_seconds(shape, tokens, prompts, length, machine, size)
        rows.append(
            {
                "shape": run["shape"],
                "way": run["way"],
                "parameters": parameters(shape),
                "tokens_per_second": run["computed"] / run["seconds"],
                "seconds": run["seconds"],
                "predicted": predicted,
                "share": predicted / run["seconds"],
            }
        )
    return pd.DataFrame(rows)


def collection_jobs(work: pd.DataFrame, name: str, share: float = SHARE) -> pd.DataFrame:
    """Gather planned work into jobs: one a study and model, the first of a model downloads it.

    Parameters
    ----------
    work : DataFrame
        See `planned_work`.
    name, share
        See `predicted_hours`.

    Returns
    -------
    DataFrame
        `study`, `model`, `seconds` of computing (jobs that do not fit are left out), `download`
        and `load` in bytes.
    """
    timed = work.assign(seconds=3600 * predicted_hours(work, name, share))
    timed = timed.dropna(subset="seconds")
    jobs = timed.groupby(["study", "model"], sort=False, as_index=False).agg(
        seconds=("seconds", "sum"), size=("size", "first")
    )
    shapes = {model: shape_of(model) for model in jobs.model.unique()}
    jobs["load"] = [
        s * parameters(shapes[m]) for m, s in zip(jobs.model, jobs["size"], strict=True)
    ]
    first = ~jobs.model.duplicated()
    jobs["download"] = jobs.model.map(weight_bytes).where(first, 0.0)
    return jobs.drop(columns="size")


def start_hours(model: str, size: float) -> float:
    """Hours before the first prompt: a kernel, its imports, and the weights from disk.

    Examples
    --------
    >>> round(3600 * start_hours("meta-llama/Llama-3.1-8B", 2))
    36
    """
    shape = shape_of(model)
    read = size * parameters(shape) / LOAD_RATE if shape else 0
    return (START_SECONDS + read) / 3600


def simulate_run(
    compute: np.ndarray,
    download: np.ndarray,
    load: np.ndarray,
    workers: int,
    start: float,
    hub_rate: float,
    disk_rate: float,
) -> float:
    """Simulate jobs on equal workers that share one line to the hub and one file system.

    A free worker takes the next job, starts, downloads its weights, reads them and computes.
    Those who download at a time share the line equally, those who read share the disk.

    Parameters
    ----------
    compute : ndarray
        Seconds of computing of each job, in the order in which jobs are taken.
    download, load : ndarray
        Bytes of each job from the hub (0 if they are there) and from the disk.
    workers : int
    start : float
        Seconds from a job's turn to its first byte: scheduler, kernel, imports.
    hub_rate, disk_rate : float
        Bytes a second of the whole line and the whole disk.

    Returns
    -------
    float
        Seconds until the last job is done.

    Examples
    --------
    >>> two = np.array([100.0, 100.0])
    >>> simulate_run(two, two * 0, two * 0, 2, start=5, hub_rate=1, disk_rate=1)
    105.0
    >>> simulate_run(two, two * 0 + 50, two * 0, 2, start=5, hub_rate=1, disk_rate=1)
    205.0
    """
    left = {"hub": {}, "disk": {}}
    rates = {"hub": hub_rate, "disk": disk_rate}
    needs = {"hub": download, "disk": load}
    waiting, timers, now = list(range(len(compute)))[::-1], [], 0.0

    def begin():
        if waiting:
            heapq.heappush(timers, (now + start, waiting.pop(), "hub"))

    def move(job, stage):
        if stage == "done":
            begin()
        elif needs[stage][job] > 0:
            left[stage][job] = float(needs[stage][job])
        elif stage == "hub":
            move(job, "disk")
        else:
            heapq.heappush(timers, (now + compute[job], job, "done"))

    for _ in range(workers):
        begin()
    while timers or any(left.values()):
        ends = [
            (now + remaining * len(queue) / rates[stage], job, stage)
            for stage, queue in left.items()
            for job, remaining in queue.items()
        ]
        first = min(ends, default=(np.inf, -1, ""))
        timer = timers[0] if timers else (np.inf, -1, "")
        then = min(first[0], timer[0])
        for stage, queue in left.items():
            for job in queue:
                queue[job] -= (then - now) * rates[stage] / len(queue)
        now = then
        if timer[0] <= first[0]:
            _, job, stage = heapq.heappop(timers)
            move(job, stage)
        else:
            _, job, stage = first
            del left[stage][job]
            if stage == "hub":
                move(job, "disk")
            else:
                heapq.heappush(timers, (now + compute[job], job, "done"))
    return float(now)
