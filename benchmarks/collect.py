"""Collection against a plain loop and lm-evaluation-harness: same weights, prompts and machine.

    make bench

Every way runs in a process of its own; rounds are interleaved, their order reversed each time. The
model is randomly initialised, which changes no cost but makes the distribution nearly flat: the
worst case for the measures. Writes ``benchmarks/results/collect_<shape>_<device>.json``, which
chapter 14 shows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from shapes import SHAPES, device_name, product_flops, product_rate

from uqlib.artifacts import write_text
from uqlib.forward import computed_tokens, plan_batches
from uqlib.models import encode_prompts, load_tokenizer
from uqlib.paths import ROOT, data_folder
from uqlib.prompts import render_questions
from uqlib.questions.mmlu import load_mmlu

HERE = Path(__file__).parent
EVERY = 10


def main():
    args = arguments()
    tokenizer = load_tokenizer(args.tokenizer)
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        results = {
            "shape": args.shape,
            "dtype": args.dtype,
            "device": device_name(args.device),
            "threads": torch.get_num_threads() if args.device == "cpu" else None,
            "torch": torch.__version__,
            "batch_size": {"lm_eval": args.peer_batch, "ours": args.batch_tokens},
            "settings": [setting(args, shots, tokenizer, folder) for shots in (0, 5)],
        }
    name = f"collect_{args.shape}_{args.device}.json"
    write_text(json.dumps(results, indent=1) + "\n", HERE / "results" / name)
    for found in results["settings"]:
        print(f"\n{found['shots']}-shot: {found['prompts']} prompts, {found['tokens']} tokens")
        print(pd.DataFrame(found["ways"]).T.round(6).to_string())
        print({k: v for k, v in found.items() if k != "ways"})


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizer", default=str(data_folder() / "tokenizers/smollm2-135m"))
    parser.add_argument("--peers", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--questions", type=int, default=30, help="of each of ten subjects")
    parser.add_argument("--rounds", type=int, default=2, help="without examples; with them, one")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--peer-batch", type=int, default=4)
    return parser.parse_args()


def setting(args, shots, tokenizer, folder):
    asked, dev = tables(args.questions)
    asked.to_parquet(Path(folder) / "asked.parquet")
    dev.to_parquet(Path(folder) / "dev.parquet")
    texts = render_questions(asked, "survey", shots, dev)
    prompts = [
        {"text": text, "labels": list(labels), "shots": shots, "folder": folder}
        for text, labels in zip(texts, asked["labels"], strict=True)
    ]
    whole, some = Path(folder) / "prompts.json", Path(folder) / "some.json"
    whole.write_text(json.dumps(prompts))
    some.write_text(json.dumps(prompts[::EVERY]))

    encoded = encode_prompts(tokenizer, texts)
    computed = computed_tokens(encoded, plan_batches(encoded, args.batch_tokens))
    dtype = getattr(torch, args.dtype)
    reference = run_once(args, "reference", folder, some)
    ways = ["lm_eval", "plain", "ours"]
    workers = {way: start(args, way, folder) for way in ways}
    seconds, options, rates = {way: [] for way in ways}, {}, []
    for number in range(1 if shots else args.rounds):
        rates.append(product_rate(args.shape, args.batch_tokens, dtype, args.device))
        for way in ways if number % 2 == 0 else ways[::-1]:
            answer = ask(workers[way], whole)
            seconds[way].append(answer["seconds"])
            options[way] = answer["options"]
            print(f"{shots}-shot, round {number + 1}, {way}: {answer['seconds']:.1f} s", flush=True)
    flops = product_flops(args.shape, computed, len(prompts))
    found = {}
    for way in ways:
        difference = np.abs(np.array(options[way][::EVERY]) - np.array(reference)).max()
        speed = len(prompts) / np.median(seconds[way])
        found[way] = {
            "prompts_per_second": speed,
            "seconds": seconds[way],
            "ratio_to_lm_eval": np.median(np.divide(seconds["lm_eval"], seconds[way])),
            "peak_memory_bytes": finish(workers[way]),
            "largest_difference": difference,
        }
    rate = float(np.median(rates))
    return {
        "shots": shots,
        "prompts": len(prompts),
        "tokens": sum(map(len, encoded)),
        "tokens_computed_by_ours": computed,
        "products_per_second": rate,
        "share_of_product_rate": flops / np.median(seconds["ours"]) / rate,
        "reference_prompts": len(reference),
        "ways": found,
    }


def tables(questions):
    test, _ = load_mmlu(data_folder() / "mmlu/test")
    dev, _ = load_mmlu(data_folder() / "mmlu/dev", "dev")
    subjects = test["subject"].value_counts().index[:10]
    asked = pd.concat([test[test["subject"] == s][:questions] for s in subjects])
    return asked.reset_index(drop=True), dev[dev["subject"].isin(subjects)]


def start(args, way, folder):
    python = args.peers if way == "lm_eval" else sys.executable
    batch = args.peer_batch if way == "lm_eval" else args.batch_tokens
    command = [python, HERE / "worker.py", way, args.shape, args.dtype, args.device]
    command += [folder, str(batch)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if not worker.stdout.readline():
        raise SystemExit(f"{way} did not start; is {python} there? (make bench)")
    return worker


def ask(worker, path):
    worker.stdin.write(f"{path}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def finish(worker):
    worker.stdin.write("\n")
    worker.stdin.flush()
    peak = json.loads(worker.stdout.readline())["peak"]
    worker.wait()
    return peak


def run_once(args, way, folder, path):
    worker = start(args, way, folder)
    options = ask(worker, path)["options"]
    finish(worker)
    return options


if __name__ == "__main__":
    main()
