"""The screen of `artimuse plan`, and its `--json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from artimuse_actor.uris import without_secrets
from jobs.forecast.costs import Limit, Measured, Share, Whole, share
from jobs.forecast.forecast import Outlook, Speed
from jobs.forecast.precision import COUNTED_TIMES
from jobs.words import format_seconds, show

_LIMIT_NAMES: Final[dict[Limit, str]] = {
    "gpu": "the GPUs",
    "cpu": "decoding on the CPU",
    "network": "the network",
}
_MODEL_ON_CPU: Final = "the model, on this CPU"


def show_outlook(outlook: Outlook) -> None:
    """Print one screen: measured and given numbers, the cost of the whole run, and the bottleneck."""
    for note in outlook.notes:
        show(note)
    settings, counted, loaded = outlook.settings, outlook.counted, outlook.loaded
    if loaded is None:
        show(f"Nothing to do: all {counted.manifest_rows:,} images are in {settings.out} already.")
        return
    show(_rows_line(outlook))
    rows = max(work.work.rows for work in outlook.wholes.values())
    show(f"Sample: {len(loaded.sizes):,} of them, drawn with --seed {settings.seed}.")
    for kind, count in loaded.errors.most_common():
        show(f"  {count:,} {kind}: {_share_of_all(share(count, len(loaded.sizes), rows), rows)}")
    show(f"  read: {_spread([size / 1e6 for size in loaded.sizes])} MB an image")
    show(f"  load: {_spread([seconds * 1e3 for seconds in loaded.cpu_s])} ms of one CPU core an image, measured here")
    for name, speed in outlook.speeds.items():
        show(f"  {name}: {_speed(speed)}")
    for line in _model_lines(outlook):
        show(f"  {line}")
    if loaded.embedded_rows:
        show(
            "  Embedded images are read from the start of their row group: with row groups larger than a unit, more "
            "than counted."
        )
    show()
    _print_table(outlook)
    show()
    for name, whole in outlook.wholes.items():
        heading = f"Bottleneck {name}" if len(outlook.wholes) > 1 else "Bottleneck"
        show(f"{heading}: {bottleneck(whole, on_cpu=_on_cpu(outlook))}")
    if _on_cpu(outlook):
        show(
            "A CPU's speed says nothing of a GPU's: measure on a GPU, or give --images-per-s. Model and loading share "
            "the cores here, which is not in these numbers."
        )


def bottleneck(whole: Whole, *, on_cpu: bool = False) -> str:
    """One sentence: the bottleneck, and the number of cores, GPUs or Gbit/s from which on it would be another."""
    slowest, machines = whole.slowest, whole.machines
    if slowest is None:
        return "not known without the speed of the model; name a --checkpoint that can be loaded, or --images-per-s."
    names = _LIMIT_NAMES | ({"gpu": _MODEL_ON_CPU} if on_cpu else {})
    models = "models" if on_cpu else "GPUs"
    if slowest == "gpu":
        cores = _feeding(whole, "cpu", machines.cores, whole.cores_to_feed, models)
        network = _feeding(whole, "network", machines.gbit_per_s, whole.gbit_per_s_to_feed, models)
        return f"{names['gpu']}; {cores}, {network}."
    others = {limit: seconds.value for limit, seconds in whole.seconds.items() if limit != slowest}
    second = max(others, key=lambda limit: others[limit])
    amount = (machines.cores if slowest == "cpu" else machines.gbit_per_s) or 0.0
    enough = _amount(slowest, amount * whole.seconds[slowest].value / others[second])
    fed = f"{significant(whole.gpus_at(slowest) or 0.0)} of {machines.gpus:,} {models}"
    have = f"{_amount(slowest, amount)} can feed {fed}"
    return f"{names[slowest]}; {have}, and from {enough} on it would be {names[second]}."


def _feeding(whole: Whole, limit: Limit, amount: float | None, needed: float | None, models: str) -> str:
    """The devices for which a given amount is enough or, without a given amount, the amount that is enough."""
    most = whole.gpus_at(limit)
    if amount is None or most is None:
        return f"{_amount(limit, needed or 0.0)} would do for them"
    return f"{_amount(limit, amount)} would do for up to {significant(most)} {models}"


def _amount(limit: Limit, number: float) -> str:
    return f"{significant(number)} Gbit/s" if limit == "network" else _count(math.ceil(number), "core")


def outlook_json(outlook: Outlook) -> dict[str, Any]:
    """The forecast for scripts; margins are half the width of 95% intervals, null after a single measurement."""
    settings, counted, loaded = outlook.settings, outlook.counted, outlook.loaded
    shown: dict[str, Any] = {
        "source": without_secrets(settings.source),
        "out": settings.out and without_secrets(settings.out),
        "rows": {
            "manifest": counted.manifest_rows,
            "store": counted.held_rows,
            "new": counted.new_rows,
            "changed": int(counted.changed.sum()),
            "texts_only": int(counted.texts_only.sum()),
        },
        "sample": None,
        "model": _model_json(outlook),
        "notes": outlook.notes,
        "estimates": {},
    }
    if loaded is not None:
        rows = max(whole.work.rows for whole in outlook.wholes.values())
        count = len(loaded.sizes)
        shown["sample"] = {
            "images": count,
            "readable": len(loaded.pixels),
            "seed": settings.seed,
            "errors": {
                kind: {"images": failed, "share": [part.low, part.high]}
                for kind, failed in loaded.errors.most_common()
                if (part := share(failed, count, rows))
            },
            "read_bytes": {"mean": sum(loaded.sizes) / count, "median": median(loaded.sizes)},
            "load_cpu_s": {"mean": sum(loaded.cpu_s) / count, "median": median(loaded.cpu_s)},
        }
    for name, whole in outlook.wholes.items():
        shown["estimates"][name.replace(" ", "_")] = _whole_json(whole, outlook.speeds[name], _on_cpu(outlook))
    return shown


def significant(value: float) -> str:
    """A number with three significant digits; below 0.01 with one."""
    if value and abs(value) < 0.01:
        return f"{value:.1g}"
    digits = 0 if abs(value) >= 100 or not value else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _whole_json(whole: Whole, speed: Speed, on_cpu: bool) -> dict[str, Any]:
    return {
        "speed": {"origin": speed.origin, "how": speed.how, "on_cpu": speed.on_cpu, "image_s": _json(speed.image_s)},
        "gpus": whole.machines.gpus,
        "cores": whole.machines.cores,
        "gbit_per_s": whole.machines.gbit_per_s,
        "images": whole.work.rows,
        "readable_images": _json(whole.readable_rows),
        "read_bytes": _json(whole.read_bytes),
        "core_hours": _json(whole.core_hours),
        "gpu_hours": _json(whole.gpu_hours),
        "wall_s": _json(whole.wall_s),
        "seconds": {limit: _json(seconds) for limit, seconds in whole.seconds.items()},
        "cost": _json(whole.cost),
        "images_per_s": whole.images_per_s,
        "cores_to_feed": whole.cores_to_feed,
        "gbit_per_s_to_feed": whole.gbit_per_s_to_feed,
        "bottleneck": whole.slowest,
        "bottleneck_sentence": bottleneck(whole, on_cpu=on_cpu),
        "unit_rows": whole.work.unit_rows,
        "units": whole.units,
        "shards": whole.shards,
        "files": whole.files,
        "planning": {"seconds": whole.plan_s, "memory_bytes": whole.planner_bytes},
        "bytes": {"tables": whole.table_bytes, "plan": whole.plan_bytes, "staging": whole.staged_bytes},
        "s3_requests": {
            "get_images": whole.requests.images,
            "read": whole.requests.read,
            "put": whole.requests.written,
            "delete": whole.requests.deleted,
        },
    }


def _model_json(outlook: Outlook) -> dict[str, Any]:
    quantize = outlook.settings.quantize
    return {
        "quantize": quantize,
        "memory": asdict(outlook.memory) if outlook.memory else None,
        "counted_times": asdict(COUNTED_TIMES[quantize]) if quantize else None,
    }


def _json(measured: Measured | None) -> dict[str, float | None] | None:
    if measured is None:
        return None
    return {"value": measured.value, "margin": measured.margin if math.isfinite(measured.margin) else None}


def _rows_line(outlook: Outlook) -> str:
    counted, out = outlook.counted, outlook.settings.out
    if out is None or not counted.held_rows:
        return f"{outlook.settings.source}: {counted.manifest_rows:,} images."
    changed, texts_only = int(counted.changed.sum()), int(counted.texts_only.sum())
    kinds = [(counted.new_rows, "new"), (changed, "changed or to be tried again"), (texts_only, "without texts")]
    parts = ", ".join(f"{count:,} {kind}" for count, kind in kinds if count)
    return f"{outlook.settings.source}: {counted.manifest_rows:,} images; to do after what {out} holds: {parts}."


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    average = sum(values) / len(values)
    middle = f"median {significant(median(values))}, mostly {significant(low)} to {significant(high)}"
    return f"{significant(average)} ({middle})"


def _share_of_all(part: Share, rows: int) -> str:
    if part.low == part.high:
        return "all rows were drawn, so that is all of them"
    return f"{part.low:.1%} to {part.high:.1%}, {part.low * rows:,.0f} to {part.high * rows:,.0f} of all"


def _speed(speed: Speed) -> str:
    if speed.image_s is None:
        return f"speed of the model not known, since {speed.how}"
    rate = f"{_with_margin(speed.image_s.inverse(), significant)} images/s of one device, {speed.origin}"
    return f"{rate} here {speed.how}" if speed.origin == "measured" else rate


def _model_lines(outlook: Outlook) -> list[str]:
    """What the model takes, and what fewer bits cost; both counted."""
    lines, quantize, memory = [], outlook.settings.quantize, outlook.memory
    if memory is not None:
        each = f"{_size(memory.image_bytes)} for each image of a batch"
        lines.append(f"memory: {_size(memory.weight_bytes)} of weights as {memory.precision}, and {each}; counted")
    if quantize is not None:
        times = COUNTED_TIMES[quantize]
        lines.append(
            f"--quantize {quantize}: an image takes {times.scores:g} times as long as with all bits, with texts "
            f"{times.texts:g} times; counted for the 8B on an H200"
        )
    return lines


def _on_cpu(outlook: Outlook) -> bool:
    return any(speed.on_cpu for speed in outlook.speeds.values())


def _print_table(outlook: Outlook) -> None:
    wholes = list(outlook.wholes.values())
    machines = wholes[0].machines
    device = "CPU like this" if _on_cpu(outlook) else "GPU"
    rows: list[tuple[str, Callable[[Whole], str]]] = [
        ("images", lambda whole: f"{whole.work.rows:,}"),
        ("  of them readable", lambda whole: _with_margin(whole.readable_rows, lambda value: f"{value:,.0f}")),
        ("bytes to read", lambda whole: _with_margin(whole.read_bytes, _size)),
        (
            "GPU-hours" if device == "GPU" else f"hours of one {device}",
            lambda whole: _with_margin(whole.gpu_hours, significant),
        ),
        (f"wall time with {_count(machines.gpus, device)}", lambda whole: _with_margin(whole.wall_s, format_seconds)),
        *([] if machines.price is None else [_cost_row(machines.price, device)]),
        ("images/s when nothing waits", lambda whole: _or_unknown(whole.images_per_s)),
        ("CPU cores to feed them", lambda whole: _or_unknown(whole.cores_to_feed)),
        ("Gbit/s to feed them", lambda whole: _or_unknown(whole.gbit_per_s_to_feed)),
        ("core-hours to load them", lambda whole: _with_margin(whole.core_hours, significant)),
        ("planning, before that", lambda whole: f"{format_seconds(whole.plan_s)}, {_size(whole.planner_bytes)}"),
        ("units", lambda whole: f"{whole.units:,} of {whole.work.unit_rows}"),
        ("shards, files in the tables", lambda whole: f"{whole.shards:,}, {whole.files:,}"),
        ("the tables grow by", lambda whole: _size(whole.table_bytes)),
        ("  and meanwhile take", lambda whole: _size(whole.plan_bytes + whole.staged_bytes)),
        ("S3: GET of images", lambda whole: f"{whole.requests.images:,}"),
        ("S3: GET and HEAD of the store", lambda whole: f"{whole.requests.read:,}"),
        ("S3: PUT, DELETE", lambda whole: f"{whole.requests.written:,}, {whole.requests.deleted:,}"),
    ]
    names = list(outlook.wholes)
    cells = [["", *(names if len(names) > 1 else [""])], *([label, *map(cell, wholes)] for label, cell in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for label, *values in cells if len(names) > 1 else cells[1:]:
        shown = "   ".join(value.rjust(width) for value, width in zip(values, widths[1:], strict=True))
        show(f"{label.ljust(widths[0])}   {shown}")


def _cost_row(price: float, device: str) -> tuple[str, Callable[[Whole], str]]:
    return f"cost at {price:g} for one {device} an hour", lambda whole: _with_margin(whole.cost, significant)


def _with_margin(measured: Measured | None, text: Callable[[float], str]) -> str:
    if measured is None:
        return "not known"
    if not measured.margin:
        return text(measured.value)
    margin = text(measured.margin) if math.isfinite(measured.margin) else "?"
    return f"{text(measured.value)} ± {margin}"


def _or_unknown(value: float | None) -> str:
    return "not known" if value is None else significant(value)


def _size(size_bytes: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= size:
            return f"{significant(size_bytes / size)} {unit}"
    return f"{significant(size_bytes / 1e3)} kB" if size_bytes >= 1e3 else f"{size_bytes:.0f} bytes"


def _count(number: float, noun: str) -> str:
    """A number with its noun: 1 GPU, 16 cores, 2 CPUs like this."""
    head, _, rest = noun.partition(" ")
    return f"{number:,g} {head}{'' if number == 1 else 's'}{' ' + rest if rest else ''}"
