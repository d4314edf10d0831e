"""The bootstrap of uncertainty alignment against a plain loop over scipy, on one machine.

    make bench

Ten models, sixteen measures, four scalings, as many questions as ProtoQA; simulated, because the
cost does not depend on the values. The loop draws questions, scales and calls
`scipy.stats.pearsonr`, for each replicate, model, measure and scaling; a few replicates are timed
and the rest follow. Both are given the same data frame. Writes
``benchmarks/results/alignment_cpu.json``, which chapter 32 shows.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from collect import device_name
from scipy import stats

from uqlib.alignment import SCALINGS, uncertainty_alignment
from uqlib.artifacts import write_text
from uqlib.measures import MEASURES, TOP_P
from uqlib.questions.schema import human_entropy

MODELS, QUESTIONS, ROUNDS = 10, 8724, 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--loop-replicates", type=int, default=5)
    args = parser.parse_args()
    responses = simulated()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        table = uncertainty_alignment(responses, "all", args.replicates)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    plain = scipy_loop(responses, args.loop_replicates)
    loop = (time.perf_counter() - started) * args.replicates / (args.loop_replicates + 1)
    both = table.set_index(["model", "measure", "scaling"]).r
    results = {
        "device": device_name("cpu"),
        "threads": len(os.sched_getaffinity(0)),
        "models": MODELS,
        "questions": QUESTIONS,
        "replicates": args.replicates,
        "loop_replicates": args.loop_replicates,
        "seconds": {"uqlib": float(np.median(seconds)), "scipy_loop": loop},
        "rounds": seconds,
        "ratio": loop / float(np.median(seconds)),
        "largest_difference": float((both - plain).abs().max()),
    }
    path = Path(__file__).parent / "results" / "alignment_cpu.json"
    write_text(json.dumps(results, indent=1) + "\n", path)
    print(json.dumps(results, indent=1))


def simulated(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 10, QUESTIONS)
    shares = [rng.dirichlet(np.ones(k)) for k in n]
    frames = []
    for model in range(MODELS):
        frame = pd.DataFrame(rng.uniform(size=(QUESTIONS, len(MEASURES))), columns=MEASURES)
        for p in TOP_P:
            frame[f"top_p_size_{p}"] = rng.integers(1, 50, QUESTIONS)
        frames.append(
            frame.assign(
                model=f"m{model}",
                question_id=[f"q{i}" for i in range(QUESTIONS)],
                n_choices=n,
                human_shares=shares,
            )
        )
    return pd.concat(frames, ignore_index=True)


def scipy_loop(responses: pd.DataFrame, replicates: int) -> pd.Series:
    """Bootstrap one replicate at a time, after a pass over the data, whose results are returned."""
    rng = np.random.default_rng(0)
    plain = {}
    for model, frame in responses.groupby("model"):
        entropy, n = human_entropy(frame["human_shares"]), frame["n_choices"].to_numpy()
        everything = np.arange(len(frame))
        for replicate in range(replicates + 1):
            drawn = rng.integers(0, len(n), len(n)) if replicate else everything
            sample, y, k = frame.iloc[drawn], entropy[drawn], n[drawn]
            for measure in MEASURES:
                for scaling in SCALINGS:
                    r = correlation(sample, measure, y, k, scaling)
                    if not replicate:
                        plain[model, measure, scaling] = r
    return pd.Series(plain).rename_axis(["model", "measure", "scaling"])


def correlation(sample, measure, y, n, scaling):
    x, ln_n = sample[measure].to_numpy(dtype=float), np.log(n)
    if scaling == "published":
        return stats.pearsonr(x * ln_n, y).statistic
    if scaling == "raw":
        if measure == "choice_entropy":
            x = x * ln_n
        if measure.startswith("top_p_entropy"):
            x = x * np.log(sample[measure.replace("entropy", "size")].to_numpy())
        return stats.pearsonr(x, y).statistic
    y = y / ln_n
    if scaling == "within_n":
        x, y = x.copy(), y.copy()
        for k in np.unique(n):
            x[n == k] -= x[n == k].mean()
            y[n == k] -= y[n == k].mean()
    return stats.pearsonr(x, y).statistic


if __name__ == "__main__":
    main()
