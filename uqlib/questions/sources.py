"""Data files: where each public one comes from, its checksum and download; where yours belong."""

from importlib import resources
from pathlib import Path

import pooch
from tqdm import tqdm

from uqlib.paths import data_folder

FOLDERS = {
    "coane": "published/coane",
    "mmlu": "mmlu/test",
    "moral_machine": "moral_machine",
    "protoqa": "published/protoqa",
}


def registry() -> dict[str, tuple[str, str]]:
    """Return checksum and address of every public file, by its path in the data folder.

    Examples
    --------
    >>> checksum, address = registry()["published/coane/coane_data.parquet"]
    >>> checksum[:15], address.rsplit("/", 1)[1]
    ('sha256:902b84da', 'coane_data.parquet')
    """
    text = resources.files("uqlib.questions").joinpath("registry.txt").read_text()
    rows = (line.split() for line in text.splitlines())
    return {name: (checksum, address) for name, checksum, address in rows}


def brought() -> dict[str, list[str]]:
    """Return the files that readers bring, by source, relative to the data folder.

    No public file with just this content and a checksum is known, so nothing downloads them. Where
    they are, chapters use them.

    Examples
    --------
    >>> brought()["gss"], len(brought()["mmlu_dev"])
    (['survey/gss_latest_year.csv'], 57)
    """
    return {
        "mmlu_dev": [f.replace("/test/", "/dev/")[:-9] + "_dev.csv" for f in files_of("mmlu")],
        "gss": ["survey/gss_latest_year.csv"],
        "gss_subpop": ["survey/gss_subpop_eval_joined.csv"],
        "tinystories": [
            f"models/tinystories-656k/{name}"
            for name in ("config.json", "model.safetensors", "tokenizer.json")
        ],
    }


def files_of(source: str) -> list[str]:
    """Return the files of one source (a key of `FOLDERS` or `brought`), as in the data folder.

    Examples
    --------
    >>> [len(files_of(source)) for source in ("coane", "mmlu", "protoqa", "gss")]
    [31, 57, 11, 1]
    """
    if source not in FOLDERS:
        return brought()[source]
    return [name for name in registry() if name.startswith(FOLDERS[source] + "/")]


def missing_files(source: str) -> list[str]:
    """Return the files of a source that the data folder lacks; empty when it is complete."""
    return [name for name in files_of(source) if not (data_folder() / name).exists()]


def fetch(source: str) -> Path:
    """Return the folder of a source, every file downloaded if need be and its checksum verified.

    Raises
    ------
    OSError
        If a file is absent and cannot be downloaded.
    ValueError
        If a file differs from its checksum; the message names it.
    """
    files = registry()
    folder = data_folder()
    for name in tqdm(files_of(source), desc=source, unit="file"):
        checksum, address = files[name]
        pooch.retrieve(address, checksum, fname=Path(name).name, path=(folder / name).parent)
    return folder / FOLDERS[source]
