"""ArtiMuseActor: one device, one block in, one block out.

The only module here that is made for Ray: it imports nothing of it, but takes and gives Arrow blocks, holds the model
for the life of its process, and may be called by two threads, so that one block arrives while another is scored. Texts
of both blocks are generated together: the next block's texts take the places that the last texts of one leave free.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from artimuse_actor.actor_config import ActorConfig
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.names import open_checkpoint
from artimuse_actor.engine.device_clock import DeviceClock
from artimuse_actor.errors import ArtiMuseError, CheckpointError, RunError, UsageError, message_of
from artimuse_actor.images.options import IMAGE_SIZE, PIXEL_BYTES, Pixels
from artimuse_actor.node import usable_cores
from artimuse_actor.protocol.multiple_choice import MultipleChoice
from schemas.text_settings import TextSettings, letter_suffix
from schemas.units import SPENT, answer_fields, scored_unit, spent_column

if TYPE_CHECKING:
    from artimuse_actor.engine.answer import Answerer, Reply
    from artimuse_actor.engine.describe import Describer, ImageDescription
    from artimuse_actor.engine.scoring import ImageScore
    from artimuse_actor.loaded_model import BatchSize, LoadedModel

# Only the actor's process imports torch and the model: the driver needs this class without them.


class ArtiMuseActor:
    """Scores and describes the decoded images of units."""

    def __init__(self, config: ActorConfig) -> None:
        """Load the model.

        Raises:
            RunError: it cannot be loaded on this node, whose name is in the message.
        """
        self._config = config
        self._questions = tuple(config.protocol.score_questions)
        self._keep_distribution = config.keep_distribution
        self._texts = config.texts
        self._answers = pa.schema(
            answer_fields(self._questions, keep_distribution=config.keep_distribution, texts=config.texts)
        )
        self._schema = scored_unit(self._answers)
        self._meters = config.meters
        self._clock = DeviceClock()
        self._lock = threading.Lock()
        self._stepped = threading.Condition(self._lock)
        self._stepping = False
        self._refusal: ArtiMuseError | None = None
        if config.code:
            try:
                config.code.check_scoring()
            except RunError as error:
                self._refusal = error  # as below: another try would not help
                return
        try:
            if config.starts:
                config.starts.begin()
            began_s = time.monotonic()
            checkpoint = _open_checkpoint(config)
            fetched_s = time.monotonic()
            self._model = _load_model(config, checkpoint)
            self._describer: Describer | None = None
            self._answerer: Answerer | None = None
            if config.texts and isinstance(config.protocol, MultipleChoice):
                self._answerer = self._new_answerer(config.protocol, config.texts, config.sequences)
            elif config.texts:
                self._describer = self._new_describer(config.texts, config.sequences)
        except (CheckpointError, UsageError) as error:
            # Ray takes an exception here for a bad node and tries elsewhere, again and again; this one would be
            # the same everywhere, so the first unit says it.
            self._refusal = error
        except Exception as error:  # a device that is broken or in use raises any type
            failure = error if isinstance(error, ArtiMuseError) else _no_model(error)
            if config.starts:
                config.starts.fail(failure)  # Ray hands on the text of a constructor's traceback, and no error
            raise failure from error
        else:
            if config.starts:
                config.starts.end(fetched_s - began_s, time.monotonic() - fetched_s, self._model.hardware)

    def serve(self, config: ActorConfig) -> bool:
        """Serve another run from now on, if it asks for the same of the same model; say whether that is so."""
        mine = {"starts": None, "meters": None}
        if self._refusal is not None or replace(config, **mine) != replace(self._config, **mine):  # type: ignore[arg-type]
            return False
        self._config, self._meters = config, config.meters
        if config.starts:
            config.starts.end(0.0, 0.0, self._model.hardware)
        return True

    def __call__(self, unit: pa.Table) -> pa.Table:
        """A block of schema `loaded_unit` → one of schema `scored_unit`, row by row.

        Raises:
            CheckpointError: the checkpoint cannot be loaded, or is another one than the driver's.
            RunError: this process runs other code than the driver.
        """
        if self._refusal is not None:
            raise self._refusal
        pixels = unit["pixels"].combine_chunks()
        readable = np.flatnonzero(pixels.is_valid().to_numpy(zero_copy_only=False)).tolist()
        images = _pixel_array(pixels)
        if self._answerer is not None:
            answers = self._answer(self._answerer, images, readable, unit)
        elif self._describer is not None:
            answers = self._describe(self._describer, images, readable, unit["texts_only"].to_pylist())
        else:
            answers = self._score(images, readable)
        known = unit.select(self._answers.names).to_pylist()  # null, except for images whose bytes have a stored score
        filled = [answers.get(row, known[row]) for row in range(len(unit))]
        made = pa.Table.from_pylist(filled, schema=self._answers)
        spent = self._spent(unit["spent"][0].as_py(), answers)
        made = made.append_column(SPENT, spent_column(spent, len(unit)))
        columns = [made[name] if name in made.column_names else unit[name] for name in self._schema.names]
        return pa.table(columns, schema=self._schema)

    def _spent(self, spent: dict[str, Any], answers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """A unit's time by step, with this actor's share added and reported to the meters."""
        device = self._clock.take()
        actor = f"{socket.gethostname()}:{os.getpid()}"
        spent = spent | {"actor": actor, "wait_s": device.waited_s, "model_s": device.worked_s}
        if self._meters:
            counts = [f"{column}_tokens" for column in (self._texts.columns if self._texts else ())]
            tokens = sum(answer[count] for answer in answers.values() for count in counts)
            self._meters.scored(len(answers), device.passes, tokens, spent)
        return spent

    def _score(self, images: Pixels, readable: list[int]) -> dict[int, dict[str, Any]]:
        """Row → the columns of its scores."""
        from artimuse_actor.engine.scoring import image_scores

        with self._lock, self._clock.working(math.ceil(len(readable) / self._model.batch_size)):
            scores = self._model.score_pixels(images[readable] if len(readable) < len(images) else images)
        found = image_scores(self._questions, scores)
        return {row: self._score_columns(score) for row, score in zip(readable, found, strict=True)}

    def _describe(
        self, describer: Describer, images: Pixels, readable: list[int], texts_only: list[bool]
    ) -> dict[int, dict[str, Any]]:
        """Row → the columns of its scores and texts."""
        answers: dict[int, dict[str, Any]] = {}

        def step() -> None:
            with self._clock.working():
                described = describer.step()
            for (owner, row), description in described:
                owner[row] = self._score_columns(description) | self._text_columns(description)

        for row in readable:
            describer.add((answers, row), images[row], scored=not texts_only[row])
        self._generate(step, answers, len(readable))
        return answers

    def _answer(
        self, answerer: Answerer, images: Pixels, readable: list[int], unit: pa.Table
    ) -> dict[int, dict[str, Any]]:
        """Row → the columns of its reply; rows with questions about the same bytes are one image."""
        answers: dict[int, dict[str, Any]] = {}

        def step() -> None:
            with self._clock.working():
                answered = answerer.step()
            for (owner, rows), replies in answered:
                owner |= dict(zip(rows, map(self._reply_columns, replies), strict=True))

        questions, digests = unit["question"].to_pylist(), unit["sha256"].to_pylist()
        rows_of: dict[str, list[int]] = {}
        for row in readable:
            rows_of.setdefault(digests[row], []).append(row)
        for rows in rows_of.values():
            answerer.add((answers, rows), images[rows[0]], [questions[row] for row in rows])
        self._generate(step, answers, len(readable))
        return answers

    def _generate(self, step: Callable[[], None], answers: Mapping[int, Any], count: int) -> None:
        """Step until there are so many answers.

        The images join those of the other thread; a decode step of either thread serves both.
        """
        while True:
            with self._stepped:
                self._stepped.wait_for(lambda: len(answers) == count or not self._stepping)
                if len(answers) == count:
                    return
                self._stepping = True
            try:
                step()
            finally:
                with self._stepped:
                    self._stepping = False
                    self._stepped.notify_all()

    def _score_columns(self, answer: ImageScore) -> dict[str, Any]:
        columns: dict[str, Any] = dict(answer.columns)
        if self._keep_distribution:
            columns |= {f"{question}_distribution": shares for question, shares in answer.distributions.items()}
        return columns

    def _text_columns(self, answer: ImageDescription) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for column, title in self._texts.columns.items() if self._texts else ():
            columns[column] = answer.texts[title]
            columns[f"{column}_tokens"] = answer.token_counts[title]
            columns[f"{column}_finish_reason"] = answer.finish_reasons[title]
        return columns

    def _reply_columns(self, reply: Reply) -> dict[str, Any]:
        assert self._texts is not None
        (column,) = self._texts.columns
        return {
            column: reply.text,
            f"{column}_tokens": reply.token_count,
            f"{column}_finish_reason": reply.finish_reason,
            **{f"{column}{letter_suffix(letter)}": chance for letter, chance in reply.probabilities.items()},
        }

    def _new_answerer(self, protocol: MultipleChoice, texts: TextSettings, sequences: BatchSize) -> Answerer:
        return self._model.answerer(protocol, max_new_tokens=texts.max_new_tokens, sequences=sequences)

    def _new_describer(self, texts: TextSettings, sequences: BatchSize) -> Describer:
        return self._model.describer(attributes=texts.titles, max_new_tokens=texts.max_new_tokens, sequences=sequences)


def _no_model(error: Exception) -> RunError:
    return RunError(f"On node {socket.gethostname()} no model can be loaded: {message_of(error)}")


def _open_checkpoint(config: ActorConfig) -> Checkpoint:
    checkpoint = open_checkpoint(config.checkpoint)
    if checkpoint.digest != config.checkpoint_digest:
        raise CheckpointError(
            f"{checkpoint.source}: is checkpoint {checkpoint.digest[:6]} on this node, but "
            f"{config.checkpoint_digest[:6]} where the run was started. Give all nodes the same files."
        )
    return checkpoint


def _load_model(config: ActorConfig, checkpoint: Checkpoint) -> LoadedModel:
    import torch

    from artimuse_actor.engine.device import resolve_device, resolve_dtype
    from artimuse_actor.loaded_model import LoadedModel
    from artimuse_actor.verify.self_check import refuse_wrong_device

    device = resolve_device(config.device)
    if device.type != "cpu":
        dtype = resolve_dtype(config.dtype, device)
        refuse_wrong_device(device, dtype, texts=config.texts is not None, quantize=config.quantize)
    elif config.actors_per_node:
        # Ray gives a worker one thread; the model may use all cores that loading leaves free.
        torch.set_num_threads(max(1, usable_cores() // config.actors_per_node))
    return LoadedModel.load(
        checkpoint,
        protocol=config.protocol,
        device=config.device,
        dtype=config.dtype,
        quantize=config.quantize,
        batch_size=config.batch_size,
    )


def _pixel_array(pixels: pa.FixedSizeBinaryArray) -> Pixels:
    """(N, 448, 448, 3) uint8, a view of Arrow's buffer; rows of nulls hold anything."""
    data = np.frombuffer(pixels.buffers()[1], dtype=np.uint8, offset=pixels.offset * PIXEL_BYTES)
    return data[: len(pixels) * PIXEL_BYTES].reshape(len(pixels), IMAGE_SIZE, IMAGE_SIZE, 3)
