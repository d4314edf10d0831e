"""Models and option tokens: loading from a hub id or a folder, and what a label is in context."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uqlib.artifacts import sha256_of, sha256_of_file
from uqlib.paths import model_name, resolve
from uqlib.prompts import LABEL_STYLES, label_spellings, template


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model ready to be asked.

    Attributes
    ----------
    name : str
        The hub id with ``/`` written ``--``, or the folder's name.
    network : PreTrainedModel
        In evaluation mode.
    tokenizer : PreTrainedTokenizerBase
    identity : dict
        What the manifest says of it: id, commit or hash of the weights, vocabulary size, dtype,
        device type, hash of the tokenizer.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: dict


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a hub id or a folder, without running code that comes with it."""
    with _naming(model):
        return AutoTokenizer.from_pretrained(
            _place(model), revision=revision, trust_remote_code=False
        )


def load_model(
    model: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    quantization: str = "",
    attention: str = "",
) -> LanguageModel:
    """Load a model and its tokenizer.

    Parameters
    ----------
    model : str
        A hub id, or a folder (relative to the project's root or absolute).
    revision : str, optional
        Branch, tag or commit on the hub; the commit it resolves to is recorded.
    dtype : str
        `float32`, `bfloat16` or `float16`.
    device : str
        `cpu`, `cuda`, `mps`, or `auto`: the first of cuda, mps, cpu that is there. `spread` lays
        the model over all GPUs of the machine (needs the package accelerate).
    quantization : {"", "4bit", "8bit"}
        Weights quantised on loading by bitsandbytes; needs a CUDA GPU.
    attention : str
        Attention implementation (`eager`, `sdpa`, `flash_attention_2`); empty: the model's default.

    Returns
    -------
    LanguageModel

    Raises
    ------
    OSError
        If the model is missing or gated; the hub's own message is passed on.
    ValueError
        If dtype or quantization is unknown.

    Notes
    -----
    Only safetensors weights are read, and no code that comes with a model is run.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, bfloat16, float16")
    if quantization not in ("", "4bit", "8bit"):
        raise ValueError(f"unknown quantization {quantization!r}; known: 4bit, 8bit")
    place = _place(model)
    tokenizer = load_tokenizer(model, revision)
    settings = {"device_map": "auto"} if device == "spread" else {}
    if quantization:
        settings["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{quantization}": True})
    if attention:
        settings["attn_implementation"] = attention
    with _naming(model):
        network = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            **settings,
        )
    if device != "spread" and not quantization:
        network = network.to(_device(device))
    network = network.eval()
    identity = {
        "model": model_name(model),
        "weights": _weights_identity(place, network),
        "vocabulary_size": network.config.get_text_config().vocab_size,
        "dtype": dtype,
        "quantization": quantization,
        "attention": network.config._attn_implementation,
        "device_type": network.device.type,
        "tokenizer": tokenizer_hash(tokenizer),
    }
    return LanguageModel(model_name(model), network, tokenizer, identity)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's vocabulary, rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else str(sorted(tokenizer.get_vocab().items()))
    special = str(sorted(tokenizer.special_tokens_map.items()))
    return sha256_of(rules, special, str(tokenizer.chat_template))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], bos: bool = True
) -> list[list[int]]:
    """Encode prompts, with the beginning-of-sequence token once if the tokenizer sets one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    prompts : list of str
    bos : bool
        False leaves the token out, as the released code of Moore et al. (2025) did.

    Returns
    -------
    list of list of int
        No end-of-sequence token, no padding, nothing truncated.
    """
    if not prompts:
        return []
    sets_bos = tokenizer.bos_token_id in tokenizer("A").input_ids
    start = [tokenizer.bos_token_id] if bos and sets_bos else []
    encoded = tokenizer(prompts, add_special_tokens=False).input_ids
    return [start + ids for ids in encoded]


def as_chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Wrap a prompt as a user's message with the tokenizer's own chat template.

    Returns
    -------
    str
        Ends where the assistant's answer begins, so a label there is usually `bare`. Holds the
        beginning-of-sequence token if the template sets one.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError("this tokenizer has no chat template")
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def option_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    labels: list[str],
    label_style: str = "space",
    joint: bool = True,
) -> list[list[int]]:
    """Find the tokens that stand for each option label right after a prompt.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    prompt : str
    labels : list of str
    label_style : {"space", "bare", "sum"}
    joint : bool
        Encode prompt and label together, as the model would see them, and demand that the label is
        one token after the unchanged tokens of the prompt. False encodes the label alone.

    Returns
    -------
    list of list of int
        For each label its token, or with `sum` the tokens of its spellings.

    Raises
    ------
    ValueError
        If a label is not exactly one token; the message names a style that works, if there is one.
    """
    found = _option_tokens(tokenizer, prompt, labels, label_style, joint)
    if all(found):
        return found
    failed = labels[found.index([])]
    works = [
        style
        for style in LABEL_STYLES
        if style != label_style and all(_option_tokens(tokenizer, prompt, labels, style, joint))
    ]
    spelling = label_spellings(failed, label_style)[0]
    advice = f'label_style="{works[0]}" works' if works else "no label style works"
    raise ValueError(
        f'label {spelling!r} (label_style="{label_style}") is not exactly one token after the '
        f"prompt's end {prompt[-10:]!r} with this tokenizer; {advice} here"
    )


def _option_tokens(tokenizer, prompt, labels, label_style, joint) -> list[list[int]]:
    context = tokenizer(prompt, add_special_tokens=False).input_ids if joint else []
    tokens = []
    for label in labels:
        texts = [(prompt if joint else "") + s for s in label_spellings(label, label_style)]
        encoded = tokenizer(texts, add_special_tokens=False).input_ids
        ids = {i[-1] for i in encoded if len(i) == len(context) + 1 and i[:-1] == context}
        tokens.append(sorted(ids - {tokenizer.unk_token_id}))
    return tokens


def prompt_option_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    labels: list[list[str]],
    prompt_style: str,
    label_style: str,
) -> list[list[list[int]]]:
    """Find the option tokens of many prompts, one entry a prompt; see `option_tokens`.

    Prompts of the same labels whose last four tokens agree share one answer: a label can only be
    joined to the tokens it touches.

    Raises
    ------
    ValueError
        If a label is not exactly one token, or the two styles do not go together.
    """
    joint = template(prompt_style).joint
    if not joint and label_style != "bare":
        raise ValueError(f'prompt style "{prompt_style}" asks for label_style="bare"')
    endings = [tuple(ids[-4:]) for ids in encode_prompts(tokenizer, prompts, bos=False)]
    keys = [(end, tuple(names)) for end, names in zip(endings, labels, strict=True)]
    prompt_of = dict(zip(keys, prompts, strict=True))
    tokens = {
        key: option_tokens(tokenizer, prompt, list(key[1]), label_style, joint)
        for key, prompt in prompt_of.items()
    }
    return [tokens[key] for key in keys]


@contextmanager
def _naming(model: str):
    try:
        yield
    except OSError as error:
        raise OSError(f"{model}: {error}") from error


def _place(model: str) -> str:
    folder = resolve(model)
    return str(folder) if folder.is_dir() else model


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _weights_identity(place: str, network: PreTrainedModel) -> str:
    if not Path(place).is_dir():
        return f"commit {network.config._commit_hash}"
    files = sorted(Path(place).glob("*.safetensors"))
    return "sha256 " + sha256_of(*(sha256_of_file(file) for file in files))
