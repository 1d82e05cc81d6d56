"""The command `artimuse verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobs.commands.options import AsJson, Device, Hub, Protocol, Quantize

if TYPE_CHECKING:
    from artimuse_actor.verify.finding import Finding
    from artimuse_actor.verify.speed import Speed

_WIDTHS: Final = (45, 21, 18, 10, 8)
_HEAD: Final = ("check", "precision", "attention", "points", "texts")


def verify(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="CKPT", help="Also check this checkpoint, named as for `artimuse score`.", show_default=False
        ),
    ] = None,
    hub: Hub = "huggingface",
    protocol: Protocol = None,
    device: Device = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(help="Check this precision alone. [default: each that the device has]", show_default=False),
    ] = None,
    quantize: Quantize = None,
    as_json: AsJson = False,
) -> None:
    """Check that this device answers as the published code does: after installing, on a new card, with a new torch.

    Golden pictures and tiny checkpoints, which come with the package, are scored and described in every precision and
    with every attention; with --quantize also with fewer bits, beside the same weights on the CPU. With --checkpoint
    its fast path is compared with transformers' slow forward, batch 1 with larger ones, texts alone with texts
    together, bfloat16 with float32; and its speed is measured. Rounding drifts, on the random weights of the golden
    checkpoints by some points. More than rounding is wrong: then the exit code is 1.
    """
    from artimuse_actor.checkpoint.names import named_on
    from artimuse_actor.verify.finding import Finding, exit_code
    from artimuse_actor.verify.verify import verify as run

    head = _about(device)
    findings: list[Finding] = []
    speeds: list[Speed] = []
    if not as_json:
        print(f"{head['processor']}; torch {head['torch']}, transformers {head['transformers']}\n")
        print(_line(*_HEAD, "verdict"))
    named = checkpoint and named_on(hub, checkpoint)
    drawn = _drawn_pictures() if quantize and checkpoint else None
    for found in run(
        device=device,
        dtype=dtype,
        checkpoint=named,
        protocol=protocol,
        quantize=quantize,
        pictures=drawn,
    ):
        if isinstance(found, Finding):
            findings.append(found)
        else:
            speeds.append(found)
        if not as_json:
            print(_finding_line(found) if isinstance(found, Finding) else _speed_line(found), flush=True)
    verdict = overall(findings)
    if as_json:
        checks = {"checks": [one.to_json() for one in findings], "speed": [one.to_json() for one in speeds]}
        print(json.dumps({**head, "verdict": verdict, **checks}))
    else:
        print(f"\n{head['processor']}: {verdict}.")
    if exit_code(findings):
        raise typer.Exit(1)


def _drawn_pictures(count: int | None = None) -> Any:
    """(N, 448, 448, 3) uint8: the first so many of the demo's pictures, or all."""
    import numpy as np

    from artimuse_actor.images.options import DecodeOptions
    from artimuse_actor.images.preprocess import to_pixels
    from jobs.demo.pictures import make_picture
    from jobs.demo.run import FIRST_SEED, PICTURES

    seeds = range(FIRST_SEED, FIRST_SEED + (count or PICTURES))
    return np.stack([to_pixels(make_picture(seed).image, DecodeOptions()) for seed in seeds])


def overall(findings: Sequence[Finding]) -> str:
    """One verdict for all: what is wrong, or how far the answers drift at most in each precision."""
    wrong = [f"{one.check} ({one.precision})" for one in findings if one.is_wrong]
    if wrong:
        return f"wrong: {'; '.join(wrong)}"
    largest: dict[str, float] = {}
    compared = [one for one in findings if one.points is not None and one.srcc is None]
    own = [one for one in compared if not one.check.startswith("golden")]
    for one in own or compared:
        if one.points is not None and one.verdict.startswith("drift"):
            largest[one.precision] = max(one.points, largest.get(one.precision, 0.0))
    weights = "" if own else ", with random weights"
    drifts = (f"{precision} drifts by {points:.2f} points at most{weights}" for precision, points in largest.items())
    fewer_bits = (f"{one.precision} drifts by {one.points:.2f} points on average" for one in findings if one.srcc)
    return "; ".join(["ok", *drifts, *fewer_bits])


def _about(device: str) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    from artimuse_actor.engine.device import device_name, driver_version, resolve_device

    place = resolve_device(device)
    return {
        "device": str(place),
        "processor": device_name(place),
        "driver": None if place.type == "cpu" else driver_version(),
        "torch": torch.__version__,  # with its build for CUDA, which the package's version may lack
        "transformers": version("transformers"),
    }


def _finding_line(found: Finding) -> str:
    points = "" if found.points is None else f"{found.points:.4f}"
    texts = f"{found.equal_texts} of {found.texts}" if found.texts else ""
    why = f": {found.skipped}" if found.skipped else ""
    return _line(found.check, found.precision, found.attention, points, texts, f"{found.verdict}{why}")


def _speed_line(found: Speed) -> str:
    rate, each, peak = found.images_per_s, _scaled(found.flop_per_image), _scaled(found.peak_flop_per_s)
    return (
        f"{found.precision}: {rate:,.1f} images/s in batches of {found.batch_size}, {each}FLOP each; "
        f"{found.peak_share:.0%} of the {peak}FLOP/s of a large matrix product here"
    )


def _scaled(operations: float) -> str:
    factor, prefix = (1e12, "T") if operations >= 1e12 else (1e9, "G")
    return f"{operations / factor:.3g} {prefix}"


def _line(*cells: str) -> str:
    padded = (f"{cell:{width}}" for cell, width in zip(cells, _WIDTHS, strict=False))
    return " ".join([*padded, cells[-1]]).rstrip()
