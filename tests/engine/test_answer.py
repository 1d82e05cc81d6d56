"""Replies of the golden checkpoints to multiple-choice questions, beside those of transformers' own `generate`."""

from __future__ import annotations

import pytest
import torch
from support.full_forward import read_pixels, reference
from support.golden import golden_images

from artimuse_actor import ArtiMuse
from artimuse_actor.engine.answer import Reply
from artimuse_actor.engine.describe import to_text
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.multiple_choice import LETTERS, MULTIPLE_CHOICE
from artimuse_actor.protocol.prompts import prompt_ids, turn_end_id
from artimuse_actor.protocol.tokenizer import load_tokenizer

MAX_NEW_TOKENS = 20
QUESTIONS = (
    "Which part is sharpest?\nA. the sky\nB. the face\nC. the hand\nD. none",
    "\n\n  What is shown?\nA. one\nB. two\nC. three\nD. four",
    "构图如何？\nA. 居中\nB. 三分法\nC. 对称\nD. 无",
    "?",
    "Is the light soft? Options: A: yes B: no C: both D: neither",
)
PROMPT = (
    "<|im_start|>system\n"
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。<|im_end|>\n"
    "<|im_start|>user\n<img>{image}</img>\n"
    "Given the image and the following multiple-choice question, choose the best answer. "
    "Only reply with the letter (A, B, C, or D).\n\nQuestion:\n\n{question}<|im_end|>\n<|im_start|>assistant\n"
)


@torch.inference_mode()
def generated(model: ArtiMuse, pixels: Pixels, question: str) -> tuple[str, list[float]]:
    """The published way: one image, one question, `generate`; the reply, and the letters' probabilities."""
    tokenizer = load_tokenizer(model.checkpoint.folder)
    text = PROMPT.format(image="<IMG_CONTEXT>" * 256, question=question)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    made = reference(model).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=((torch.tensor(pixels).float() / 255 - mean) / std).permute(2, 0, 1).unsqueeze(0),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=turn_end_id(tokenizer),
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    letters = [tokenizer.token_to_id(letter) for letter in LETTERS]
    first = made.logits[0][0].softmax(dim=-1)[letters]
    return to_text(tokenizer, made.sequences[0, ids.shape[1] :].tolist()), first.tolist()


@pytest.mark.slow  # transformers is imported
@pytest.mark.parametrize("protocol", ["unipercept", "artimuse"])
def test_replies_are_those_of_transformers_to_the_letter_whatever_is_asked_at_the_same_time(
    models: dict[str, ArtiMuse], protocol: str
) -> None:
    model, pictures = models[protocol], [read_pixels(path) for path in golden_images()[3:5]]
    answerer = model.answerer(max_new_tokens=MAX_NEW_TOKENS, sequences=4)
    for number, pixels in enumerate(pictures):
        answerer.add(number, pixels, QUESTIONS)
    replies: dict[int, list[Reply]] = {}
    while answerer.engine.busy:
        replies |= dict(answerer.step())
    for number, pixels in enumerate(pictures):
        for question, reply in zip(QUESTIONS, replies[number], strict=True):
            text, probabilities = generated(model, pixels, question)
            assert reply.text == text
            assert list(reply.probabilities.values()) == pytest.approx(probabilities, rel=1e-3, abs=1e-12)
            assert reply.finish_reason == ("length" if reply.token_count == MAX_NEW_TOKENS else "stop")
    assert {reply.finish_reason for found in replies.values() for reply in found} >= {"length"}


def test_the_prompt_of_the_protocol_is_the_published_one(models: dict[str, ArtiMuse]) -> None:
    tokenizer = load_tokenizer(models["unipercept"].checkpoint.folder)
    text = PROMPT.format(image="<IMG_CONTEXT>" * 256, question=QUESTIONS[0])
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert prompt_ids(tokenizer, MULTIPLE_CHOICE, MULTIPLE_CHOICE.text_after_image(QUESTIONS[0])) == ids
