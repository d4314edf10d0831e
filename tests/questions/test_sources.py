import pytest

from uqlib.artifacts import sha256_of_file
from uqlib.paths import data_folder
from uqlib.questions import sources


def test_every_file_has_a_checksum_and_a_pinned_address():
    for name, (checksum, address) in sources.registry().items():
        assert checksum.startswith("sha256:") and len(checksum) == 71
        assert address.startswith("https://") and address.endswith(name.rsplit("/", 1)[1])


def test_an_empty_data_folder_misses_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("UQLIB_DATA", str(tmp_path))
    assert len(sources.missing_files("coane")) == 31


def test_a_changed_file_is_not_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("UQLIB_DATA", str(tmp_path))

    def unreachable(address, checksum, fname, path):
        assert (path / fname).read_bytes() == b"changed" or not (path / fname).exists()
        raise ConnectionError("no network")

    (tmp_path / "published/coane").mkdir(parents=True)
    (tmp_path / sources.files_of("coane")[0]).write_bytes(b"changed")
    monkeypatch.setattr(sources.pooch, "retrieve", unreachable)
    with pytest.raises(OSError, match="no network"):
        sources.fetch("coane")


@pytest.mark.parametrize("source", sources.FOLDERS)
def test_present_files_have_their_checksums(source):
    if sources.missing_files(source):
        pytest.skip(f"{source} is not in the data folder")
    for name in sources.files_of(source):
        assert sources.registry()[name][0] == "sha256:" + sha256_of_file(data_folder() / name)
