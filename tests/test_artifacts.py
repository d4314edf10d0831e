import os

import pandas as pd
import pyarrow as pa
import pytest

from uqlib import artifacts


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    artifacts.write_table(pd.DataFrame({"x": [1]}), path)

    def fail_halfway(file):
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        artifacts.write_atomically(path, fail_halfway)
    assert pd.read_csv(path).x.tolist() == [1]
    assert os.listdir(tmp_path) == ["table.csv"]


def test_equal_tables_give_equal_bytes_with_their_manifest(tmp_path):
    frame, schema = pd.DataFrame({"x": [1.5, 2.5]}), pa.schema([("x", pa.float32())])
    for name in "ab":
        artifacts.write_parquet(frame, tmp_path / name, {"seed": 1, "model": "m"}, schema)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert artifacts.read_manifest(tmp_path / "a") == {"seed": 1, "model": "m"}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but long enough"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "shard.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"shard.parquet cannot be read"):
        artifacts.read_parquet(tmp_path / "shard.parquet")
    with pytest.raises(ValueError, match=r"shard.parquet cannot be read"):
        artifacts.read_manifest(tmp_path / "shard.parquet")


def test_a_file_of_others_has_no_manifest(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match="no manifest"):
        artifacts.read_manifest(tmp_path / "foreign.parquet")


def test_a_value_that_does_not_fit_its_column_is_refused(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        artifacts.write_parquet(
            pd.DataFrame({"x": ["a"]}), tmp_path / "x", {}, pa.schema([("x", pa.int32())])
        )
    assert not list(tmp_path.iterdir())


def test_file_hash_is_the_one_of_sha256sum(tmp_path):
    # echo -n abc | sha256sum
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256_of_file(tmp_path / "abc") == expected


def test_a_folder_has_one_worker_at_a_time(tmp_path):
    folder = tmp_path / "classroom"
    with (
        artifacts.only_one(folder),
        pytest.raises(RuntimeError, match="another process is at work in classroom"),
        artifacts.only_one(folder),
    ):
        pass
    with artifacts.only_one(folder):
        assert (folder / ".lock").exists()
