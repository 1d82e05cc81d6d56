"""The table of `bench/engine/operations.py`: what the passes of the full network do, and the time that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from artimuse_actor.checkpoint.network_config import QUANTIZATIONS
from bench.engine.fake_cuda import Counts, fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES
from bench.engine.fake_passes import PREFIX_TOKENS, admission, decode_step, score_batch
from bench.engine.predicted import H100, H200, Card, moved_bytes, predicted_s
from bench.engine.random_network import FULL, TEXT_TAIL_TOKENS

BATCH: Final = 64
ADMISSION: Final = 32
ROWS: Final = 512
TEXT_TOKENS: Final = 100
STEP_AT: Final = PREFIX_TOKENS + 10 + TEXT_TOKENS // 2
STEPS: Final = sum(own + TEXT_TOKENS for own in TEXT_TAIL_TOKENS)  # decode steps of one image's texts
CARDS: Final = (H100, H200)

SCORES: Final = f"score batch, B = {BATCH}"
ADMITS: Final = f"admission, B = {ADMISSION}"


def step_name(kind: str, rows: int = ROWS) -> str:
    """The row of a decode step."""
    return f"step, {rows} rows, {kind}"


def count_passes() -> dict[str, Counts]:
    """Counts of each row of the table."""
    found: dict[str, Counts] = {}
    with fake_cuda():
        for kind, pages in FAKE_PAGES.items():
            model = fake_model(FULL, pages)
            if not found:
                found = {SCORES: score_batch(model, BATCH), ADMITS: admission(model, ADMISSION)}
                found[step_name(kind, 64)] = decode_step(model, 64, STEP_AT)
            found[step_name(kind)] = decode_step(model, ROWS, STEP_AT)
    return found


def print_quantised() -> None:
    """Print the same for each kind of `--quantize`, with torch's kernel: images/s, and how much longer they take."""
    widths = (15, 10, 35, 37)
    heads = ("score batch, ms", "step, ms", "images/s", "images/s with eight texts")
    print(f"| --quantize   | {' | '.join(f'{head:{width}}' for head, width in zip(heads, widths, strict=True))} |")
    print(f"| ------------ | {' | '.join('-' * width for width in widths)} |")
    whole: list[tuple[float, float]] = []
    kind = next(iter(FAKE_PAGES))
    for quantize in (None, *QUANTIZATIONS):
        with fake_cuda():
            model = fake_model(FULL, FAKE_PAGES[kind], quantize=quantize)
            passes = {SCORES: score_batch(model, BATCH), ADMITS: admission(model, ADMISSION)}
            passes[step_name(kind)] = decode_step(model, ROWS, STEP_AT)
        speeds = [(_scores(passes, card), _texts(passes, kind, card)) for card in CARDS]
        whole = whole or speeds
        columns = [
            _pair([f"{1e3 * _seconds(name, passes[name], card):.{digits}f}" for card in CARDS])
            for name, digits in ((SCORES, 0), (step_name(kind), 1))
        ]
        for part in range(2):
            times = [before[part] / now[part] for before, now in zip(whole, speeds, strict=True)]
            rates = _pair([f"{now[part]:.{part}f}" for now in speeds])
            columns.append(f"{rates} ({_pair([f'{time:.2f}' for time in times])} times as long)" if quantize else rates)
        padded = (f"{column:{width}}" for column, width in zip(columns, widths, strict=True))
        print(f"| {quantize or 'all bits':12} | {' | '.join(padded)} |", flush=True)


def _pair(values: Sequence[str]) -> str:
    return ", ".join(values)


def print_table(measured: Mapping[str, float] | None = None) -> None:
    """Print the counts, the time predicted from them, and beside it seconds that were measured, by name of the row."""
    passes = count_passes()
    print(f"the 8B network in bfloat16, on fake tensors; a decode step is captured, at token {STEP_AT}")
    for card in CARDS:
        print(
            f"{card.name}: products {card.product_flops / 1e12:.0f} TFLOP/s, attention "
            f"{card.attention_flops / 1e12:.0f} TFLOP/s, memory {card.bytes_per_s / 1e12:.1f} TB/s, a launch "
            f"{card.launch_s * 1e6:.0f} µs, copies {card.link_bytes_per_s / 1e9:.0f} GB/s"
        )
    print("\n|                                | TFLOP | GB: products | attention |  rest | launches | waits |", end="")
    print("".join(f" {card.name + ', ms':>12} |" for card in CARDS), "measured |")
    print("| ------------------------------ | ----: | -----------: | --------: | ----: | -------: | ----: |", end="")
    print(" -----------: |" * len(CARDS), "-------: |")
    for name, counts in passes.items():
        products, attention, rest = (size / 1e9 for size in moved_bytes(counts))
        print(
            f"| {name:30} | {counts.flops.total() / 1e12:5.1f} | {products:12.1f} | {attention:9.1f} | {rest:5.1f} "
            f"| {counts.launches:8,} | {len(counts.waits):5} |",
            end="",
        )
        print("".join(f" {1e3 * _seconds(name, counts, card):12.1f} |" for card in CARDS), end="")
        print(f" {1e3 * measured[name]:8.1f} |" if measured and name in measured else "        - |")
    print("\ncopied on a stream of its own, while the pass before is computed:")
    for name, counts in passes.items():
        if counts.ahead_bytes:
            in_line_s = counts.ahead_bytes / H200.link_bytes_per_s
            print(f"  {name}: {counts.ahead_bytes / 1e6:.1f} MB; in line with it {1e3 * in_line_s:.1f} ms more")
    print(f"\npredicted images/s: {', '.join(f'{card.name} {_scores(passes, card):.0f}' for card in CARDS)}; ", end="")
    print(f"with eight texts of {TEXT_TOKENS} tokens, {ROWS} in flight:")
    for kind in FAKE_PAGES:
        print(f"  {kind}: {', '.join(f'{card.name} {_texts(passes, kind, card):.1f}' for card in CARDS)}")


def _seconds(name: str, counts: Counts, card: Card) -> float:
    return predicted_s(counts, card, captured=name.startswith("step"))


def _scores(passes: dict[str, Counts], card: Card) -> float:
    return BATCH / _seconds(SCORES, passes[SCORES], card)


def _texts(passes: dict[str, Counts], kind: str, card: Card) -> float:
    admitted = _seconds(ADMITS, passes[ADMITS], card) / ADMISSION
    step = _seconds(step_name(kind), passes[step_name(kind)], card)
    return 1 / (admitted + STEPS * step / ROWS)
