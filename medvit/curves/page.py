"""Figure and page of a learning curve: a plot of all scores, and tables of scores, effects and tried settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medvit.curves.amounts import LabelAmount
from medvit.curves.effects import Effect
from medvit.curves.options import CurveOptions
from medvit.curves.pool import Pool
from medvit.curves.results import CurvePoint, is_better
from medvit.curves.runs import BASELINES, DYNUNET, EQUAL_STEPS, PIXELS, REGRESSION, WHOLE_NETWORK, CurveRun, Settings
from medvit.document import Bullets, Document, Picture, Section, Table

NAMES = {
    "scratch": "from scratch",
    "pretrained": "pretrained on all training images",
    "given": "given weights",
    "continued": "given weights, continued on all training images",
    PIXELS: "logistic regression on pixels",
    DYNUNET: "DynUNet from scratch",
    EQUAL_STEPS: "from scratch, as many steps as with pretraining",
}
WAYS = {"full": "all weights", "lora": "LoRA", "frozen": "linear probe", REGRESSION: "", WHOLE_NETWORK: ""}
COLORS = ("#1f2a44", "#d95f02", "#1b9e77", "#7570b3", "#999999", "#e7298a")


def curve_figure(lines: Sequence[CurvePoint], metric: str) -> Figure:
    """Plot the score over the number of labeled patients.

    Each arm (choice of initial weights) has a line through the means over draws of labeled patients, and a dot for each
    draw. Only the fine-tuning method with the best score on training patients is shown for each arm.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    arms = [arm for arm in NAMES if any(line.arm == arm for line in lines)]
    for number, arm in enumerate(arms):
        shown = sorted(
            (line for line in lines if line.arm == arm and line.is_chosen), key=lambda line: line.num_patients
        )
        x = [line.num_patients * 1.03 ** (number - len(arms) / 2) for line in shown]
        style = "--" if arm in BASELINES else "-"
        axes.plot(x, [line.mean.mean for line in shown], style, color=COLORS[number], label=NAMES[arm], linewidth=1.6)
        for place, line in zip(x, shown, strict=True):
            axes.scatter([place] * len(line.scores), line.scores, s=12, color=COLORS[number], alpha=0.5, linewidths=0)
    axes.set_xscale("log")
    ticks = sorted({line.num_patients for line in lines})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labeled patients")
    axes.set_ylabel(metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def curve_document(
    title: str, lines: Sequence[CurvePoint], metric: str, protocol: Bullets, tried: Mapping[CurveRun, float]
) -> Document:
    """Return the page: figure, scores, effects, protocol, and the tuning scores in `tried`."""
    num_tested = sum(line.is_tested for line in lines)
    picture = Picture.of("curve", "Mean over draws; each dot is a draw of labels.", curve_figure(lines, metric))
    opening = _verdict(lines)
    return Document(
        title,
        opening,
        [
            Section("Curve", [[picture]]),
            Section(
                "Scores",
                [
                    f"{metric}, mean over draws [95 % interval over draws and patients]. Settings at the edge of their "
                    "grid are marked: better ones may be outside.",
                    _scores(lines),
                ],
            ),
            Section(
                "Effects",
                [
                    "Paired difference from the best method from scratch. The effects of the chosen methods are "
                    f"tested: their p is corrected for all {num_tested} of them (Holm). A gain has a corrected p below "
                    ".05, a mean not below the baselines, and a pair of runs for every draw.",
                    _effects(lines),
                ],
            ),
            Section("Protocol", [protocol]),
            Section(
                "Settings that were tried",
                ["Scores of training patients outside of the draw; the best mean was chosen.", _tried(tried)],
            ),
        ],
    )


def _verdict(lines: Sequence[CurvePoint]) -> str:
    """Return sentences on initial weights with a gain, and on those that beat random weights but not a baseline."""
    gains = [line for line in lines if line.is_gain]
    others = [line for line in lines if not line.is_gain and is_better(line)]
    texts = []
    if gains:
        texts.append(f"Gains: {_named(gains)}.")
    if others:
        named = "; ".join(f"{_named([line])} ({_obstacle(line)})" for line in others)
        texts.append(f"Better than from scratch, but not a gain: {named}.")
    return " ".join(texts) or "No arm is better than training from scratch by the protocol below."


def _named(lines: Sequence[CurvePoint]) -> str:
    return "; ".join(f"{NAMES[line.arm]}, {line.num_patients} labeled patients" for line in lines)


def protocol_lines(options: CurveOptions, pool: Pool, pretraining_steps: int) -> Bullets:
    """Return the protocol of a curve as sentences."""
    patients = [len({row.patient_id for row in part}) for part in (pool.train, pool.test)]
    grid = f"rates {_listed(options.rates)}, steps {_listed(options.lengths)}, {', '.join(options.ways)}"
    lines = [
        f"{patients[0]} training patients with labels; {patients[1]} patients of the split {options.split} as test.",
        f"Settings of every arm were chosen from the same grid ({grid}) before a test label was read, by the mean "
        f"score over {options.tuning_draws} draws of labeled patients, on training patients outside of the draw.",
        f"For each amount of labels, there are {options.draws} random draws of labeled patients, stratified by class. "
        "A smaller amount is a subset of each larger amount of the same draw. Draw r has seed r. "
        "The number of steps is fixed, and the last weights are kept.",
        f"Intervals resample draws and test patients together ({options.resamples} times). If several draws share a "
        "pretraining, the pretrainings are resampled first, and then the draws of each pretraining.",
    ]
    if pretraining_steps:
        lines.append(
            f"{options.num_pretrainings} pretrainings of {pretraining_steps} steps with different seeds; each draw "
            "uses one of them."
        )
    return Bullets(lines)


def write_page(folder: Path, document: Document) -> None:
    """Write the page as HTML and as Markdown, with its figure."""
    document.write_html(folder / "curve.html")
    document.write_markdown(folder / "curve.md", "figures")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _scores(lines: Sequence[CurvePoint]) -> Table:
    head = ["labeled patients", "weights", "method", "settings", "draws", "score", "lowest and highest draw", "chosen"]
    return Table(
        head,
        [
            [
                *_heading(line),
                line.settings + (f" ({', '.join(line.edges)})" if line.edges else ""),
                str(len(line.draws)),
                _interval(line.mean),
                f"{min(line.scores):.3f} to {max(line.scores):.3f}",
                "yes" if line.is_chosen else "",
            ]
            for line in lines
        ],
    )


def _effects(lines: Sequence[CurvePoint]) -> Table:
    head = ["labeled patients", "weights", "method", "difference", "p", "p corrected", "gain"]
    return Table(
        head,
        [
            [
                *_heading(line),
                _interval(line.effect, sign=True),
                f"{line.effect.p:.4f}",
                "" if line.corrected_p is None else f"{line.corrected_p:.4f}",
                "yes" if line.is_gain else _obstacle(line) if is_better(line) else "",
            ]
            for line in lines
            if line.effect is not None
        ],
    )


def _obstacle(line: CurvePoint) -> str:
    """Return the reason why the effect of a line is not a gain, with baselines named in words."""
    word, _, arm = line.obstacle.rpartition(" ")
    return f"{word} {NAMES[arm]}" if arm in NAMES else line.obstacle


def _heading(line: CurvePoint) -> tuple[str, str, str]:
    """Return the cells that name a line of a table: labeled patients, weights and method."""
    return str(line.num_patients), NAMES[line.arm], WAYS[line.way]


def _tried(tried: Mapping[CurveRun, float]) -> Table:
    found: dict[tuple[LabelAmount, str, str, Settings], list[float]] = defaultdict(list)
    for run, score in tried.items():
        found[run.amount, run.arm, run.way, run.settings].append(score)
    rows = [
        [str(amount), NAMES[arm], WAYS[way], str(settings), f"{np.mean(each):.3f}", str(len(each))]
        for (amount, arm, way, settings), each in found.items()
    ]
    return Table(["labeled", "weights", "method", "settings", "score", "draws"], rows)


def _interval(effect: Effect, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{effect.mean:{form}} [{effect.low:{form}}, {effect.high:{form}}]"
