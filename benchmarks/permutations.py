"""What the permutation test of the Jensen-Shannon shift costs on counts, and on questions.

    make bench

Simulated answers, as many as MMLU has questions, with letter biases and accuracies of their own for
each model. Writes ``benchmarks/results/permutations_cpu.json``.
"""

import json
import resource
import time
from pathlib import Path

import numpy as np
from collect import device_name

from uqlib.artifacts import write_text
from uqlib.jensen_shannon import jensen_shannon_shift, letter_table, shift_null

MODELS, MEASURES, QUESTIONS, LETTERS = 30, 9, 14_042, 4
PERMUTATIONS, DIRECT = 100_000, 2000


def main():
    rng = np.random.default_rng(0)
    models = [simulate(rng) for _ in range(MODELS)]
    sizes = rng.integers(QUESTIONS // 4, QUESTIONS // 2, (MODELS, MEASURES))
    shift_null(letter_table(*models[0], LETTERS), QUESTIONS // 2, 1000, seed=0)
    started = time.perf_counter()
    for number, (given, right) in enumerate(models):
        table = letter_table(given, right, LETTERS)
        for n_high in sizes[number]:
            shift_null(table, int(n_high), PERMUTATIONS, seed=0)
    counts = time.perf_counter() - started
    given, right = models[0]
    high = np.arange(QUESTIONS) < sizes[0, 0]
    started = time.perf_counter()
    for _ in range(DIRECT):
        jensen_shannon_shift(given, right, rng.permutation(high), LETTERS)
    direct = time.perf_counter() - started
    each_counts = counts / (MODELS * MEASURES * PERMUTATIONS)
    results = {
        "device": device_name("cpu"),
        "models": MODELS,
        "measures": MEASURES,
        "questions": QUESTIONS,
        "permutations": PERMUTATIONS,
        "counts_seconds": counts,
        "direct_permutations": DIRECT,
        "direct_seconds": direct,
        "ratio": direct / DIRECT / each_counts,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(
        f"{MODELS * MEASURES} tests of {PERMUTATIONS:,} permutations: {counts:.1f} s on counts; "
        f"a permutation of {QUESTIONS:,} questions takes {results['ratio']:.0f} times as long"
    )
    path = Path(__file__).parent / "results/permutations_cpu.json"
    write_text(json.dumps(results, indent=1) + "\n", path)


def simulate(rng):
    right = rng.integers(LETTERS, size=QUESTIONS)
    liking = rng.dirichlet(np.full(LETTERS, 3.0))
    knows = rng.random(QUESTIONS) < rng.uniform(0.1, 0.7)
    return np.where(knows, right, rng.choice(LETTERS, size=QUESTIONS, p=liking)), right


if __name__ == "__main__":
    main()
