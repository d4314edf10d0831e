"""Where things are: every path of a notebook is resolved against the project's root, here."""

import os
from pathlib import Path


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds the book, else the package's own.

    Examples
    --------
    >>> (find_root(Path.cwd()) / "_toc.yml").exists()
    True
    """
    for folder in [start, *start.parents]:
        if (folder / "_toc.yml").exists() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[1]


ROOT = find_root(Path.cwd())


def resolve(path: str | Path) -> Path:
    """Return an absolute path; relative ones start at the project's root.

    Examples
    --------
    >>> resolve("zoo") == ROOT / "zoo"
    True
    """
    return (ROOT / path).resolve()


def data_folder() -> Path:
    """Return the folder of downloaded data: `UQLIB_DATA` if set, else ``data/``."""
    return resolve(os.environ.get("UQLIB_DATA") or "data")


def display_path(path: str | Path) -> str:
    """Write a path for a reader: relative to the root, or only its last part outside it.

    Examples
    --------
    >>> display_path(ROOT / "zoo" / "card.md"), display_path("/somewhere/else/table.csv")
    ('zoo/card.md', 'table.csv')
    """
    path = resolve(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def model_name(model: str) -> str:
    """Return the name a model has in paths and tables: the folder's, or the hub id without ``/``.

    Examples
    --------
    >>> model_name("meta-llama/Llama-3.2-1B"), model_name("zoo/llama-0.3m-base")
    ('meta-llama--Llama-3.2-1B', 'llama-0.3m-base')
    """
    folder = resolve(model)
    return folder.name if folder.is_dir() else model.replace("/", "--")
