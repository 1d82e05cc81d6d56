"""The ground truth of tar files of images: fields of the JSON object beside each image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from artimuse_actor.errors import GroundTruthError
from jobs.evaluate.truth_columns import TRUTH_COLUMN, TruthColumns
from jobs.manifest.manifest import Manifest
from jobs.storage.user_files import is_unicode


def tar_truths(tars: Manifest, columns: TruthColumns) -> Iterator[pa.Table]:
    """The ground truth of tars of images: columns of theirs, or fields of the JSON object beside each image.

    Raises:
        GroundTruthError: no image has the field, or one has a key or a group that is no text.
        ManifestError: a tar cannot be read.
    """
    roles = {"group": columns.group, "cluster": columns.cluster}
    wanted = dict.fromkeys([name for name in (columns.key, columns.truth, *roles.values()) if name])
    # `gt_score` is a column of every manifest, and in tars it is empty.
    own = [name for name in wanted if name in tars.columns().names and name != TRUTH_COLUMN]
    has_json = "json" in tars.columns().names
    known: dict[str, None] = {}
    rated = False
    for batch in tars.batches([*own, *(["json"] if has_json else [])]):
        assert batch.own is not None
        objects = [_object(text) for text in batch.own["json"].to_pylist()] if has_json else [{}] * len(batch.rows)
        known |= dict.fromkeys(name for one in objects[:1000] for name in one)
        found = {
            name: batch.own[name].to_pylist() if name in own else [one.get(name) for one in objects] for name in wanted
        }
        ids = batch.rows["image_id"].to_pylist()
        keys = found[columns.key] if columns.key else ids
        truths = [_points(value) for value in found[columns.truth]]
        rated = rated or any(value is not None for value in truths)
        for image_id, key in zip(ids, keys, strict=True):
            if not isinstance(key, str | int) or isinstance(key, bool) or not is_unicode(str(key)):
                raise GroundTruthError(f"{tars.source}, {image_id}: has no `{columns.key}` that names an image.")
        made = {"key": pa.array(map(str, keys), pa.string()), "truth": pa.array(truths, pa.float64())}
        for role, name in roles.items():
            values = found[name] if name else []
            # What tells clusters may also be a pattern, which is no field.
            if name and (role == "group" or any(value is not None for value in values)):
                told = ["" if value is None else str(value) for value in values]
                if wrong := [image_id for image_id, text in zip(ids, told, strict=True) if not is_unicode(text)]:
                    raise GroundTruthError(f"{tars.source}, {wrong[0]}: `{name}` is no text.")
                made[role] = pa.array(told, pa.string())
        yield pa.table(made)
    if not rated:
        raise GroundTruthError(
            f"{tars.source}: no image has a number {columns.truth!r} beside it (its JSON has "
            f"{', '.join(list(known)[:20]) or 'no fields'}). Name another field with --truth-column, or the ground "
            "truth with --ground-truth."
        )


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _points(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
