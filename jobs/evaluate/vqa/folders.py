"""Where lists of questions lie, and their images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import GroundTruthError, UsageError
from jobs.evaluate.benchmark_folders import whole_root
from jobs.evaluate.vqa.presets import LISTS, VQA, QuestionList
from jobs.manifest.questions import Question, image_uri, read_questions
from jobs.storage.user_files import is_there

_LOOKED_FOR: Final = 20


@dataclass(frozen=True)
class QuestionFolder:
    """A list of questions as it lies on a disk or on S3.

    Attributes:
        name: of the data set.
        preset: which published list it is by its name; None for any other.
        source: its JSON file.
        images: the folder that its images' names start from.
        questions: its entries.
    """

    name: str
    preset: QuestionList | None
    source: str
    images: str
    questions: tuple[Question, ...]


def names_questions(name: str) -> bool:
    """Whether a name of a benchmark is one of lists of questions: `vqa`, or `vqa-iaa`."""
    return name.lower() == VQA or name.lower().startswith((f"{VQA}-", f"{VQA}/"))


def asked_domains(name: str) -> list[str]:
    """The domains that `vqa`, `vqa-iaa` or `vqa/iaa` stands for. Raises UsageError."""
    if name.lower() == VQA:
        return list(LISTS)
    domain = name[len(VQA) + 1 :].upper()
    if domain not in LISTS:
        raise UsageError(f"There is no benchmark {name!r}. There are {VQA}, {', '.join(f'{VQA}-{d}' for d in LISTS)}.")
    return [domain]


def find_list(root: str, domain: str) -> str | None:
    """The published list of a domain, below a folder in the published layout."""
    preset, above = LISTS[domain], whole_root(root)
    parts = (f"benchmark/VQA/{domain}/", f"VQA/{domain}/", f"{domain}/", "benchmark/VQA/", "VQA/", "")
    return next((path for part in parts if is_there(path := f"{above}/{part}{preset.file}")), None)


def open_list(source: str, root: str | None, images: str | None, limit: int | None) -> QuestionFolder:
    """Read a list of questions and look for its images.

    Images are named from the current folder, as in the published code; else from `root`, or from the list's own
    folder and its `images` or `image`.

    Args:
        source: its JSON file.
        root: a folder that names may start from.
        images: the folder that they start from; None to look for it.
        limit: only so many entries; None for all.

    Raises:
        ManifestError: the list cannot be read.
        GroundTruthError: none of its first images is there.
    """
    questions = read_questions(source, limit)
    name, preset = _name(source)
    beside = whole_root(os.path.dirname(source) or ".")
    folders = [whole_root(images)] if images else [os.getcwd(), *([whole_root(root)] if root else []), beside]
    folders += [] if images else [f"{beside}/images", f"{beside}/image"]
    first = list(dict.fromkeys(one.image for one in questions))[:_LOOKED_FOR]
    for folder in folders:
        if any(is_there(image_uri(image, folder)) for image in first):
            return QuestionFolder(name, preset, source, folder, tuple(questions))
    raise GroundTruthError(
        f"{source}: none of its first {len(first)} images, such as {first[0]}, is below "
        f"{', '.join(dict.fromkeys(folders))}. Name the folder that their names start from with --images."
    )


def _name(source: str) -> tuple[str, QuestionList | None]:
    file = os.path.basename(source)
    for preset in LISTS.values():
        if file == preset.file:
            return preset.name, preset
    return file.rpartition(".")[0] or file, None
