"""A checkpoint's name → its folder, fetched from the Hugging Face hub, ModelScope or a bucket if need be.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean everywhere. Only data files are fetched,
once for each node: huggingface_hub locks each file that it fetches, and `bucket` the whole folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from artimuse_actor.checkpoint import modelscope
from artimuse_actor.checkpoint.checkpoint import CONFIG_FILE, DATA_FILES, Checkpoint, CheckpointIdentity
from artimuse_actor.errors import CheckpointError, UsageError, message_of
from artimuse_actor.uris import canonical_uri, in_bucket

if TYPE_CHECKING:
    from artimuse_actor.checkpoint.bucket import BucketCheckpoint

OWNER: Final = "Thunderbolt215215"
PUBLISHED_NAMES: Final = (
    "ArtiMuse",
    "ArtiMuse_AVA",
    "ArtiMuse_FLICKR-AES",
    "ArtiMuse_PARA",
    "ArtiMuse_TAD66K",
    "UniPercept",
)
HUGGING_FACE: Final = "huggingface"
HUBS: Final = (HUGGING_FACE, "modelscope")
"""Hubs that checkpoints are named on."""

_REPOSITORY = re.compile(r"(?P<repo>(?:[\w.-]+/)?[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def named_on(hub: str, name: str) -> str:
    """A checkpoint's name as `open_checkpoint` takes it, if published names and `owner/name` are those of this hub.

    Raises:
        UsageError: there is no such hub.
    """
    if hub not in HUBS:
        raise UsageError(f"--hub takes {' or '.join(HUBS)}, not {hub!r}.")
    is_name = "://" not in name and not os.path.exists(os.path.expanduser(name))
    return f"{modelscope.SCHEME}{name}" if hub != HUGGING_FACE and is_name else name


def identify_checkpoint(name: str, *, fetch: bool = True) -> CheckpointIdentity:
    """Check the checkpoint of that name or folder, and return its identity.

    Args:
        name: as of `open_checkpoint`.
        fetch: whether a folder in a bucket is copied to this node. If not, it is read once and not stored, so that a
            node without a large disk can do this.

    Raises:
        CheckpointError: as `open_checkpoint`.
    """
    if in_bucket(canonical_uri(name)) and not fetch:
        return _in_bucket(name).identity()
    return open_checkpoint(name).identity


def open_checkpoint(name: str) -> Checkpoint:
    """The checkpoint of that name or folder, checked.

    Args:
        name: a local folder; a folder in a bucket (s3://, gs://, az://); one of `PUBLISHED_NAMES`; or `owner/name`; the
            last two with `@revision` if wanted, and with `modelscope://` before them from there.

    Raises:
        CheckpointError: there is none, it cannot be fetched, or it is not well-formed.
    """
    if in_bucket(canonical_uri(name)):
        return _in_bucket(name).open()
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return Checkpoint(Path(folder))
    if os.path.exists(folder):
        raise CheckpointError(f"{name}: is a file. Name the folder that holds {CONFIG_FILE} and the weights.")
    fetch, owner, named = download, OWNER, name
    if name.startswith(modelscope.SCHEME):
        fetch, owner, named = modelscope.download, modelscope.OWNER, name.removeprefix(modelscope.SCHEME)
    repository, revision = _repository(named, owner)
    return Checkpoint(fetch(repository, revision), name=repository.split("/")[1] + (f"@{revision}" if revision else ""))


def _in_bucket(uri: str) -> BucketCheckpoint:
    # Imported here: botocore takes a third of a second.
    from artimuse_actor.checkpoint.bucket import BucketCheckpoint

    return BucketCheckpoint.find(uri)


def _repository(name: str, owner: str) -> tuple[str, str | None]:
    match = _REPOSITORY.fullmatch(name)
    if match is None or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: there is no such folder. Check the path, or name a published checkpoint.")
    repository, revision = match["repo"], match["revision"]
    if "/" not in repository:
        if repository not in PUBLISHED_NAMES:
            raise CheckpointError(
                f"{name}: there is no such folder, and no published checkpoint of that name. "
                f"Published are {', '.join(PUBLISHED_NAMES)}; for others give owner/name or a folder."
            )
        repository = f"{owner}/{repository}"
    return repository, revision


def download(repository: str, revision: str | None = None) -> Path:
    """Fetch a repository's data files into the hub's cache; what is there already is not fetched again.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit.

    Raises:
        CheckpointError: the hub has no such repository or revision, refuses it, or cannot be reached.
    """
    # Imported here: huggingface_hub takes a third of a second, and a local folder does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}@{revision}" if revision else repository
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(DATA_FILES),
                ignore_patterns=["*/*"],  # a `*` matches slashes too, and other folders hold other models
                endpoint=os.environ.get("HF_ENDPOINT") or None,
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{where}: the hub asks for a token that may read it. Set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: there is no such folder, and the hub has no such repository, or HF_TOKEN may not see it."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repository has no such branch, tag or commit.") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where}: the hub cannot be reached and the checkpoint is not, or not whole, in its cache. "
            "Check the network and HF_ENDPOINT, or give a local folder."
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{where}: there is no such folder, and no repository can have this name.") from error
    except Exception as error:  # broken connections are errors of the HTTP library, which changes between versions
        raise CheckpointError(
            f"{where}: the download failed ({message_of(error)}). Run again; files that are whole are kept."
        ) from error
