"""One way of collecting, in a process of its own; answers the questions of `collect.py`.

Reads a line with the name of a prompt file, asks every prompt, and answers with a line of JSON:
seconds and the log-probabilities of the options. An empty line ends it; the last answer holds the
peak memory. `lm_eval` needs the peers' environment, the others the project's own.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from shapes import make_model
from transformers import AutoTokenizer

SPELLING = " {}"


def lm_eval(network, tokenizer, batch_size):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size, max_length=8192)

    def ask(prompts):
        requests = [
            Instance("loglikelihood", {}, (prompt["text"], SPELLING.format(label)), i)
            for i, prompt in enumerate(prompts)
            for label in prompt["labels"]
        ]
        values = iter(model.loglikelihood(requests, disable_tqdm=True))
        return [[next(values)[0] for _ in prompt["labels"]] for prompt in prompts]

    return ask


def plain(network, tokenizer, batch_size):
    def ask(prompts):
        found = []
        for prompt in prompts:
            ids = tokenizer(prompt["text"], return_tensors="pt").input_ids.to(network.device)
            with torch.no_grad():
                logits = network(ids).logits
            p = logits.softmax(-1)[0, -1].double().cpu().numpy()
            spelled = [SPELLING.format(label) for label in prompt["labels"]]
            tokens = [tokenizer(text).input_ids[0] for text in spelled]
            numpy_measures(p, p[tokens])
            found.append(np.log(p[tokens]).tolist())
        return found

    return ask


def reference(network, tokenizer, batch_size):
    return plain(network.double(), tokenizer, batch_size)


def ours(network, tokenizer, batch_size):
    import pandas as pd

    from uqlib.collect import plan_collection, run_plan
    from uqlib.models import LanguageModel

    model = LanguageModel("timed", network, tokenizer, {})

    def ask(prompts):
        tables = [pd.read_parquet(prompts[0]["folder"] + f"/{t}.parquet") for t in ("asked", "dev")]
        for table in tables:
            table["answer"] = table["answer"].astype("Int64")
        plan = plan_collection(
            model,
            tables[0],
            prompt_style="survey",
            shots=prompts[0]["shots"],
            examples=tables[1],
            batch_tokens=batch_size,
        )
        return [values.tolist() for values in run_plan(model, plan)["choice_log_probs"]]

    return ask


def numpy_measures(p, options):
    def entropy(values):
        values = values / values.sum()
        return -(values * np.log(values)).sum() / np.log(len(values))

    ordered = np.sort(p)[::-1]
    mass = ordered.cumsum()
    sizes = [min(int((mass < share).sum()) + 1, len(p)) for share in (0.5, 0.75, 0.9, 0.95)]
    return [
        ordered[0],
        entropy(p),
        *(entropy(ordered[:k]) for k in (5, 10, 25, 50, 100)),
        entropy(options),
        *sizes,
        *(entropy(ordered[:size]) if size > 1 else 0.0 for size in sizes),
    ]


def main():
    name, shape, dtype, device, folder, batch_size = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = make_model(shape, getattr(torch, dtype), device)
    ways = {"lm_eval": lm_eval, "plain": plain, "ours": ours, "reference": reference}
    ask = ways[name](network, tokenizer, int(batch_size))
    answers, sys.stdout = sys.stdout, sys.stderr
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        prompts = json.loads(Path(line.strip()).read_text())
        started = time.perf_counter()
        values = ask(prompts)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "options": values}), file=answers, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"peak": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
