"""The screens of `artimuse image`, and of `--questions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from artimuse_actor.uris import shown_uri, without_secrets
from jobs.words import show

if TYPE_CHECKING:
    from jobs.score.single_images import FileResult


def show_image(result: FileResult) -> None:
    """One line for an image: scores with their spread, or the error; then its texts."""
    file = shown_uri(result.file)
    if result.score is None:
        assert result.error is not None
        message = without_secrets(result.error.message, result.file)
        show(f"{file}: {result.error.error_type}: {message}")
        return
    stds = result.score.stds
    points = ", ".join(f"{name} {value:.2f} ± {stds[name]:.2f}" for name, value in result.score.scores.items())
    show(f"{file}: {points}")
    if result.warning:
        show(f"  warning: {result.warning}")
    for title, text in result.texts.items():
        show(f"  {title}: {text}")


def images_json(results: Sequence[FileResult]) -> Any:
    """The results for scripts: a list, with the tables' column names; ArtiMuse's texts as in the published code.

    One image with texts gives one object instead of a list, since the published code prints one image at a time.
    """
    if len(results) == 1 and results[0].texts:
        published = _image_json(results[0])
        return {name: value for name, value in published.items() if name != "image"}
    return [_image_json(result) for result in results]


def _image_json(result: FileResult) -> dict[str, Any]:
    if result.score is None:
        assert result.error is not None
        about = {"error_type": result.error.error_type, "error_message": result.error.message}
        return {"image": result.file, "status": "error", **about}
    scores = result.score.scores
    if result.texts and list(scores) == ["score"]:
        return {"image": result.file, "Aesthetic Score": scores["score"], "Aesthetic Attributes": result.texts}
    row = {"image": result.file, "status": "ok", "warning": result.warning, **result.score.columns}
    return row | ({"texts": result.texts} if result.texts else {})


def show_questions() -> None:
    """Print the questions of each protocol: columns of scores, and titles and columns of texts."""
    from artimuse_actor.protocol.protocols import PROTOCOLS
    from schemas.text_settings import text_column

    for protocol in PROTOCOLS.values():
        show(f"{protocol.name}: scores {', '.join(protocol.score_questions)}; texts:")
        for title, question in protocol.text_questions.items():
            show(f"  {title}  ({text_column(title)})\n    {question.strip()}")
