"""Files of data sets on the Hugging Face hub, as urls: `hf://datasets/owner/name@revision/path`."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import unquote

from artimuse_actor.errors import ImageError

_FILE: Final = re.compile(r"(?i:hf)://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", re.DOTALL)


def hub_url(uri: str) -> tuple[str, dict[str, str]]:
    """The url of a file at the hub of the environment, and the headers that ask for it as its user.

    Raises:
        ImageError: `unsupported_uri`: it names no file of a data set.
    """
    match = _FILE.fullmatch(uri)
    if match is None:
        raise ImageError("unsupported_uri", "Of the hub, files are read as hf://datasets/owner/name@revision/path.")
    from huggingface_hub import constants, get_token, hf_hub_url

    name, revision, path = match[1], unquote(match[2] or constants.DEFAULT_REVISION), match[3]
    token = get_token()
    endpoint = os.environ.get("HF_ENDPOINT") or None  # as it is now: the library reads it when it is imported
    url = hf_hub_url(name, path, repo_type="dataset", revision=revision, endpoint=endpoint)
    return url, {"Authorization": f"Bearer {token}"} if token else {}
