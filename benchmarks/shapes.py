"""The randomly initialised models that are timed, what their products cost, and on what device."""

import platform
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "llama-2m": {
        "vocab_size": 49_152,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-20m": {
        "vocab_size": 49_152,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-3.2-3b": {
        "vocab_size": 128_256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
}


def make_model(shape: str, dtype=torch.float32, device="cpu", **changes) -> LlamaForCausalLM:
    config = LlamaConfig(**SHAPES[shape] | {"bos_token_id": 0, "eos_token_id": 0} | changes)
    torch.manual_seed(0)
    with torch.device(device):
        network = LlamaForCausalLM(config)
    return network.to(dtype).eval()


def layer_products(shape: str) -> list[tuple[int, int]]:
    """Inputs and outputs of every weight matrix of one layer."""
    s = SHAPES[shape]
    hidden, inner = s["hidden_size"], s["intermediate_size"]
    keys = hidden * s["num_key_value_heads"] // s["num_attention_heads"]
    return [
        (hidden, hidden),
        (hidden, keys),
        (hidden, keys),
        (hidden, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ]


def product_flops(shape: str, tokens: int, prompts: int) -> float:
    """Operations in all products with weights: the layers for each token, the head for a prompt."""
    s = SHAPES[shape]
    layer = sum(2 * a * b for a, b in layer_products(shape))
    head = 2 * s["hidden_size"] * s["vocab_size"]
    return tokens * s["num_hidden_layers"] * layer + prompts * head


def product_rate(
    shape: str, tokens: int, dtype, device: str, seconds: float = 3, clock=time.perf_counter
) -> float:
    """Measured operations a second in the layers' products, on `tokens` tokens at a time.

    Every layer has weights of its own, as in the model, so that they are read from memory.
    """
    make = {"dtype": dtype, "device": device}
    weights = [
        torch.randn(b, a, **make)
        for _ in range(SHAPES[shape]["num_hidden_layers"])
        for a, b in layer_products(shape)
    ]
    inputs = {a: torch.randn(tokens, a, **make) for a, _ in layer_products(shape)}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def products():
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        wait()

    with torch.inference_mode():
        products()
        repeats, started = 0, clock()
        while clock() - started < seconds:
            products()
            repeats += 1
    elapsed = clock() - started
    return repeats * tokens * sum(2 * weight.numel() for weight in weights) / elapsed


def device_name(device):
    """Name the graphics card, or the processor, that a record was made on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
