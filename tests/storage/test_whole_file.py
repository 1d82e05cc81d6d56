"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artimuse_actor.errors import StoreError
from artimuse_actor.whole_file import whole_file
from jobs.storage.user_files import write_user_file


def test_a_file_appears_when_it_is_complete_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with whole_file(path) as growing:
        Path(growing).write_text("ne")
        assert path.read_text() == "old"
        assert Path(growing).name.startswith(".")
        Path(growing).write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize("name", ["写" * 80 + ".parquet", "a" + "😀" * 60 + ".parquet"])
def test_a_file_may_have_a_long_name_in_any_script(tmp_path: Path, name: str) -> None:
    with write_user_file(str(tmp_path / name)) as growing:
        pq.write_table(pa.table({"a": [1]}), growing)  # which takes no path that is not UTF-8
    assert os.listdir(tmp_path) == [name]


def test_what_was_there_stays_if_the_new_file_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with suppress(ZeroDivisionError), whole_file(path) as growing:
        Path(growing).write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_that_was_never_begun_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_file_of_the_users_gets_its_folder_and_a_sentence_if_it_cannot_be_written(tmp_path: Path) -> None:
    with write_user_file(f"file://{tmp_path}/new/folder/a.txt") as growing:
        Path(growing).write_text("a")
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "a"
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/a\.txt: cannot be written"), write_user_file(f"{tmp_path}/file/a.txt"):
        pass
