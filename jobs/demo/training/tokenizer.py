"""The tokenizer of the demo checkpoint: a byte-level BPE in Qwen2's format, built from what the models are asked.

All 256 bytes are tokens, so any text can be written; each of the 101 levels is one token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from artimuse_actor.protocol.protocols import (
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    LEVELS,
    PROTOCOLS,
    TURN_END,
    TURN_START,
)
from artimuse_actor.protocol.tokenizer import pretokenizer

PAD = "<|endoftext|>"
ADDED_TOKENS: Final = (
    PAD,
    TURN_START,
    TURN_END,
    IMAGE_START,
    IMAGE_END,
    IMAGE_CONTEXT,
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
LEARNED_TOKENS = 1100  # bytes included, levels and added tokens not

_ENGLISH = """
The composition places the subject near a point where the thirds of the picture meet, and the eye rests there.
A balanced composition guides the viewer from the foreground to the background without a distraction.
The contrast between light and shadow gives the scene depth; where it is weak, the picture looks flat and grey.
Colour carries the emotion of the image: warm tones come forward, cool tones recede, and both together feel alive.
The visual elements are arranged with care, and their structure is clear, simple and strong.
The technical execution is good: the focus is sharp, the exposure is right, the noise is low, the texture is rich.
Originality and creativity show in an unusual viewpoint, an unexpected choice of colours or a fresh idea.
The theme is easy to understand and the photograph communicates it with few means.
The emotional response of the viewer depends on memory, mood and culture as much as on the work itself.
Overall, this image has a pleasing quality, although the lines, shapes and patterns could be bolder.
Water, sky, stone, grass, trees, houses, streets, people, hands and faces are what most pictures show.
The quality of the image suffers from blur, compression, distortion and a lack of detail in the darker regions.
"""


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write the five tokenizer files into a folder; returns every token's id."""
    vocabulary, merges = _learn()
    added = {token: len(vocabulary) + n for n, token in enumerate(ADDED_TOKENS)}
    specials = list(ADDED_TOKENS[1:])
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "added_tokens.json", added)
    _write_json(
        folder / "special_tokens_map.json",
        {"additional_special_tokens": specials, "eos_token": TURN_END, "pad_token": PAD},
    )
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(id_): {"content": token, **flags} for token, id_ in added.items()},
            "additional_special_tokens": specials,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": TURN_END,
            "errors": "replace",
            "model_max_length": 12288,
            "pad_token": PAD,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    return vocabulary | added


def _learn() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE learned from the prompts, with the levels appended that it did not learn."""
    texts = [_ENGLISH]
    for protocol in PROTOCOLS.values():
        questions = [*protocol.score_questions.values(), *protocol.text_questions.values()]
        texts += [protocol.system_message, *questions, *(title for title in protocol.text_questions)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pretokenizer()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=LEARNED_TOKENS,
            min_frequency=1,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = dict(model["vocab"])
    merges: list[tuple[str, str]] = [(left, right) for left, right in model["merges"]]
    for level in LEVELS:
        if level not in vocabulary:
            vocabulary[level] = len(vocabulary)
            merges.append((level[0], level[1]))
    return vocabulary, merges


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
