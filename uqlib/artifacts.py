"""Files that are whole or absent: tables with a manifest, written at once and read with checks."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from uqlib.paths import display_path

MANIFEST_KEY = b"uqlib.manifest"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, sync it to disk and give it its name.

    Whatever happens, `path` is afterwards the old file or the whole new one; a failed write leaves
    no temporary file behind.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_atomically(folder / "a.txt", lambda file: file.write_text("whole") and None)
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda file: _write_utf8(file, text))


def _write_utf8(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a tidy table of results as CSV, atomically, without its index."""
    write_atomically(path, lambda file: frame.to_csv(file, index=False))


def write_parquet(frame: pd.DataFrame, path: Path, manifest: dict, schema: pa.Schema) -> None:
    """Write a table as parquet, atomically, with its manifest in the schema metadata.

    Parameters
    ----------
    frame : DataFrame
    path : Path
    manifest : dict
        JSON-serialisable and free of anything that varies from run to run, so that equal work
        gives equal bytes.
    schema : pyarrow.Schema
        Names and types of the columns to write.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a value does not fit its column's type.
    """
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    metadata = {MANIFEST_KEY: json.dumps(manifest, sort_keys=True).encode()}
    table = table.replace_schema_metadata(metadata)
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file; lists come back as numpy arrays.

    Raises
    ------
    ValueError
        If the file is no whole parquet file; the message names it.
    """
    try:
        return pq.read_table(path).to_pandas()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{display_path(path)} cannot be read as parquet: {error}") from None


def read_manifest(path: Path) -> dict:
    """Return the manifest of a parquet file written by `write_parquet`.

    Raises
    ------
    ValueError
        If the file has none; the message names it.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(f"{display_path(path)} cannot be read as parquet: {error}") from None
    if MANIFEST_KEY not in metadata:
        raise ValueError(f"{display_path(path)} has no manifest: it was not written by uqlib")
    return json.loads(metadata[MANIFEST_KEY])


def manifest_difference(found: dict, expected: dict) -> list[str]:
    """Name what differs between two manifests, one line a key.

    Examples
    --------
    >>> manifest_difference({"dtype": "float32", "seed": 0}, {"dtype": "bfloat16", "seed": 0})
    ['dtype: float32 instead of bfloat16']
    """
    keys = sorted(found.keys() | expected.keys())
    return [
        f"{key}: {found.get(key)} instead of {expected.get(key)}"
        for key in keys
        if found.get(key) != expected.get(key)
    ]


@contextmanager
def only_one(folder: Path):
    """Let one process at a time work in a folder, by a lock that vanishes with the process.

    Raises
    ------
    RuntimeError
        If another process holds the lock.

    Examples
    --------
    >>> with only_one(Path(tempfile.mkdtemp())):
    ...     print("alone")
    alone
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process is at work in {display_path(folder)}") from None
        yield


def sha256_of(*parts: str | bytes) -> str:
    """SHA-256 of texts or bytes, in order, as 64 hexadecimal digits.

    Examples
    --------
    >>> sha256_of("a", "b")[:8] == sha256_of("ab")[:8]
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as printed by ``sha256sum``."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of a table's content, the same whatever file it came from.

    Examples
    --------
    >>> a = pd.DataFrame({"x": [[1, 2], [3]]})
    >>> table_hash(a) == table_hash(a.copy()), table_hash(a) == table_hash(a[::-1])
    (True, False)
    """
    return sha256_of(frame.to_json(orient="values", double_precision=15))
