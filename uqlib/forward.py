"""Forward passes: next-token distributions of many prompts, exact and without wasted work.

Prompts are padded on the right, where a causal model cannot see it, so neither masks nor explicit
positions are needed. Only the last position of each prompt reaches the output layer. Tokens that
prompts have in common at their beginning are computed once.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LONGER = 1.25
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Batch:
    """Prompts that go through the model together.

    Attributes
    ----------
    rows : list of int
        Positions of the prompts.
    shared : int
        Leading tokens computed once for each distinct beginning.
    """

    rows: list[int]
    shared: int


def plan_batches(
    prompts: list[list[int]], batch_tokens: int, share_prefixes: bool = True
) -> list[Batch]:
    """Group prompts into batches whose forward passes hold at most `batch_tokens` tokens.

    Prompts that have at least half of their tokens in common form a family; the others form one
    family with whatever beginning all of them share. A large family fills batches of its own,
    longest prompts first; small ones are put together if that computes at most a quarter more
    tokens than each of them apart.

    Parameters
    ----------
    prompts : list of list of int
        Token ids.
    batch_tokens : int
        Tokens of one pass at most, padding included; a longer prompt is a batch of its own.
    share_prefixes : bool
        False computes every token of every prompt.

    Returns
    -------
    list of Batch
        Every prompt is in one batch. The plan depends on the prompts, not on their order.

    Examples
    --------
    >>> plan_batches([[1, 2, 3, 4], [1, 2, 3, 5, 6], [7, 8]], batch_tokens=10)
    [Batch(rows=[1, 0], shared=3), Batch(rows=[2], shared=0)]
    >>> plan_batches([[1, 2, 3], [1, 2, 4]], batch_tokens=10, share_prefixes=False)
    [Batch(rows=[0, 1], shared=0)]
    """
    if not share_prefixes:
        return list(_split(prompts, Batch(list(range(len(prompts))), 0), batch_tokens))
    batches, apart = [], None
    for family in _families(prompts):
        parts = list(_split(prompts, family, batch_tokens))
        own = sum(_passes(prompts, parts[0])) if len(parts) == 1 else None
        if apart and own:
            merged = _merge(batches[-1], parts[0])
            passes = _passes(prompts, merged)
            if max(passes) <= batch_tokens and sum(passes) <= LONGER * (apart + own):
                batches[-1] = merged
                apart += own
                continue
        batches += parts
        apart = own
    return batches


def _families(prompts: list[list[int]]) -> list[Batch]:
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    runs = [order[:1]]
    for a, b in pairwise(order):
        longer = max(len(prompts[a]), len(prompts[b]))
        if 2 * _common(prompts[a], prompts[b]) >= longer:
            runs[-1].append(b)
        else:
            runs.append([b])
    families = [run for run in runs if len(run) > 1]
    rest = [run[0] for run in runs if len(run) == 1]
    batches = [Batch(rows, _shared(prompts, rows)) for rows in [*families, rest] if rows]
    return sorted(batches, key=lambda b: (-b.shared, prompts[b.rows[0]]))


def _common(a: list[int], b: list[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _shared(prompts: list[list[int]], rows: list[int]) -> int:
    """Tokens that lexicographically sorted prompts share, at least one of each left to compute."""
    if len(rows) == 1:
        return 0
    common = _common(prompts[rows[0]], prompts[rows[-1]])
    return min(common, min(len(prompts[i]) for i in rows) - 1)


def _split(prompts: list[list[int]], family: Batch, batch_tokens: int):
    order = sorted(family.rows, key=lambda i: (-len(prompts[i]), prompts[i]))
    rows, width = [], 0
    for i in order:
        if rows and width * (len(rows) + 1) > batch_tokens:
            yield Batch(rows, family.shared)
            rows = []
        if not rows:
            width = len(prompts[i]) - family.shared
        rows.append(i)
    yield Batch(rows, family.shared)


def _merge(a: Batch, b: Batch) -> Batch:
    return Batch(a.rows + b.rows, min(a.shared, b.shared))


def _passes(prompts: list[list[int]], batch: Batch) -> tuple[int, int]:
    """Tokens in the pass over the beginnings, and in that over the rest."""
    beginnings = _beginnings([prompts[i] for i in batch.rows], batch.shared)
    width = max(len(prompts[i]) for i in batch.rows) - batch.shared
    return len(beginnings) * batch.shared, len(batch.rows) * width


def _beginnings(prompts: list[list[int]], shared: int) -> list[tuple[int, ...]]:
    return sorted({tuple(prompt[:shared]) for prompt in prompts})


def computed_tokens(prompts: list[list[int]], batches: list[Batch]) -> int:
    """Tokens that go through the model in all batches, padding included.

    Consecutive batches with the same one beginning compute it once.

    Examples
    --------
    >>> prompts = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6]]
    >>> computed_tokens(prompts, [Batch([0, 1], 3), Batch([2], 3)])
    6
    """
    total, kept = 0, None
    for batch in batches:
        first, rest = _passes(prompts, batch)
        beginnings = _beginnings([prompts[i] for i in batch.rows], batch.shared)
        total += rest + (first if beginnings != kept else 0)
        kept = beginnings
    return total


def next_token_log_probs(
    network: PreTrainedModel,
    prompts: list[list[int]],
    shared: int = 0,
    read: Callable | None = None,
) -> torch.Tensor:
    """Log-probabilities of the next token after each prompt, float32, shape (batch, V).

    Parameters
    ----------
    network : PreTrainedModel
        A causal model.
    prompts : list of list of int
        Token ids, of any lengths.
    shared : int
        Leading tokens computed once for each distinct beginning; less than the shortest prompt.
    read : callable, optional
        `prefix_reader(network)`, which keeps the last beginnings for the next call.

    Raises
    ------
    FloatingPointError
        If a logit is NaN or infinite; ``error.args[1]`` holds the rows.
    """
    cache = None
    if shared:
        beginnings = _beginnings(prompts, shared)
        states = (read or prefix_reader(network))(tuple(beginnings))
        cache = _SharedPrefix(states, [beginnings.index(tuple(p[:shared])) for p in prompts])
    return _last_log_probs(network, [prompt[shared:] for prompt in prompts], cache)[0]


def step_log_probs(
    network: PreTrainedModel, tokens: list[list[int]], states: DynamicCache | None = None
) -> tuple[torch.Tensor, DynamicCache]:
    """Read tokens after kept states, and keep the states of these tokens too: a step of writing.

    Parameters
    ----------
    network : PreTrainedModel
    tokens : list of list of int
        As many for each row.
    states : DynamicCache, optional
        What the rows have read so far; it grows.

    Returns
    -------
    log_probs : Tensor of float32, shape (batch, V)
        Of the token after those.
    states : DynamicCache
    """
    return _last_log_probs(network, tokens, states, keep=True)


def continued_log_probs(
    network: PreTrainedModel, endings: list[list[int]], states: DynamicCache, rows: list[int]
) -> torch.Tensor:
    """Log-probabilities of the next token after endings of kept beginnings, which stay as they are.

    Parameters
    ----------
    network : PreTrainedModel
    endings : list of list of int
        Token ids, of any lengths, one at least.
    states : DynamicCache
        Of `step_log_probs`.
    rows : list of int
        For each ending, the row of the states that it goes on from.

    Returns
    -------
    Tensor of float32, shape (batch, V)
    """
    return _last_log_probs(network, endings, _SharedPrefix(states, rows))[0]


def _last_log_probs(
    network: PreTrainedModel, endings: list[list[int]], cache, keep: bool = False
) -> tuple[torch.Tensor, DynamicCache | None]:
    width = max(map(len, endings))
    ids = torch.tensor([end + end[-1:] * (width - len(end)) for end in endings])
    last = torch.tensor([len(end) - 1 for end in endings])
    with torch.inference_mode(), only_last_position(network, last):
        output = network(
            input_ids=ids.to(network.device),
            past_key_values=cache,
            use_cache=keep or cache is not None,
        )
        logits = output.logits[:, -1]
        finite = logits.isfinite().all(-1)
        if not finite.all():
            raise FloatingPointError("NaN or infinite logits", (~finite).nonzero()[:, 0].tolist())
        return logits.float().log_softmax(-1), output.past_key_values if keep else None


def prefix_reader(network: PreTrainedModel) -> Callable:
    """Return a function that computes the states of beginnings and keeps the latest ones.

    It takes a tuple of token tuples of one length and returns the model's cache.
    """

    @lru_cache(maxsize=1)
    def read(beginnings: tuple[tuple[int, ...], ...]) -> DynamicCache:
        ids = torch.tensor(beginnings, device=network.device)
        with torch.inference_mode(), only_last_position(network, torch.zeros(len(ids), dtype=int)):
            return network(input_ids=ids, use_cache=True).past_key_values

    return read


def shares_prefixes(network: PreTrainedModel) -> bool:
    """Whether a probe with a shared beginning agrees with whole passes, so that sharing is exact.

    False for models that keep something else than keys and values, or attend otherwise than
    causally.
    """
    size = network.config.get_text_config().vocab_size
    beginning = [i % size for i in range(11, 19)]
    prompts = [[*beginning, 5 % size, 7 % size, 9 % size], [*beginning, 6 % size]]
    read = prefix_reader(network)
    cache = read((tuple(beginning),))
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    if type(cache) is not DynamicCache or not all(type(layer) in known for layer in cache.layers):
        return False
    try:
        whole = torch.cat([next_token_log_probs(network, [prompt]) for prompt in prompts])
        difference = next_token_log_probs(network, prompts, len(beginning), read) - whole
    except FloatingPointError:
        return False  # the collection will name the question
    return difference.abs().max().item() <= PROBE_TOLERANCE[network.dtype]


class _SharedPrefix(DynamicCache):
    """Keys and values of beginnings, handed to each row of a batch and never changed."""

    def __init__(self, states: DynamicCache, rows: list[int]):
        super().__init__()
        self.layers = states.layers
        self.rows = rows

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        layer = self.layers[layer_idx]
        return tuple(
            torch.cat([self._for_rows(prefix), new], dim=-2)
            for prefix, new in [(layer.keys, key_states), (layer.values, value_states)]
        )

    def _for_rows(self, prefix: torch.Tensor) -> torch.Tensor:
        if len(prefix) == 1:
            return prefix.expand(len(self.rows), *prefix.shape[1:])
        return prefix[self.rows]


@contextmanager
def only_last_position(network: PreTrainedModel, last: torch.Tensor):
    """Within the block, the output layer sees one position of each row: those in `last`."""

    def select(module, inputs):
        hidden = inputs[0]
        return (hidden[torch.arange(len(last)), last].unsqueeze(1), *inputs[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
