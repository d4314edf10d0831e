"""What asking about each option apart costs: tokens and time, with and without shared beginnings.

    .venv/bin/python benchmarks/counterfactual.py

Models are randomly initialised, which changes no cost. One thread is used and its own time counted,
so that other work on the machine matters less. Rounds are interleaved, their order reversed each
time. Writes ``benchmarks/results/counterfactual_cpu.json``, which the chapter on counterfactual
prompting shows.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from shapes import SHAPES, device_name, make_model

from uqlib.artifacts import write_text
from uqlib.collect import BATCH_TOKENS, plan_collection, run_plan
from uqlib.forward import computed_tokens, plan_batches
from uqlib.models import LanguageModel, load_tokenizer
from uqlib.paths import data_folder
from uqlib.questions.coane import load_coane
from uqlib.questions.mmlu import load_mmlu

RESULTS = Path(__file__).parent / "results"
WAYS = [
    ("survey", False),
    ("survey", True),
    ("counterfactual", False),
    ("counterfactual", True),
]


def main(arguments=None):
    args = read_arguments(arguments)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(args.tokenizer)
    results = {
        "device": device_name("cpu"),
        "threads": 1,
        "torch": torch.__version__,
        "batch_tokens": BATCH_TOKENS["cpu"],
        "rounds": args.rounds,
        "runs": [
            {"shape": shape, "dataset": dataset, **run}
            for shape in args.shapes
            for dataset, questions in tables(args.questions).items()
            for run in timed(
                LanguageModel(shape, make_model(shape), tokenizer, {}), questions, args.rounds
            )
        ],
    }
    write_text(json.dumps(results, indent=1) + "\n", Path(args.results) / "counterfactual_cpu.json")


def read_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llama-2m", "smollm2-135m"])
    parser.add_argument("--questions", type=int, default=24, help="of each data set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default=str(data_folder() / "tokenizers/smollm2-135m"))
    parser.add_argument("--results", default=str(RESULTS))
    return parser.parse_args(arguments)


def tables(number):
    """Short questions and longer ones, four options each."""
    norms, _ = load_coane(data_folder() / "published/coane")
    mmlu, _ = load_mmlu(data_folder() / "mmlu/test")
    drawn = {"coane": norms, "mmlu": mmlu}
    return {
        name: table.sample(number, random_state=0).reset_index(drop=True)
        for name, table in drawn.items()
    }


def timed(model, questions, rounds):
    """Time of each way of asking; the shared and the whole passes answer the same."""
    plans = {}
    for style, share in WAYS:
        plan = plan_collection(model, questions, style, batch_tokens=BATCH_TOKENS["cpu"])
        batches = plan_batches(plan.prompts, BATCH_TOKENS["cpu"], share)
        plans[style, share] = replace(plan, batches=batches)
    seconds, answers = {way: [] for way in WAYS}, {}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            started = time.process_time()
            answers[way] = run_plan(model, plans[way])["choice_log_probs"]
            seconds[way].append(time.process_time() - started)
    for (style, share), plan in plans.items():
        pairs = zip(answers[style, True], answers[style, False], strict=True)
        yield {
            "way": style,
            "shared": share,
            "questions": len(questions),
            "prompts": len(plan.prompts),
            "tokens": sum(map(len, plan.prompts)),
            "computed": computed_tokens(plan.prompts, plan.batches),
            "seconds": seconds[style, share],
            "largest_difference": float(max(np.abs(a - b).max() for a, b in pairs)),
        }


if __name__ == "__main__":
    main()
