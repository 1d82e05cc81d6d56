"""An evaluation in four plots: agreement, residuals, calibration, and both distributions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from artimuse_actor.errors import UsageError
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.metrics.calibration import calibration
from jobs.evaluate.text import correlations
from jobs.storage.user_files import refuse_other_file, write_user_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SUFFIXES: Final = (".svg", ".png", ".pdf")
_BLUE, _ORANGE = "#2563a8", "#c2571a"
_MANY: Final = 2_000  # points, above which density is shown instead


def check_plots(path: str) -> str:
    """The suffix of a file to draw into.

    Raises:
        UsageError: no plot format has this suffix, or another file is there.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--plots takes a file called {', '.join(f'…{known}' for known in SUFFIXES)}, not {path!r}.")
    refuse_other_file("--plots", path, "plot", b"Matplotlib")
    return suffix


def write_plots(evaluation: Evaluation, path: str) -> None:
    """Draw the plots into one file.

    Raises:
        UsageError: the file is called like none that can be drawn, or another one is there.
        StoreError: it cannot be written.
    """
    suffix = check_plots(path)
    import matplotlib as mpl

    # The same plots give the same bytes.
    date = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}[suffix]
    with mpl.rc_context({"svg.hashsalt": "artimuse", "svg.fonttype": "none"}), write_user_file(path) as growing:
        draw_plots(evaluation).savefig(growing, format=suffix[1:], dpi=150, metadata=date)


def draw_plots(evaluation: Evaluation) -> Figure:
    """The four plots as a matplotlib figure; those without any pair say so."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    agreement, truth, residuals, tenths = figure.subplots(2, 2).flat
    usable = np.isfinite(evaluation.pairs.scores[0]) & np.isfinite(evaluation.pairs.truths)
    scores, truths = evaluation.pairs.scores[0][usable], evaluation.pairs.truths[usable]
    checkpoint = evaluation.fingerprint.checkpoint if evaluation.fingerprint else "scores"
    title = f"{evaluation.data_set}: {evaluation.question} of {checkpoint}, N = {len(scores):,}"
    if not evaluation.counts.is_complete:
        title += f" of {evaluation.counts.expected:,}"
    figure.suptitle(_plain(title))
    _agreement(agreement, evaluation, scores, truths)
    _distributions(truth, scores, truths)
    _residuals(residuals, evaluation, scores, truths)
    _calibration(tenths, evaluation, scores, truths)
    for axes in (agreement, truth, residuals, tenths):
        axes.spines[["top", "right"]].set_visible(False)
        if not len(scores):
            axes.text(0.5, 0.5, "no pair of score and ground truth", ha="center", transform=axes.transAxes)
    return figure


def _agreement(axes: Axes, evaluation: Evaluation, scores: NDArray[np.float64], truths: NDArray[np.float64]) -> None:
    _points(axes, scores, truths)
    _line(axes, evaluation, scores)
    title = correlations(evaluation.agreement) or "agreement"
    axes.set(xlabel="score", ylabel="ground truth", title=title)


def _distributions(axes: Axes, scores: NDArray[np.float64], truths: NDArray[np.float64]) -> None:
    axes.set(xlabel="score", ylabel="images", title="distributions")
    if not len(scores):
        return
    bins = min(40, max(5, round(len(scores) ** 0.5)))
    axes.hist(scores, bins=bins, color=_BLUE, alpha=0.6, label="score")
    above = axes.twiny()
    above.hist(truths, bins=bins, histtype="step", color=_ORANGE, linewidth=1.5, label="ground truth")
    above.set_xlabel("ground truth", color=_ORANGE)
    above.spines[["right"]].set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *above.get_legend_handles_labels()[0]]
    axes.legend(handles, ["score", "ground truth"], frameon=False)


def _residuals(axes: Axes, evaluation: Evaluation, scores: NDArray[np.float64], truths: NDArray[np.float64]) -> None:
    axes.set(xlabel="score", ylabel="ground truth − linear mapping", title="residuals")
    slope, intercept = evaluation.agreement.slope, evaluation.agreement.intercept
    if slope is None or intercept is None:
        return
    _points(axes, scores, truths - slope * scores - intercept)
    axes.axhline(0, color=_ORANGE, linewidth=1)
    if (rmse := evaluation.agreement.rmse.value) is not None:
        axes.set_title(f"residuals, RMSE {rmse:.3g}")


def _calibration(axes: Axes, evaluation: Evaluation, scores: NDArray[np.float64], truths: NDArray[np.float64]) -> None:
    """The mean ground truth of each tenth of the images by score, with twice its standard error."""
    axes.set(xlabel="mean score of a tenth", ylabel="mean ground truth of it", title="calibration")
    if not len(scores):
        return
    centres, means, errors = zip(*calibration(scores, truths), strict=True)
    axes.errorbar(centres, means, yerr=errors, fmt="o", color=_BLUE, capsize=3)
    _line(axes, evaluation, scores)


def _points(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if len(x) > _MANY and np.ptp(x) and np.ptp(y):
        density = axes.hexbin(x, y, gridsize=50, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
        axes.figure.colorbar(density, ax=axes, label="images")
    else:
        axes.plot(x, y, ".", color=_BLUE, alpha=0.5, markersize=5)


def _line(axes: Axes, evaluation: Evaluation, scores: NDArray[np.float64]) -> None:
    """The linear mapping of scores onto ground truth."""
    slope, intercept = evaluation.agreement.slope, evaluation.agreement.intercept
    if slope is None or intercept is None or not len(scores):
        return
    ends = np.array([scores.min(), scores.max()])
    axes.plot(ends, slope * ends + intercept, color=_ORANGE, linewidth=1, label="linear mapping")


def _plain(text: str) -> str:
    """Escape the characters that matplotlib reads as mathematics."""
    return text.replace("$", r"\$")
