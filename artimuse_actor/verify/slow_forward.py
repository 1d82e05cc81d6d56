"""The slow side: transformers' own forward over a whole prompt, attention as two plain products, nothing kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.engine.device import set_arithmetic
from artimuse_actor.engine.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from artimuse_actor.engine.quantised import expand_layers
from artimuse_actor.engine.weights import load_network
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import image_token_id, level_ids, prompt_ids, turn_end_id
from artimuse_actor.protocol.protocols import Protocol
from artimuse_actor.protocol.tokenizer import load_tokenizer


class SlowForward:
    """A checkpoint's network, one image and one question at a time.

    Attributes:
        protocol: the questions that can be asked.
        stop_id: the token that ends a text.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        protocol: Protocol,
        device: torch.device,
        dtype: torch.dtype,
        quantize: str | None = None,
    ) -> None:
        """Load the network; with weights of fewer bits, these are expanded once."""
        self._tokenizer = tokenizer = load_tokenizer(checkpoint.folder)
        self.protocol, self._device = protocol, device
        self._image_id, self.stop_id = image_token_id(tokenizer), turn_end_id(tokenizer)
        ids = level_ids(tokenizer, protocol, checkpoint.folder, checkpoint.config.language.vocab_size)
        set_arithmetic(device)
        from artimuse_actor.verify.reference import reference_network  # imports transformers, which takes seconds

        network = load_network(checkpoint, device=device, dtype=dtype, quantize=quantize)
        expand_layers([network], dtype)
        self._network = reference_network(network, self._image_id)
        self._network.set_attn_implementation("eager")  # no kernel that the fast path uses
        rows = torch.tensor(ids, device=device)  # (101,)
        self._level_rows = self._network.lm_head.weight.index_select(0, rows).float()  # (101, C)

    @torch.inference_mode()
    def level_logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Logits of the levels: (N, 448, 448, 3) uint8 → (N, Q, 101)."""
        logits: NDArray[np.float32] = torch.stack([self._level_logits(image) for image in pixels]).cpu().numpy()
        return logits

    @torch.inference_mode()
    def regret(self, image: torch.Tensor, question: str, token_ids: Sequence[int]) -> float:
        """By how much, at most, another token is likelier as the next one than that of a text, see `Finding.regret`.

        Args:
            image: (256, C), see `encode`.
            question: a text question.
            token_ids: of the text, with the token that ended it if one did.
        """
        return float(self._regrets(image, question, token_ids).max())

    def _regrets(self, image: torch.Tensor, question: str, token_ids: Sequence[int]) -> torch.Tensor:
        """(K,), for each token of `regret`."""
        prompt = self._prompt(question, image)  # (1, T, C)
        answer = torch.tensor([list(token_ids)], device=self._device)  # (1, K)
        hidden = self._hidden(torch.cat([prompt, self._embed(answer[:, :-1])], dim=1))  # (T + K - 1, C)
        logits = self._network.lm_head(hidden[prompt.shape[1] - 1 :]).float()  # (K, V)
        chosen = logits.gather(1, answer.T).squeeze(1)  # (K,)
        behind: torch.Tensor = (logits.amax(dim=1) - chosen) / logits.std(dim=1)
        return behind

    def _level_logits(self, image: Pixels) -> torch.Tensor:
        """(448, 448, 3) uint8 → (Q, 101) float32."""
        encoded = self.encode(image)
        prompts = (self._prompt(question, encoded) for question in self.protocol.score_questions.values())
        last = torch.stack([self._hidden(prompt)[-1] for prompt in prompts])  # (Q, C)
        logits: torch.Tensor = last.float() @ self._level_rows.T  # (Q, 101)
        return logits

    @torch.inference_mode()
    def encode(self, image: Pixels) -> torch.Tensor:
        """(448, 448, 3) uint8 → (256, C)."""
        mean, std = (torch.tensor(part, device=self._device) for part in (IMAGENET_MEAN, IMAGENET_STD))
        values = (torch.tensor(image, device=self._device).float() / 255 - mean) / std  # (448, 448, 3)
        values = values.permute(2, 0, 1).unsqueeze(0).to(self._network.dtype)  # (1, 3, 448, 448)
        tokens: torch.Tensor = self._network.model.get_image_features(pixel_values=values).pooler_output[0]
        return tokens

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(1, T) → (1, T, C)."""
        embedded: torch.Tensor = self._network.get_input_embeddings()(token_ids)
        return embedded

    def _prompt(self, question: str, image: torch.Tensor) -> torch.Tensor:
        """(1, T, C): the whole prompt, its image in place."""
        ids = prompt_ids(self._tokenizer, self.protocol, question)
        embedded, start = self._embed(torch.tensor([ids], device=self._device)), ids.index(self._image_id)
        embedded[0, start : start + len(image)] = image
        return embedded

    def _hidden(self, embedded: torch.Tensor) -> torch.Tensor:
        """(1, T, C) embeddings → (T, C), the final hidden state at every position."""
        output = self._network.model.language_model(inputs_embeds=embedded, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden
