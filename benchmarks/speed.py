"""Speed of collection against the roofline: several shapes, 0 and 5 examples, and dropout.

    .venv/bin/python benchmarks/speed.py                                # processor, small shapes
    .venv/bin/python benchmarks/speed.py --device cuda --dtype bfloat16 \\
        --shapes llama-3.2-1b llama-3.2-3b llama-3.1-8b --questions 2000

Models are randomly initialised, which changes no cost. On a graphics card the first shape is also
compared with the processor in float32. On a processor one thread is used and its own time counted,
so that other work on the machine matters less; on a card it is the clock. Writes
``benchmarks/results/speed_<device>.json``, which the chapter on planning draws.
"""

import argparse
import copy
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from shapes import SHAPES, device_name, make_model, product_rate

from uqlib.artifacts import write_text
from uqlib.collect import plan_collection, run_plan
from uqlib.forward import computed_tokens
from uqlib.models import LanguageModel, load_tokenizer
from uqlib.paths import data_folder
from uqlib.questions.mmlu import load_mmlu

RESULTS = Path(__file__).parent / "results"
WAYS = {
    "0-shot": {},
    "5-shot": {"shots": 5},
    "dropout": {"dropout_rate": 0.1, "n_passes": 2},
}


def main(arguments=None):
    args = read_arguments(arguments)
    if args.device == "cpu":
        torch.set_num_threads(1)
    tokenizer = load_tokenizer(args.tokenizer)
    asked, examples = questions(args.questions)
    results = {
        "device": device_name(args.device),
        "dtype": args.dtype,
        "threads": torch.get_num_threads() if args.device == "cpu" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if args.device == "cuda" else None,
        "batch_tokens": args.batch_tokens,
        "bandwidth": bandwidth(args.device),
        "configs": {shape: {"model_type": "llama", **SHAPES[shape]} for shape in args.shapes},
        "runs": [],
    }
    for shape in args.shapes:
        network = make_model(shape, getattr(torch, args.dtype), args.device)
        model = LanguageModel(shape, network, tokenizer, {})
        for way in args.ways:
            run = timed(model, asked, examples, way, args)
            results["runs"].append({"shape": shape, "way": way, **run})
            print(json.dumps(results["runs"][-1]), flush=True)
        del network, model
    if args.device == "cuda":
        results["difference_to_processor"] = difference(args, tokenizer, asked[:20])
    write_text(
        json.dumps(results, indent=1) + "\n", Path(args.results) / f"speed_{args.device}.json"
    )


def read_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["llama-2m", "llama-20m", "smollm2-135m"]
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--batch-tokens", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2, help="of timing bare products")
    parser.add_argument("--tokenizer", default=str(data_folder() / "tokenizers/smollm2-135m"))
    parser.add_argument("--results", default=str(RESULTS))
    args = parser.parse_args(arguments)
    args.batch_tokens = args.batch_tokens or (512 if args.device == "cpu" else 16384)
    return args


def questions(number):
    test, _ = load_mmlu(data_folder() / "mmlu/test")
    examples, _ = load_mmlu(data_folder() / "mmlu/dev", "dev")
    subjects = test["subject"].value_counts().index[: max(number // 100, 2)]
    asked = test[test["subject"].isin(subjects)].groupby("subject").head(number // len(subjects))
    return asked.reset_index(drop=True), examples[examples["subject"].isin(subjects)]


def timed(model, asked, examples, way, args):
    settings = WAYS[way] | {"batch_tokens": args.batch_tokens}
    plan = plan_collection(model, asked, prompt_style="survey", examples=examples, **settings)
    on_card = args.device == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        run_plan(model, plan_collection(model, asked[:8], **WAYS[way], examples=examples))
        torch.cuda.synchronize()
    clock = time.perf_counter if on_card else time.process_time
    dtype = getattr(torch, args.dtype)
    rate = product_rate(model.name, args.batch_tokens, dtype, args.device, args.seconds, clock)
    started = clock()
    run_plan(model, plan)
    if on_card:
        torch.cuda.synchronize()
    seconds = clock() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "prompts": len(plan.prompts),
        "tokens": sum(map(len, plan.prompts)),
        "computed": computed_tokens(plan.prompts, plan.batches),
        "passes": len(plan.batches),
        "seconds": seconds,
        "products_per_second": rate,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_card else peak,
    }


def bandwidth(device, size=2**27):
    """Bytes a second of copying an array much larger than any cache: read once, written once."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = []
    for _ in range(5):
        started = clock()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return 2 * size / min(seconds)


def difference(args, tokenizer, asked):
    """Largest difference in an option's log-probability between card and processor, in float32."""
    network = make_model(args.shapes[0])
    tables = []
    for device in ("cpu", args.device):
        placed = copy.deepcopy(network).to(device)
        plan = plan_collection(LanguageModel("m", placed, tokenizer, {}), asked, batch_tokens=512)
        tables.append(run_plan(LanguageModel("m", placed, tokenizer, {}), plan))
    pairs = zip(*(table["choice_log_probs"] for table in tables), strict=True)
    return float(max(np.abs(np.subtract(a, b)).max() for a, b in pairs))


if __name__ == "__main__":
    main()
