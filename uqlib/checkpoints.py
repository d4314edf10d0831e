"""Checkpoints of a training run: one safetensors file, written whole or not at all."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from uqlib.artifacts import write_atomically


def save_checkpoint(path: Path, model, optimizer, state: dict) -> None:
    """Save the weights in training, the moments of AdamW and a JSON-like state.

    Parameters
    ----------
    path : Path
    model : torch.nn.Module
        Parameters that ask for no gradient are left out.
    optimizer : torch.optim.AdamW
        Of the others.
    state : dict
        Anything JSON can hold.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[f"weight {name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key} {name}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"state": json.dumps(state)}
    write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))


def load_checkpoint(path: Path, model, optimizer) -> dict:
    """Put a checkpoint back, in place, and return its state.

    Examples
    --------
    >>> import tempfile, torch
    >>> layer, folder = torch.nn.Linear(2, 1), Path(tempfile.mkdtemp())
    >>> optimizer = torch.optim.AdamW(layer.parameters())
    >>> save_checkpoint(folder / "a.safetensors", layer, optimizer, {"step": 3})
    >>> load_checkpoint(folder / "a.safetensors", layer, optimizer)
    {'step': 3}
    """
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, name = key.split(" ", maxsplit=1)
        if kind == "weight":
            parameters[name].data.copy_(value)
        else:
            place = "cpu" if kind == "step" else parameters[name].device
            optimizer.state[parameters[name]][kind] = value.to(place)
    return checkpoint_state(path)


def checkpoint_state(path: Path) -> dict:
    """Read the state of a checkpoint without its tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"])
