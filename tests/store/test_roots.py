"""Two libraries in one store: equal ids of different images are refused, or kept apart, unless a library has moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_checkpoint, golden_images
from support.score_job import golden_options, run_artimuse
from support.stores import complete, open_store, plan_for

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import StoreMismatch
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.manifest.manifest import Manifest, ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.store import roots
from jobs.store.fingerprints import fingerprint_of
from jobs.store.plan_progress import PlanProgress
from jobs.store.roots import note_of_move, note_of_other_ids, refuse_other_library, take_over_uris
from jobs.store.store import Store


def _card(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(f"{folder.name} {name}".encode())
    return str(folder)


def _plan(store: Store, source: str, plan_id: str, prefix: str | None = None) -> PlanProgress:
    manifest = open_manifest(source, ManifestOptions(id_prefix=prefix))
    return PlanProgress.begin(store, manifest, plan_id, check=lambda plan: refuse_other_library(store, plan, manifest))


def _uris(store: Store) -> dict[str, str]:
    return {row["image_id"]: row["uri"] for row in pq.read_table(f"{store.place.root}/scores").to_pylist()}


def test_equal_names_on_two_cards_are_refused_or_kept_apart_by_a_prefix(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    one, two = _card(tmp_path / "one", "1.JPG", "2.JPG"), _card(tmp_path / "second", "2.JPG", "3.JPG", "4.JPG")
    complete(store, _plan(store, one, "p").plan)
    with pytest.raises(StoreMismatch) as refused:
        _plan(store, two, "q")
    message = str(refused.value)
    assert f"has images of {one}, and 1 other images of {two} have the same ids, such as '2.JPG'" in message
    assert "Add --id-prefix second/ to keep both" in message
    assert not store.place.files("_runs/q")
    complete(store, _plan(store, two, "r", "second/").plan)
    assert sorted(_uris(store)) == ["1.JPG", "2.JPG", "second/2.JPG", "second/3.JPG", "second/4.JPG"]
    assert _uris(store)["second/2.JPG"] == f"{two}/2.JPG"
    assert _plan(store, two, "s", "second/").plan.rows == _plan(store, one, "t").plan.rows == 0
    # A changed picture of either card is no other library's.
    (tmp_path / "second" / "2.JPG").write_bytes(b"changed")
    assert _plan(store, two, "u", "second/").plan.rows == 1


def test_a_library_that_moved_is_the_same_although_some_of_it_changed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    complete(store, _plan(store, _card(tmp_path / "one", "1.JPG", "2.JPG", "3.JPG"), "p").plan)
    assert note_of_move(store, open_manifest(str(tmp_path / "one")), store.table_files()) is None
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "moved" / "3.JPG").write_bytes(b"changed")
    plan = _plan(store, str(tmp_path / "moved"), "q").plan
    assert plan.rows == 1
    complete(store, plan)
    moved = open_manifest(str(tmp_path / "moved"))
    assert note_of_move(store, moved, store.table_files()) == (
        f"{tmp_path}/out: images of {tmp_path}/one are in {tmp_path}/moved now; --moved notes that in their rows."
    )
    assert take_over_uris(store, moved) == 2
    assert take_over_uris(store, moved) == 0
    assert note_of_move(store, moved, store.table_files()) is None
    assert _uris(store) == {f"{number}.JPG": f"{tmp_path}/moved/{number}.JPG" for number in (1, 2, 3)}


def test_uris_that_are_taken_over_have_no_secrets(tmp_path: Path) -> None:
    def manifest(host: str, signature: str) -> Manifest:
        uris = [f"https://user:pw@{host}/{name}.jpg?X-Amz-Signature={signature}" for name in "ab"]
        pq.write_table(pa.table({"image_id": ["a", "b"], "uri": uris}), tmp_path / "m.parquet")
        return open_manifest(str(tmp_path / "m.parquet"))

    store = open_store(tmp_path / "out")
    first = manifest("old", "1")
    complete(store, PlanProgress.begin(store, first, "p").plan)
    assert take_over_uris(store, manifest("new", "2")) == 2
    assert _uris(store) == {name: f"https://…@new/{name}.jpg?X-Amz-Signature=…" for name in "ab"}
    assert take_over_uris(store, manifest("new", "3")) == 0  # signatures are others every night


def test_uris_are_taken_over_a_few_files_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "_FILES_AT_ONCE", 2)
    store = open_store(tmp_path / "out")
    names = [f"{number}.JPG" for number in range(10)]
    complete(store, plan_for(store, _card(tmp_path / "one", *names), "p", shard_rows=2))
    _card(tmp_path / "moved", *names[3:])
    assert take_over_uris(store, open_manifest(str(tmp_path / "moved"))) == 7
    assert _uris(store) == {name: f"{tmp_path}/{'moved' if name > '2.JPG' else 'one'}/{name}" for name in names}


def test_images_that_are_there_under_other_ids_are_said(tmp_path: Path) -> None:
    store, photos = open_store(tmp_path / "out"), tmp_path / "photos"
    photos.mkdir()
    card = _card(photos / "card", "1.JPG", "2.JPG")
    complete(store, _plan(store, card, "p").plan)

    def said(source: str, plan_id: str, prefix: str | None = None) -> str | None:
        plan = _plan(store, source, plan_id, prefix).plan
        manifest = open_manifest(source, ManifestOptions(id_prefix=prefix))
        return note_of_other_ids(store, plan, manifest, store.table_files())

    assert said(card, "q") is None
    note = f"{tmp_path}/out has {card}/1.JPG as '1.JPG', and it is scored again as "
    for plan_id, source, prefix, new_id in (("r", str(photos), None, "card/1.JPG"), ("s", card, "x/", "x/1.JPG")):
        found = said(source, plan_id, prefix)
        assert found is not None
        assert found.startswith(f"{note}{new_id!r}.")
    (photos / "card" / "3.JPG").write_bytes(b"new")
    assert said(card, "t") is None
    complete(store, _plan(store, str(photos), "u").plan)
    (photos / "4.JPG").write_bytes(b"new")
    assert said(str(photos), "v") is None  # what is done is done


@pytest.mark.process  # one that decodes
def test_a_library_copied_without_its_times_is_the_same_if_the_user_says_so(tmp_path: Path) -> None:
    checkpoint = str(golden_checkpoint("artimuse"))
    fingerprint = fingerprint_of(identify_checkpoint(checkpoint), ARTIMUSE, DecodeOptions())
    store = open_store(tmp_path / "out", fingerprint=fingerprint)
    one = _card(tmp_path / "one", "1.JPG")
    complete(store, _plan(store, one, "p").plan)
    shutil.copytree(one, tmp_path / "copy", copy_function=shutil.copyfile)
    options = ("score", tmp_path / "copy", "--out", tmp_path / "out", "--checkpoint", checkpoint)
    done = run_artimuse(*options, "--protocol", "artimuse", code=1)
    assert "say --moved if these are the images of" in done.stderr
    run_artimuse(*options, "--protocol", "artimuse", "--moved")
    assert _uris(store) == {"1.JPG": f"{tmp_path}/copy/1.JPG"}


def test_ids_of_a_manifest_are_the_users_own(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    for number in (1, 2):
        source = str(tmp_path / "m.parquet")
        pq.write_table(pq.read_table(_rows(tmp_path, number)), source)
        complete(store, _plan(store, source, f"p{number}").plan)
    assert _uris(store) == {"a.jpg": "https://host2/a.jpg"}


def _rows(folder: Path, number: int) -> Path:
    path = folder / f"{number}.parquet"
    columns = {"image_id": ["a.jpg"], "uri": [f"https://host{number}/a.jpg"], "version": [str(number)]}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.process
def test_each_night_says_that_a_library_has_moved_until_its_rows_say_so_too(tmp_path: Path) -> None:
    photos, moved, out = tmp_path / "photos", tmp_path / "moved", tmp_path / "out"
    photos.mkdir()
    for picture in golden_images()[:3]:
        shutil.copy2(picture, photos)
    note = f"images of {photos} are in {moved} now"

    def notes(library: Path, *options: str) -> str:
        return run_artimuse("score", library, "--out", out, *golden_options(), "--local", *options).stderr

    assert note not in notes(photos)
    photos.rename(moved)
    assert [note in notes(moved) for _ in range(3)] == [True] * 3
    assert "3 rows have new uris" in notes(moved, "--moved")
    assert note not in notes(moved)
    assert list(_uris(Store.open(str(out))).values()) == sorted(map(str, moved.iterdir()))
