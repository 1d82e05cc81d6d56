"""Names of checkpoints in folders and tables, each another one."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping

from artimuse_actor.checkpoint.checkpoint import CheckpointIdentity
from artimuse_actor.errors import UsageError


def label_checkpoints(identities: Mapping[str, CheckpointIdentity]) -> dict[str, str]:
    """Checkpoint → its own name, or that of its folder; with its digest where several have the same.

    Raises:
        UsageError: two are the same checkpoint under one name.
    """
    names = {checkpoint: _folder_name(checkpoint) for checkpoint in identities}
    shared = Counter(names.values())
    labels = {
        checkpoint: name if shared[name] == 1 else f"{name}-{identities[checkpoint].digest[:6]}"
        for checkpoint, name in names.items()
    }
    again = [checkpoint for checkpoint, label in labels.items() if Counter(labels.values())[label] > 1]
    if again:
        raise UsageError(f"{' and '.join(again)} are the same checkpoint. Name it once.")
    return labels


def _folder_name(checkpoint: str) -> str:
    """Folder name of a checkpoint's stores: its own name, or that of its folder."""
    name = (
        os.path.basename(os.path.abspath(checkpoint))
        if os.path.isdir(checkpoint)
        else checkpoint.rstrip("/").rpartition("/")[2]
    )
    return re.sub(r"[^\w.@-]+", "-", name)
