"""Attention dropout at inference: masks on the attention weights, after softmax, before the values.

The masks of this module are a function of a seed, the layer, the head and the two positions. So a
prompt meets the same masks alone, in any batch and on any device, and with a larger rate everything
is dropped that was dropped with a smaller one.
"""

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "uqlib_attention_dropout"
IMPLEMENTATIONS = ("seeded", "native")
PLACES = ("attention_dropout", "attn_dropout", "dropout")
KNOWN = {"sliding_window", "softcap", "position_ids", "is_causal", "use_cache", "cache_position"}
KNOWN |= {"head_mask", "output_attentions", "past_key_values", "logits_to_keep"}


@dataclass
class _State:
    rate: float
    seeds: torch.Tensor
    heads: list[int] | None
    positions: list[int] | None
    masked: set[int] = field(default_factory=set)


@contextmanager
def attention_dropout(
    network: PreTrainedModel,
    rate: float,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    seed: int | Sequence[int] = 0,
    implementation: str = "seeded",
):
    """Within the block attention weights are dropped; after it, also after an error, none are.

    Parameters
    ----------
    network : PreTrainedModel
        A causal decoder, in evaluation mode.
    rate : float
        Probability that a weight is set to zero, in [0, 1); the others are divided by 1 - rate. 0
        leaves the network untouched, to the bit.
    layers, heads : sequence of int, optional
        Where to drop; all by default.
    positions : sequence of int, optional
        Positions of the reading tokens whose weights may be dropped, from 0; all by default.
    seed : int or sequence of int
        One for every row of a batch, or one for each. Rows of equal seed have equal masks.
    implementation : {"seeded", "native"}
        `seeded`: masks of this module, with attention computed step by step. `native`: the model's
        own attention with its own dropout, as the released code of Kwon et al. (2025) turns it on;
        faster, but masks follow the batch, and `heads`, `positions` and seeds by row do not apply.

    Raises
    ------
    ValueError
        If a setting is out of range, the network is in training mode, or nothing in it can be
        dropped.
    RuntimeError
        When the block ends, if the network was used and some layer named was not masked: its
        attention does not go through the interface that this module takes the place of.

    Notes
    -----
    Kwon et al. (2025): Attention = dropout(softmax(QK' / sqrt(d) + M), r) V. Their code puts the
    whole model into training mode, which is the same where a model has no other dropout.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> small = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8,
    ...     "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> network = LlamaForCausalLM(LlamaConfig(**small)).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> plain = network(ids).logits
    >>> with attention_dropout(network, 0.5, seed=1):
    ...     dropped = network(ids).logits
    >>> torch.equal(plain, dropped), torch.equal(plain, network(ids).logits)
    (False, True)
    """
    _check_rate(rate)
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"unknown implementation {implementation!r}; known: {known}")
    if network.training:
        raise ValueError("the network is in training mode: call eval() first")
    chosen = _chosen(network, layers)
    if rate == 0:
        yield network
    elif implementation == "native":
        if heads is not None or positions is not None or not isinstance(seed, int):
            raise ValueError("native dropout knows no heads, no positions and no seeds by row")
        with _native(list(chosen.values()), rate, seed):
            yield network
    else:
        seeds = torch.tensor([seed] if isinstance(seed, int) else list(seed))
        state = _State(rate, seeds, _listed(heads), _listed(positions))
        with _seeded(network, chosen, state):
            yield network


def attention_modules(network: PreTrainedModel) -> dict[int, nn.Module]:
    """Return the attention module of each layer of a decoder, by the number of the layer.

    Raises
    ------
    ValueError
        If the network has none that can be recognised.
    """
    found = {
        module.layer_idx: module
        for module in network.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and type(module).__name__.endswith("Attention")
    }
    if not found:
        raise ValueError(f"{type(network).__name__} has no attention that can be dropped")
    return dict(sorted(found.items()))


def check_dropout(network: PreTrainedModel, rate: float) -> None:
    """Check the rate, and measure on a few tokens that dropout changes what the network says.

    Raises
    ------
    ValueError
        If the rate is out of range, or dropout, at one half, changes nothing.
    """
    _check_rate(rate)
    size = network.config.get_text_config().vocab_size
    ids = torch.tensor([[i % size for i in range(5, 13)]], device=network.device)
    with torch.inference_mode():
        plain = network(ids).logits[:, -1]
        try:
            with attention_dropout(network, 0.5, seed=0):
                dropped = network(ids).logits[:, -1]
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"attention dropout does not work here: {error}") from None
    if torch.equal(plain, dropped):
        raise ValueError(f"dropout changed nothing in {type(network).__name__}")


