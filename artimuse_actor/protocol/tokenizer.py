"""The tokenizer files of a checkpoint → a tokenizer: Qwen2's byte-level BPE, by the library `tokenizers`.

transformers' `Qwen2Tokenizer` wraps the same library; tests compare ids and texts with it. Not used here, since its
import takes longer than all else that a scoring process does before its first image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from artimuse_actor.checkpoint.network_config import read_json
from artimuse_actor.errors import CheckpointError, one_line
from artimuse_actor.protocol.protocols import PROMPT_MARKS

# Where Qwen2 cuts a text, within which it merges bytes.
_PRETOKEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: its files cannot be read, or a token of the prompt is not one token in it.
    """
    try:
        tokenizer, added = _read_files(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exceptions for malformed files
        raise CheckpointError(f"{folder}: the tokenizer files cannot be read: {one_line(str(error))}.") from error
    for token_id, token in added.items():
        if (found := tokenizer.token_to_id(token.content)) != token_id:
            raise CheckpointError(
                f"{folder}: the tokenizer files give the token {token.content!r} the id {token_id}, but of the "
                f"vocabulary it is {found}; the files belong to different models."
            )
    for name in PROMPT_MARKS:
        if tokenizer.encode(name, add_special_tokens=False).ids != [tokenizer.token_to_id(name)]:
            raise CheckpointError(
                f"{folder}: the tokenizer does not know {name}; added_tokens.json is missing or of another model."
            )
    return tokenizer


def pretokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts a text, and writes its bytes as characters."""
    split = pre_tokenizers.Split(Regex(_PRETOKEN), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _read_files(folder: Path) -> tuple[Tokenizer, dict[int, AddedToken]]:
    """The tokenizer, and the ids that its added tokens should have."""
    added: dict[int, AddedToken] = {}
    if (whole := folder / "tokenizer.json").is_file():
        saved = Tokenizer.from_file(str(whole))
        model, added = saved.model, saved.get_added_tokens_decoder()
        if not isinstance(model, BPE):
            raise CheckpointError(f"{whole}: is no byte-level BPE, as Qwen2's tokenizer is.")
        model.dropout = None  # which would read each prompt in another way
    else:
        model = BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    added |= _added_tokens(folder)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pretokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([added[token_id] for token_id in sorted(added)])
    return tokenizer, added


def _added_tokens(folder: Path) -> dict[int, AddedToken]:
    """Id → token: those of tokenizer_config.json; where it lists none, as of older versions, of added_tokens.json."""
    config = _read_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return {int(token_id): AddedToken(**token) for token_id, token in config["added_tokens_decoder"].items()}
    named = config | _read_object(folder / "special_tokens_map.json")
    special = {_content(value) for key, value in named.items() if key.endswith("_token")}
    special |= {_content(value) for value in named.get("additional_special_tokens") or ()}
    return {
        token_id: AddedToken(token, special=token in special, normalized=token not in special)
        for token, token_id in _read_object(folder / "added_tokens.json").items()
    }


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is not a JSON object.")
    return found
