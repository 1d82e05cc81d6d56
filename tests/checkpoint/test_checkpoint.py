from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.golden import golden_checkpoint, golden_images
from support.paths import REPO
from support.tiny_checkpoints import change_config, change_tensors, copy_checkpoint, split_into_shards, write_index

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint import digest as file_digest
from artimuse_actor.checkpoint.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    read_safetensors_header,
)
from artimuse_actor.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of the golden checkpoint."""
    return copy_checkpoint(tmp_path / "checkpoint")


def write_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_whole_checkpoint_is_described_without_reading_its_data(folder: Path) -> None:
    found = Checkpoint(folder)
    assert found.name == "checkpoint"
    assert Checkpoint(folder, name="ArtiMuse_AVA").name == "ArtiMuse_AVA"
    assert found.size_bytes == (folder / SINGLE_FILE).stat().st_size
    assert set(found.tensors) == set(load_file(folder / SINGLE_FILE))
    assert found.tensors["mlp1.1.weight"].shape == (96, 256)
    assert (found.config.vision.num_layers, found.config.language.num_layers) == (2, 3)
    assert (found.config.vision.num_patches, found.config.language.head_dim) == (1024, 24)
    assert found.config.language.rope_theta == 1e6


@pytest.mark.parametrize("shards", [2, 3])
def test_a_sharded_checkpoint_gives_the_same_scores(models: dict[str, ArtiMuse], folder: Path, shards: int) -> None:
    files = split_into_shards(folder, shards)
    sharded = ArtiMuse.load(folder)
    assert {entry.file for entry in sharded.checkpoint.tensors.values()} == set(files)
    for path in golden_images()[:2]:
        whole = models["artimuse"].score(path)
        assert sharded.score(path).score == pytest.approx(whole.score, abs=1e-3)


# Tensors


@pytest.mark.parametrize("shards", [0, 2])
def test_a_missing_tensor_is_named_with_the_files_looked_in(folder: Path, shards: int) -> None:
    change_tensors(folder, vision_model__encoder__layers__1__ls2=None)
    files = [file.name for file in split_into_shards(folder, shards)] if shards else [SINGLE_FILE]
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(folder)
    assert "tensor vision_model.encoder.layers.1.ls2 [64] is missing" in str(caught.value)
    assert all(name in str(caught.value) for name in (str(folder), *files))


def test_an_extra_tensor_is_named_with_its_file(folder: Path) -> None:
    change_tensors(folder, language_model__model__layers__0__self_attn__q_norm__weight=torch.ones(24))
    with pytest.raises(CheckpointError, match=r"safetensors: tensor .*\.q_norm\.weight \[24\] has no place") as caught:
        Checkpoint(folder)
    assert str(folder / SINGLE_FILE) in str(caught.value)


def test_a_head_beside_tied_embeddings_is_one_tensor_too_many(folder: Path) -> None:
    change_config(folder, language={"tie_word_embeddings": True})
    with pytest.raises(CheckpointError, match=r"tensor language_model\.lm_head\.weight \[1155, 96\] has no place"):
        Checkpoint(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    change_tensors(folder, mlp1__1__bias=torch.zeros(95))
    with pytest.raises(
        CheckpointError, match=r"safetensors: tensor mlp1\.1\.bias has shape \[95\], but config\.json asks for \[96\]"
    ):
        Checkpoint(folder)


@pytest.mark.parametrize(("dtype", "name"), [(torch.int8, "I8"), (torch.float64, "F64"), (torch.float8_e4m3fn, "F8_E")])
def test_a_quantised_tensor_is_refused_by_name_and_type(folder: Path, dtype: torch.dtype, name: str) -> None:
    change_tensors(folder, mlp1__3__weight=torch.zeros(96, 96).to(dtype))
    with pytest.raises(CheckpointError, match=rf"safetensors: tensor mlp1\.3\.weight is of type {name}.*Quantised"):
        Checkpoint(folder)


def test_a_tensor_in_two_shards_is_named_with_both_files(folder: Path) -> None:
    first, second = split_into_shards(folder, 2)
    doubled = load_file(second) | {(name := next(iter(load_file(first)))): load_file(first)[name]}
    save_file(doubled, second)
    with pytest.raises(CheckpointError, match="is also in") as caught:
        Checkpoint(folder)
    assert all(part in str(caught.value) for part in (name, first.name, second.name))


# Files


@pytest.mark.parametrize("kept", [0, 5, 8, 1000, 0.5, 0.999, -1])
def test_a_truncated_file_is_named(folder: Path, kept: float) -> None:
    weights = folder / SINGLE_FILE
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"checkpoint/model\.safetensors: .*cut short"):
        Checkpoint(folder)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard = split_into_shards(folder, 3)[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: is cut short: its header describes"):
        Checkpoint(folder)


def test_bytes_behind_the_last_tensor_are_refused(folder: Path) -> None:
    with (folder / SINGLE_FILE).open("ab") as file:
        file.write(b"\0" * 10)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has bytes that belong to no tensor"):
        Checkpoint(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    split_into_shards(folder, 3)[2].unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors: the file is missing, one of 3"):
        Checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_folder_with_pickled_weights_only_is_refused_unopened(folder: Path, name: str) -> None:
    (folder / SINGLE_FILE).rename(folder / name)
    with pytest.raises(CheckpointError, match=r"checkpoint: holds pickled weights only, which can run code"):
        Checkpoint(folder)


def test_a_folder_without_weights_says_what_was_looked_for(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"checkpoint: holds neither {SINGLE_FILE} nor {INDEX_FILE}"):
        Checkpoint(folder)


def test_a_folder_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: there is no such folder"):
        Checkpoint(tmp_path / "nowhere")


def test_a_folder_in_the_place_of_a_file_is_a_checkpoint_error(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    (folder / SINGLE_FILE).mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: Is a directory"):
        Checkpoint(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_checkpoint_without_a_tokenizer_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="checkpoint: no tokenizer"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../../etc/passwd"}, "is not the name of a safetensors file beside it"),
        ({"a": "../model.safetensors"}, "is not the name of a safetensors file beside it"),
        ({"a": "/etc/model.safetensors"}, "is not the name of a safetensors file beside it"),
        ({"a": "sub/model.safetensors"}, "is not the name of a safetensors file beside it"),
        ({"a": ".."}, "is not the name of a safetensors file beside it"),
        ({"a": ""}, "is not the name of a safetensors file beside it"),
        ({"a": "pytorch_model.bin"}, "is not the name of a safetensors file beside it"),
        ({"a": "x\0.safetensors"}, "the file is missing"),
        ({"a": "x" * 300 + ".safetensors"}, "cannot be read|the file is missing"),
        ({"a": 5}, "has no `weight_map`"),
        (["a"], "has no `weight_map`"),
        (None, "has no `weight_map`"),
        ({}, "tensor .* is missing"),
    ],
)
def test_an_index_that_names_anything_but_files_beside_it_is_refused(
    folder: Path, weight_map: object, message: str
) -> None:
    (folder / SINGLE_FILE).unlink()
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '"text"', "\xff\xfe"])
@pytest.mark.parametrize("name", [CONFIG_FILE, INDEX_FILE])
def test_json_that_is_none_is_a_checkpoint_error_that_names_the_file(folder: Path, name: str, content: str) -> None:
    (folder / SINGLE_FILE).unlink()
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name):
        Checkpoint(folder)


# Headers


def _entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe\x00",
        {"a": 5},
        {"a": {}},
        {"a": []},
        {"a": None},
        {"a": _entry(offsets=(-4, 0))},
        {"a": _entry(offsets=(4, 0))},
        {"a": _entry(offsets=(0, 4, 8))},
        {"a": _entry(offsets="04")},
        {"a": _entry(offsets=None)},
        {"a": _entry(offsets=(0.0, 4.0))},
        {"a": _entry(offsets=(False, 4))},
        {"a": _entry(offsets=(0, 2**80))},
        {"a": _entry(offsets=(0, 400))},
        {"a": _entry(shape=(-1,))},
        {"a": _entry(shape=(2,))},
        {"a": _entry(shape=(0,))},
        {"a": _entry(shape=(2**62, 2**62, 2**62))},
        {"a": _entry(shape=5)},
        {"a": _entry(shape="1")},
        {"a": _entry(shape=("1",))},
        {"a": _entry(shape=(1,) * 100)},
        {"a": _entry(dtype=None, shape=(-1,))},
        {"a" * 5000: _entry(shape=(-1,))},
        {},
    ],
    ids=lambda header: str(header)[:40],
)
@pytest.mark.timeout(10)
def test_hostile_headers_are_checkpoint_errors_of_one_screen(tmp_path: Path, header: object) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", header, b"\0" * 4)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: ") as caught:
        read_safetensors_header(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**8 + 1, 1000, 1, 0])
def test_a_header_length_that_cannot_be_is_refused_without_reading_that_much(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{}}')
    with pytest.raises(CheckpointError, match=r"x\.safetensors: is not a safetensors file, or cut short"):
        read_safetensors_header(path)


def test_metadata_in_a_header_is_no_tensor(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": _entry()}
    assert list(read_safetensors_header(write_safetensors(tmp_path / "x", header, b"\0" * 4))) == ["a"]


def test_overlapping_tensors_are_refused_before_any_is_used(folder: Path) -> None:
    weights = folder / SINGLE_FILE
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    one, two = "mlp1.0.weight", "mlp1.0.bias"
    header[one]["data_offsets"] = header[two]["data_offsets"]
    write_safetensors(weights, header, data[8 + length :])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        ArtiMuse.load(folder)


# Config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
            r"unknown architecture \['LlamaForCausalLM'\]",
        ),
        ({"architectures": None, "model_type": None}, "unknown architecture None"),
        ({"vision_config": None}, "vision_config is not an object"),
        ({"llm_config": []}, "llm_config is not an object"),
        ({"downsample_ratio": 1.0}, "`downsample_ratio` is 1.0"),
        ({"ps_version": "v1"}, "`ps_version` is 'v1'"),
        ({"select_layer": -4}, "`select_layer` is -4"),
        ({"force_image_size": 224}, "`force_image_size` is 224"),
        ({"template": "Hermes-2"}, "`template` is 'Hermes-2'"),
        ({"vision": {"norm_type": "rms_norm"}}, "`vision_config.norm_type` is 'rms_norm'"),
        ({"vision": {"qk_normalization": True}}, "`vision_config.qk_normalization` is True"),
        ({"vision": {"image_size": 224}}, "`vision_config.image_size` is 224"),
        ({"vision": {"hidden_size": 0}}, "`vision_config.hidden_size` is 0"),
        ({"vision": {"hidden_act": "relu"}}, "`vision_config.hidden_act` is 'relu'"),
        ({"vision": {"num_attention_heads": 5}}, "`vision_config.num_attention_heads` is 5, which does not divide 64"),
        ({"vision": {"layer_norm_eps": -1}}, "`vision_config.layer_norm_eps` is -1"),
        (
            {"language": {"architectures": ["LlamaForCausalLM"]}},
            r"`llm_config.architectures` is \['LlamaForCausalLM'\]",
        ),
        ({"language": {"hidden_size": "96"}}, "`llm_config.hidden_size` is '96'"),
        ({"language": {"hidden_size": 10**12}}, "`llm_config.hidden_size` is 1000000000000"),
        ({"language": {"num_hidden_layers": 10**6}}, "`llm_config.num_hidden_layers` is 1000000"),
        ({"language": {"num_hidden_layers": True}}, "`llm_config.num_hidden_layers` is True"),
        ({"language": {"num_attention_heads": 7}}, "`llm_config.num_attention_heads` is 7"),
        ({"language": {"num_attention_heads": 32}}, "`llm_config.num_attention_heads` is 32, which makes heads of odd"),
        ({"language": {"num_key_value_heads": 3}}, "`llm_config.num_key_value_heads` is 3, which does not divide 4"),
        ({"language": {"rope_theta": float("nan")}}, "`llm_config.rope_theta` is nan"),
        ({"language": {"rope_theta": "1e6"}}, "`llm_config.rope_theta` is '1e6'"),
        ({"language": {"hidden_act": "gelu"}}, "`llm_config.hidden_act` is 'gelu'"),
        ({"language": {"vocab_size": None}}, "`llm_config.vocab_size` is None"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_another_network_is_refused_with_the_field_that_says_so(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    change_config(folder, **change)
    with pytest.raises(CheckpointError, match=r"config\.json: .*" + message):
        Checkpoint(folder)


def test_an_empty_config_is_an_unknown_architecture(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: unknown architecture None"):
        Checkpoint(folder)


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: the file is missing"):
        Checkpoint(folder)


# Digest


def _flip_a_weight(folder: Path) -> None:
    weights = folder / SINGLE_FILE
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def _append_to(name: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b" ")

    return append


@pytest.mark.parametrize(
    "change",
    [_flip_a_weight, *map(_append_to, (CONFIG_FILE, "vocab.json", "merges.txt", "added_tokens.json"))],
)
def test_the_digest_changes_with_every_byte_that_scores_depend_on(folder: Path, change: Callable[[Path], None]) -> None:
    before = Checkpoint(folder).digest
    change(folder)
    assert Checkpoint(folder).digest != before


def test_the_digest_does_not_depend_on_where_the_checkpoint_lies_nor_on_other_files(folder: Path) -> None:
    moved = Path(shutil.copytree(folder, folder.parent / "another name"))
    (moved / "README.md").write_text("What this is.")
    (moved / "modeling_artimuse.py").write_text("raise SystemExit")
    (moved / "generation_config.json").unlink()
    assert len(Checkpoint(folder).digest) == 64
    assert Checkpoint(moved, name="other").digest == Checkpoint(folder).digest


def test_the_digests_of_large_files_are_remembered_by_size_and_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_digest, "_REMEMBER_FROM_BYTES", 1_000_000)
    weights = folder / SINGLE_FILE
    first = Checkpoint(folder).digest
    time_ns = weights.stat().st_mtime_ns
    assert len(json.loads((tmp_path / "cache" / "digests.json").read_text())) == 1

    with weights.open("r+b") as file:  # the same size and time: nothing says that it changed
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(weights, ns=(time_ns, time_ns))
    assert Checkpoint(folder).digest == first

    os.utime(weights, ns=(time_ns, time_ns + 1))
    changed = Checkpoint(folder).digest
    assert changed != first
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "empty cache"))
    assert Checkpoint(folder).digest == changed


@pytest.mark.parametrize("memory", ["{", "[]", "", "5", "\xff"])
def test_a_spoilt_memory_of_digests_costs_time_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: str
) -> None:
    expected = Checkpoint(folder).digest
    monkeypatch.setattr(file_digest, "_REMEMBER_FROM_BYTES", 0)
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digests.json").write_bytes(memory.encode("latin-1"))
    assert Checkpoint(folder).digest == Checkpoint(folder).digest == expected


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = Checkpoint(folder).digest
    monkeypatch.setattr(file_digest, "_REMEMBER_FROM_BYTES", 0)
    (tmp_path / "file").write_text("in the way of the folder")
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "file"))
    assert Checkpoint(folder).digest == expected


def test_a_digest_that_several_want_at_the_same_time_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "cache"))
    made: list[str] = []

    def make() -> str:
        time.sleep(0.1)
        made.append("digest")
        return "digest"

    with ThreadPoolExecutor(8) as pool:
        names = ["a file", "another file"] * 4
        assert set(pool.map(lambda name: file_digest.remembered_digest(name, make), names)) == {"digest"}
    assert len(made) == 2
    assert len(json.loads((tmp_path / "cache" / "digests.json").read_text())) == 2


def test_shards_and_a_single_file_of_the_same_weights_have_different_digests(folder: Path) -> None:
    # The digest says which bytes were read; that different files hold the same weights is not known to it.
    before = Checkpoint(folder).digest
    split_into_shards(folder, 2)
    assert Checkpoint(folder).digest != before


@pytest.mark.process
def test_a_checkpoint_is_checked_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from artimuse_actor.checkpoint.checkpoint import Checkpoint; "
        f"Checkpoint(Path({str(golden_checkpoint('artimuse'))!r})).digest; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=30).returncode == 0


def test_scores_do_not_depend_on_the_order_of_tensors_in_the_file(models: dict[str, ArtiMuse], folder: Path) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    save_file({name: tensors[name] for name in reversed(list(tensors))}, folder / SINGLE_FILE)
    pixels = np.zeros((1, 448, 448, 3), np.uint8)
    expected = models["artimuse"].score_pixels(pixels).score
    assert ArtiMuse.load(folder).score_pixels(pixels).score == pytest.approx(expected, abs=1e-3)