def row_seed(*parts) -> int:
    """Return a seed that depends on all its parts, for one prompt and pass.

    Examples
    --------
    >>> row_seed(0, "age/0", 1) == row_seed(0, "age/0", 1)
    True
    >>> row_seed(0, "age/0", 1) == row_seed(0, "age/0", 2)
    False
    """
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def dropout_mask(
    seeds: torch.Tensor, layer: int, heads: int, queries: int, keys: int, rate: float
) -> torch.Tensor:
    """Return which attention weights are kept, from a hash of where they are.

    Parameters
    ----------
    seeds : Tensor of int, shape (batch,)
    layer : int
    heads, queries, keys : int
        The queries are the last positions of the keys.
    rate : float
        Probability of being dropped, to 32 binary digits.

    Returns
    -------
    Tensor of bool, shape (batch, heads, queries, keys)

    Notes
    -----
    The hash is an integer finaliser of two multiplications, applied once for each of seed, layer,
    head, query and key.

    Examples
    --------
    >>> alone = dropout_mask(torch.tensor([7]), 0, 2, 3, 3, rate=0.5)
    >>> wider = dropout_mask(torch.tensor([1, 7]), 0, 2, 5, 5, rate=0.5)
    >>> torch.equal(alone[0], wider[1, :, :3, :3])
    True
    """
    device = seeds.device
    first = keys - queries
    state = _hash(_to_int32(seeds).view(-1, 1, 1, 1) ^ _to_int32(torch.tensor(0x5BD1E995)).item())
    for values, axis in (
        (torch.tensor([layer]), 1),
        (torch.arange(heads), 1),
        (torch.arange(first, first + queries), 2),
        (torch.arange(keys), 3),
    ):
        shape = [1, 1, 1, 1]
        shape[axis] = len(values)
        odd = _to_int32((values + 1) * 0x9E3779B1 & 0xFFFFFFFF).to(device)
        state = _hash(state ^ odd.view(shape))
    return state >= round(rate * 2**32) - 2**31


def _to_int32(values: torch.Tensor) -> torch.Tensor:
    """Read the lower 32 bits of whole numbers as signed ones."""
    low = values.long() & 0xFFFFFFFF
    return torch.where(low >= 2**31, low - 2**32, low).to(torch.int32)


def _hash(x: torch.Tensor) -> torch.Tensor:
    """Mix the bits of 32-bit numbers, in place."""
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= 0x7FEB352D
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= 0x846CA68B - 2**32
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"the dropout rate must lie in [0, 1), not {rate}")


def _chosen(network: PreTrainedModel, layers: Sequence[int] | None) -> dict[int, nn.Module]:
    modules = attention_modules(network)
    if layers is None:
        return modules
    for layer in layers:
        if layer not in modules:
            known = ", ".join(map(str, modules))
            raise ValueError(f"there is no layer {layer}; there are: {known}")
    return {layer: modules[layer] for layer in layers}


def _listed(values: Sequence[int] | None) -> list[int] | None:
    return None if values is None else list(values)


@contextmanager
def _seeded(network: PreTrainedModel, chosen: dict[int, nn.Module], state: _State):
    modules = attention_modules(network).values()
    configs = {
        id(c): c for c in [network.config, *(getattr(m, "config", network.config) for m in modules)]
    }
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    used = []
    handle = network.register_forward_pre_hook(lambda module, inputs: used.append(True))
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        for module in chosen.values():
            module.uqlib_dropout = state
        yield
    finally:
        handle.remove()
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        for module in chosen.values():
            del module.uqlib_dropout
    missed = chosen.keys() - state.masked
    if used and missed:
        raise RuntimeError(
            f"{type(network).__name__}: layer(s) {', '.join(map(str, sorted(missed)))} were not "
            "masked; this attention is not supported"
        )


@contextmanager
def _native(modules: list[nn.Module], rate: float, seed: int):
    places = [next((n for n in PLACES if hasattr(m, n)), None) for m in modules]
    if None in places:
        raise ValueError(f"{type(modules[0]).__name__} has no dropout of its own")
    holders = [
        (place, "p") if isinstance(place, nn.Dropout) else (module, name)
        for module, name in zip(modules, places, strict=True)
        for place in [getattr(module, name)]
    ]
    before = [getattr(holder, name) for holder, name in holders]
    device = next(modules[0].parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for module, (holder, name) in zip(modules, holders, strict=True):
                setattr(holder, name, rate)
                module.training = True
            yield
        finally:
            for module, (holder, name), value in zip(modules, holders, before, strict=True):
                setattr(holder, name, value)
                module.training = False


def _masked_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **kwargs
):
    """Attention step by step, as the library's eager one, with the masks of this module."""
    unknown = {name for name, setting in kwargs.items() if setting is not None} - KNOWN
    if unknown:
        raise NotImplementedError(
            f"{type(module).__name__} asks for {', '.join(sorted(unknown))}, which attention "
            "dropout does not know"
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        weights = softcap * torch.tanh(weights / softcap)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    state = getattr(module, "uqlib_dropout", None)
    if state is not None:
        weights = _drop(weights, module.layer_idx, state)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _drop(weights: torch.Tensor, layer: int, state: _State) -> torch.Tensor:
    rows, heads, queries, keys = weights.shape
    seeds = state.seeds.to(weights.device)
    if len(seeds) not in (1, rows):
        raise ValueError(f"{len(seeds)} seeds for a batch of {rows} rows")
    keep = dropout_mask(seeds, layer, heads, queries, keys, state.rate)
    dropped = weights.masked_fill(~keep, 0).div_(1 - state.rate)
    if state.heads is not None:
        others = [head for head in range(heads) if head not in state.heads]
        dropped[:, others] = weights[:, others]
    if state.positions is not None:
        others = [i for i in range(queries) if keys - queries + i not in state.positions]
        dropped[:, :, others] = weights[:, :, others]
    state.masked.add(layer)
    return dropped


AttentionInterface.register(NAME, _masked_attention)
AttentionMaskInterface.register(NAME, eager_mask)
