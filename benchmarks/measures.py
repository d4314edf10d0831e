"""What the measures cost beside the forward pass they describe, at two vocabulary sizes.

    make bench

The model is randomly initialised: its flat distribution is the worst case. Writes
``benchmarks/results/measures_<device>.json``.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from collect import device_name, tables
from shapes import make_model

from uqlib.artifacts import write_text
from uqlib.forward import next_token_log_probs, plan_batches, prefix_reader
from uqlib.measures import vocabulary_measures
from uqlib.models import encode_prompts, load_tokenizer
from uqlib.paths import data_folder
from uqlib.prompts import render_questions

PROMPTS, ROUNDS = 60, 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--tokenizer", default=str(data_folder() / "tokenizers/smollm2-135m"))
    args = parser.parse_args()
    asked, _ = tables(PROMPTS // 10)
    prompts = encode_prompts(load_tokenizer(args.tokenizer), render_questions(asked))
    results = {"device": device_name(args.device), "prompts": len(prompts), "vocabularies": []}
    for size in (49_152, 128_256):
        seconds = [share(args, prompts, size) for _ in range(ROUNDS)]
        forward, measures = min(s[0] for s in seconds), min(s[1] for s in seconds)
        results["vocabularies"].append(
            {"size": size, "forward": forward, "measures": measures, "share": measures / forward}
        )
        print(f"{size} tokens: measures take {measures / forward:.1%} of the forward time")
    path = Path(__file__).parent / "results" / f"measures_{args.device}.json"
    write_text(json.dumps(results, indent=1) + "\n", path)


def share(args, prompts, vocabulary_size):
    network = make_model("smollm2-135m", device=args.device, vocab_size=vocabulary_size)
    read, forward, measures = prefix_reader(network), 0.0, 0.0
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    for batch in plan_batches(prompts, args.batch_tokens):
        started = time.perf_counter()
        log_probs = next_token_log_probs(
            network, [prompts[i] for i in batch.rows], batch.shared, read
        )
        wait()
        between = time.perf_counter()
        vocabulary_measures(log_probs)
        wait()
        forward += between - started
        measures += time.perf_counter() - between
    return forward, measures


if __name__ == "__main__":
    main()
