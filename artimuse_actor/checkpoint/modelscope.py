"""A checkpoint on ModelScope, fetched by its own package (the extra `modelscope`).

`MODELSCOPE_ENDPOINT` and `MODELSCOPE_API_TOKEN` mean what they mean everywhere. Branches move there. So each set of
files, known by their SHA-256s, has a folder of its own in this project's cache, made once for each node and never
changed. If the hub cannot be reached, the set that the branch had last is taken.
"""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from artimuse_actor.checkpoint.checkpoint import DATA_FILES
from artimuse_actor.checkpoint.digest import cache_folder, remember_file_digest
from artimuse_actor.checkpoint.file_lock import file_lock
from artimuse_actor.errors import CheckpointError, message_of
from artimuse_actor.whole_file import whole_file

SCHEME: Final = "modelscope://"
OWNER: Final = "thunderbolt"
BRANCH: Final = "master"
_WHOLE: Final = ".whole"


def download(repository: str, revision: str | None = None) -> Path:
    """Fetch a repository's data files; what is there already is not fetched again.

    Args:
        repository: `owner/name`.
        revision: a branch, tag or commit; `master` by default.

    Raises:
        CheckpointError: the package is not installed, or the hub has no such repository or revision, refuses it, or
            cannot be reached.
    """
    try:
        from modelscope_hub import HubApi, HubConfig
        from modelscope_hub.errors import (
            AuthenticationError,
            HubError,
            NetworkError,
            NotExistError,
            PermissionDeniedError,
        )
    except ImportError as error:
        raise CheckpointError(
            f"{SCHEME}{repository}: install the package `modelscope-hub` to fetch it (the extra `modelscope`)."
        ) from error
    where = f"{SCHEME}{repository}" + (f"@{revision}" if revision else "")
    cache = cache_folder() / "modelscope" / repository
    last = cache / f"{hashlib.sha256((revision or BRANCH).encode()).hexdigest()[:16]}.json"
    try:
        hub: Any = HubApi(HubConfig())  # of the environment as it is now
        found = hub.list_repo_files(repository, "model", revision=revision or BRANCH, recursive=False)
        files = sorted(
            (file.path, file.sha256, file.size) for file in found if _is_data(file.path) and file.type != "tree"
        )
        folder = cache / hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        with file_lock(folder.with_suffix(".lock")):
            if not (folder / _WHOLE).exists():
                entries = [{"Path": path, "Sha256": sha256, "Size": size} for path, sha256, size in files]
                hub.download_repo(repository, "model", revision=revision or BRANCH, local_dir=folder, file_list=entries)
                for path, sha256, _ in files:
                    if sha256:  # the package has compared it
                        remember_file_digest(folder / path, sha256)
                (folder / _WHOLE).touch()
            with whole_file(last) as growing:
                Path(growing).write_text(json.dumps(folder.name))
        return folder
    except NotExistError as error:
        raise CheckpointError(f"{where}: ModelScope has no such repository or revision.") from error
    except (AuthenticationError, PermissionDeniedError) as error:
        raise CheckpointError(
            f"{where}: ModelScope asks for a token that may read it. Set MODELSCOPE_API_TOKEN."
        ) from error
    except NetworkError as error:
        if last.exists():
            return Path(cache / json.loads(last.read_text()))
        raise CheckpointError(
            f"{where}: ModelScope cannot be reached and the checkpoint is not, or not whole, in the cache. Check the "
            "network and MODELSCOPE_ENDPOINT, or give a local folder."
        ) from error
    except (HubError, OSError) as error:
        raise CheckpointError(
            f"{where}: the download failed ({message_of(error)}). Run again; files that are whole are kept."
        ) from error


def _is_data(path: str) -> bool:
    return "/" not in path and any(fnmatchcase(path, pattern) for pattern in DATA_FILES)
