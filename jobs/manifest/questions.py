"""A list of multiple-choice questions about images → a manifest with a row for each different question.

The format is that of UniPercept-Bench: a JSON list whose entries have `image`, `question` (the options stand in it) and
`answer`, one letter; all other fields are the user's. A row's id is the image's name and the beginning of the
question's SHA-256, so that a list may grow or be sorted anew, and only new questions are asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import ManifestError
from artimuse_actor.protocol.multiple_choice import prompt_mark
from artimuse_actor.uris import uri_as_id
from jobs.manifest.listed import ListedManifest, listed_rows, read_json_list
from jobs.manifest.listing import local_file
from jobs.manifest.manifest import Coverage, ManifestOptions, absolute_base, is_absolute
from jobs.manifest.table_rows import MAX_TEXT_BYTES
from jobs.storage.user_files import is_unicode

_ID_DIGITS: Final = 16


@dataclass(frozen=True)
class Question:
    """One entry of a list.

    Attributes:
        image: its image, as the list names it.
        text: the question with its options.
        answer: the right letter, in upper case.
        entry: all its fields.
    """

    image: str
    text: str
    answer: str
    entry: dict[str, Any]

    @property
    def question_id(self) -> str:
        """The beginning of the SHA-256 of the question."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_ID_DIGITS]

    @property
    def row_id(self) -> str:
        """The id of its row in a manifest and in a store."""
        return f"{uri_as_id(self.image)}#{self.question_id}"


def read_questions(source: str, limit: int | None = None) -> list[Question]:
    """Read a list of questions, or its first entries.

    Raises:
        ManifestError: it cannot be read, or an entry is not in order; the message names it.
    """
    entries = read_json_list(source, '{"image": …, "question": …, "answer": …}')
    questions = [_question(f"{source}, entry {number}", entry) for number, entry in enumerate(entries[:limit])]
    if not questions:
        raise ManifestError(f"{source}: has no questions.")
    return questions


def questions_digest(questions: Iterable[Question]) -> str:
    """SHA-256 of images, questions and answers, whatever else the list has."""
    digest = hashlib.sha256()
    for one in questions:
        digest.update(json.dumps([one.image, one.text, one.answer]).encode() + b"\n")
    return digest.hexdigest()


def image_uri(image: str, base: str) -> str:
    """Path or uri of an image of a list, relative names from `base`."""
    return image if is_absolute(image) else f"{base.rstrip('/')}/{image}"


def question_manifest(source: str, options: ManifestOptions) -> ListedManifest:
    """The questions of a list as rows, those about one image one after the other. Raises ManifestError."""
    questions = read_questions(source, options.limit)
    base = absolute_base(options.images) if options.images else absolute_base(os.path.dirname(source) or ".")
    by_image: dict[str, dict[str, Question]] = {}
    for one in questions:
        by_image.setdefault(one.image, {}).setdefault(one.row_id, one)
    rows = [one for asked in by_image.values() for one in asked.values()]
    uris = [image_uri(one.image, base) for one in rows]
    table = listed_rows([one.row_id for one in rows], uris, _versions(uris, base), [None] * len(rows))
    place = table.schema.get_field_index("question")
    table = table.set_column(place, table.schema.field(place), pa.array([one.text for one in rows], pa.string()))
    again = len(questions) - len(rows)
    notes = [f"{again} of {len(questions)} entries ask a question again; it is asked once."] if again else []
    return ListedManifest(source, table, notes, Coverage(None))


def _versions(uris: Sequence[str], base: str) -> list[str | None]:
    return [None if re.match(r"\w+://", uri) else local_file(uri, base).version for uri in uris]


def _question(where: str, entry: Any) -> Question:
    image, text, answer = (_text(where, entry, name) for name in ("image", "question", "answer"))
    if mark := prompt_mark(text):
        raise ManifestError(f"{where}: the question contains {mark}, which would break the prompt. Drop the entry.")
    letter = answer.strip().upper()
    if len(letter) != 1:
        raise ManifestError(
            f"{where}: `answer` is {answer[:40]!r}; it must be the letter of the right option. No question was asked."
        )
    return Question(image, text, letter, entry)


def _text(where: str, entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        raise ManifestError(f"{where}: has no `{name}` that is a text. No question was asked.")
    if len(value.encode()) > MAX_TEXT_BYTES:
        raise ManifestError(f"{where}: its `{name}` has more than {MAX_TEXT_BYTES:,} bytes. No question was asked.")
    return value
