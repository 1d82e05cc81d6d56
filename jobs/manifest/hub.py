"""Files of a data set on the Hugging Face hub: listed at the commit that its revision names now.

A file's name has that commit in it, so a run reads what was listed, whatever is pushed meanwhile. Its version is the
hash of its content: what a new commit leaves as it is, is not scored again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote, unquote

from fsspec.utils import glob_translate

from artimuse_actor.errors import ManifestError, UsageError, message_of
from jobs.manifest.braces import expand_braces
from jobs.manifest.listing import ListedFile, Listing

_SOURCE: Final = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_BARE: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MAGIC: Final = re.compile(r"[*?\[{]")
_README: Final = "README.md"


def names_data_set(source: str) -> bool:
    """Whether a source may be `owner/name` of the hub; local paths look the same."""
    return bool(_BARE.fullmatch(source))


def list_hub(source: str, config: str | None, split: str | None) -> Listing:
    """Files of a data set, below a path of it or matching a pattern, of one configuration and split if asked for.

    Args:
        source: `hf://datasets/owner/name[@revision][/path]`, or `owner/name`.
        config: its configuration: as `configs` in its README say or, without them, the folder of that name.
        split: as they say or, without them, all files with that word in their path, as `datasets` finds them.

    Raises:
        ManifestError: there is no such data set, revision or file, or the hub cannot be reached.
        UsageError: the source names none.
    """
    match = _SOURCE.fullmatch(source if "://" in source else f"hf://datasets/{source}")
    if match is None:
        raise UsageError(f"{source}: of the hub, data sets are read: hf://datasets/owner/name[@revision][/path].")
    name, revision, below = match[1], match[2] and unquote(match[2]), (match[3] or "").strip("/")
    commit, files = _files(source, name, revision)
    root = f"hf://datasets/{name}@{commit}"
    if config is not None or split is not None:
        files = _of_split(source, files, _readme_configs(name, commit, files), config, split)
    single = any(file.path == below for file in files)
    magic = None if single else _MAGIC.search(below)
    if magic:
        matches = _matcher(below)
        chosen = [file for file in files if matches(file.path)]
        base = below[: magic.start()].rpartition("/")[0]
    else:
        chosen = [file for file in files if not below or file.path == below or file.path.startswith(f"{below}/")]
        base = below.rpartition("/")[0] if single else below
    if not chosen:
        raise ManifestError(f"{source}: there is nothing of this name in the data set at {commit[:10]}.")
    listed = [
        ListedFile(
            f"{root}/{file.path}", file.path.removeprefix(f"{base}/" if base else ""), file.size,
            file.lfs.sha256 if file.lfs else file.blob_id,
        )
        for file in sorted(chosen, key=lambda file: file.path)
        if not re.search(r"(^|/)\.", file.path)
    ]  # fmt: skip
    by_pattern = bool(magic) or single
    return Listing(listed, by_pattern=by_pattern, root=None if by_pattern else f"{root}/{base}".rstrip("/"))


def _files(source: str, name: str, revision: str | None) -> tuple[str, list[Any]]:
    """The commit that a revision names, and its files."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        commit = api.dataset_info(name, revision=revision).sha
        if commit is None:
            raise ManifestError(f"{source}: the hub does not say which commit this is. Name one: {name}@COMMIT.")
        tree = api.list_repo_tree(name, repo_type="dataset", revision=commit, recursive=True)
        return commit, [entry for entry in tree if isinstance(entry, RepoFile)]
    except GatedRepoError as error:
        raise ManifestError(
            f"{source}: this data set asks for its conditions to be accepted. Accept them on its page, set HF_TOKEN to "
            "a token of yours, then run again."
        ) from error
    except HFValidationError as error:
        raise UsageError(f"{source}: no data set can have this name.") from error
    except RevisionNotFoundError as error:
        raise ManifestError(f"{source}: the data set has no branch, tag or commit {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise ManifestError(
            f"{source}: the hub has no such data set, or it is private and HF_TOKEN is no token that may read it."
        ) from error
    except ManifestError:
        raise
    except Exception as error:  # broken connections are errors of the HTTP library, which changes between versions
        raise ManifestError(
            f"{source}: the hub cannot be read: {message_of(error)}. Check the network and HF_ENDPOINT, then run again."
        ) from error


def _readme_configs(name: str, commit: str, files: Iterable[Any]) -> list[dict[str, Any]]:
    """`configs` of the README's head: which files belong to which configuration and split."""
    if not any(file.path == _README for file in files):
        return []
    from huggingface_hub import RepoCard

    from artimuse_actor.fetch.fetch import fetch
    from artimuse_actor.fetch.options import FetchOptions

    text = fetch(f"hf://datasets/{name}@{commit}/{_README}", FetchOptions()).decode(errors="replace")
    configs = RepoCard(text, ignore_metadata_errors=True).data.get("configs")
    return [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []


def _of_split(
    source: str, files: list[Any], configs: list[dict[str, Any]], config: str | None, split: str | None
) -> list[Any]:
    patterns = _patterns(source, configs, config, split)
    if patterns is not None:
        matchers = [_matcher(pattern) for pattern in patterns]
        return [file for file in files if any(matches(file.path) for matches in matchers)]
    if config is not None:
        files = [file for file in files if file.path.startswith(f"{config}/")]
    if split is not None:
        word = re.compile(rf"(^|[-._ /]){re.escape(split)}($|[-._ /])")
        files = [file for file in files if word.search(file.path)]
    if not files:
        raise ManifestError(
            f"{source}: no file is of the configuration {config or 'default'!r} and the split {split or 'all'!r}. Name "
            f"its files: hf://datasets/…/PATH; the revision @{quote('refs/convert/parquet', safe='')} has Parquet."
        )
    return files


def _patterns(source: str, configs: list[dict[str, Any]], config: str | None, split: str | None) -> list[str] | None:
    """The patterns of paths that a README gives; None if it says nothing of them."""
    described = [one for one in configs if one.get("data_files")]
    if not described:
        return None
    names = [str(one.get("config_name", "default")) for one in described]
    if config is None and len(described) > 1:
        config = next((n for n, one in zip(names, described, strict=True) if one.get("default")), None)
        config = config or ("default" if "default" in names else None)
    if config is None and len(described) > 1:
        raise UsageError(f"{source}: has the configurations {', '.join(names[:20])}. Choose one with --hf-config.")
    if config is not None and config not in names:
        raise UsageError(f"{source}: has no configuration {config!r}, but {', '.join(names[:20])} (--hf-config).")
    data_files = described[names.index(config) if config is not None else 0]["data_files"]
    entries = data_files if isinstance(data_files, list) else [data_files]
    by_split: dict[str, list[str]] = {}
    for entry in entries:
        known = isinstance(entry, dict)
        paths = entry.get("path", ()) if known else entry
        found = [paths] if isinstance(paths, str) else [path for path in paths if isinstance(path, str)]
        by_split.setdefault(str(entry.get("split", "train")) if known else "train", []).extend(found)
    if split is not None and split not in by_split:
        raise UsageError(f"{source}: has no split {split!r}, but {', '.join(by_split)} (--split).")
    return by_split[split] if split is not None else [path for paths in by_split.values() for path in paths]


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path matches a pattern with braces; `*` and `?` go through no slash, `**` through any."""
    compiled = re.compile("|".join(f"(?:{glob_translate(name)})" for name in expand_braces(pattern)))
    return lambda path: compiled.match(path) is not None
