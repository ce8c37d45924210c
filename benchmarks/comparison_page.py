"""The comparison as a section of a page: tables from numbers, and what they do and do not say."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One row: what it is called, which settings make it."""

    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    gpu_only: bool = False


VARIANTS = {
    "baseline": Variant("baseline"),
    "oim": Variant("OIM", {"method": "oim"}),
    "nae": Variant("NAE", {"method": "nae"}),
    "seqnet": Variant("SeqNet", {"method": "seqnet"}),
    "nae4ps": Variant("NAE as its authors released it", {"method": "nae4ps"}),
    "nae-plus": Variant("NAE+", {"method": "nae-plus"}),
    "oimnet++": Variant("OIMNet++", {"method": "oimnet++"}),
    "oimnet+++": Variant("OIMNet+++", {"method": "oimnet+++"}),
    "seqnext": Variant("SeqNeXt", {"method": "seqnext"}),
    "coat": Variant("COAT", {"method": "coat"}),
    "gfn": Variant("SeqNeXt with a gallery filter network", {"method": "seqnext", "gfn": True, "gfn_scores": True}),
    "softmax": Variant("baseline, softmax instead of OIM", {"reid_loss": "softmax"}),
    "c4c5": Variant("baseline, C4 + C5 instead of C5", {"levels": ("C4", "C5")}),
    "no-warmup": Variant("baseline, without warm-up", {"warmup_epochs": 0}),
    "no-pk": Variant("baseline, without PK sampling", {"pk_sampling": False}),
    "bf16": Variant("baseline, bf16", {"precision": "bf16"}, gpu_only=True),
}
CHANCE = "chance"


@dataclass(frozen=True)
class Entry:
    """The result of one training.

    Attributes:
        variant, seed: which.
        map, top1, detection_ap: fractions on the test split; None where there is none.
        epoch_seconds, images_per_second: of training, waiting for data included.
        memory: peak while training, MiB: allocated on the GPU, or resident in the training process.
        steps: taken.
        where: device and version of torch.
    """

    variant: str
    seed: int
    map: float | None
    top1: float | None
    detection_ap: float | None
    epoch_seconds: float | None = None
    images_per_second: float | None = None
    memory: float | None = None
    steps: int | None = None
    where: str | None = None


PUBLISHED = (
    ("OIM", "oim", (88.1, 89.2), (36.0, 76.7)),
    ("NAE", "nae", (89.8, 90.7), (37.9, 77.3)),
    ("baseline", "baseline", (90.0, 91.0), (40.5, 81.3)),
)
"""Method, start of its recipes' names, mAP and top-1 on CUHK-SYSU and on PRW: as published, 600 x 1000."""

START, END = "<!-- from here on made by `make compare` -->", "<!-- end of what `make compare` made -->"

INTRODUCTION = """## Methods and their parts compared

Methods are compared, and the baseline with one part of it changed at a time. All see the same scenes, take the same
number of steps and use the same optimiser. Methods that pool RoIs of 14 x 14 instead of 14 x 7 sample half as many an
image, so that every training takes minutes: all but the baseline, OIM and NAE. `make compare`
(`benchmarks/compare.py`) makes this section, and keeps trainings that are finished.
"""

READING = """### What this shows, and what it does not

It shows that every method and every part trains and searches end to end, what a part changes within this budget, and
what it costs in time and memory here. The scored checkpoint is the last one: nothing was chosen on the test split.

It does not say which method is better on real pictures. The scenes are drawn. The networks start from random weights
and see a few hundred to a few thousand steps, while the published ones start from ImageNet weights and are trained to
the end. The learning rates and anchors are those of the demo's baseline and were tuned for no variant, so that a
variant which learns slowly at first looks worse than it would be in the end.
"""
LEGEND = (
    "mAP, top-1 and detection AP are in per cent, on test scenes with people unseen in training. Seconds and images "
    "per second are of training, waiting for data included; they are left out where other work ran beside it. Memory "
    "is the peak while training: on a CPU what the training process held, libraries included; on a GPU what it "
    "allocated there."
)
ONE_SEED = (
    "Every row is one training with one seed. How far another seed alone would move it was not measured, so that small "
    "differences between rows, of some points, are no finding."
)
SEVERAL_SEEDS = (
    "Numbers are means over seeds, with the standard deviation of a single training beside them; differences within "
    "it mean nothing. A row with one seed says so."
)


def put_section(text: str, section: str) -> str:
    """The page ``text`` with ``section`` between its marks, which are added at its end where there are none."""
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2] or "\n"
    return f"{before.rstrip()}\n\n{START}\n\n{section}\n{END}{after}".lstrip()


def comparison(presets: Mapping[str, Sequence[Entry]], descriptions: Mapping[str, str]) -> str:
    """The section in Markdown: a table per preset, how to read them, and the published numbers."""
    parts = [INTRODUCTION]
    for name, entries in presets.items():
        places = sorted({entry.where for entry in entries if entry.where})
        steps = sorted({entry.steps for entry in entries if entry.steps})
        parts += [
            f"### Measured: preset `{name}`\n",
            wrapped(f"{descriptions[name]}; {' or '.join(map(str, steps))} steps. Measured on {'; '.join(places)}."),
            table(entries),
            wrapped(LEGEND),
        ]
    seeds = max(seeds_of(entries) for entries in presets.values())
    parts += [READING, wrapped(SEVERAL_SEEDS if seeds > 1 else ONE_SEED), published()]
    return "\n".join(parts)


def wrapped(text: str) -> str:
    """A paragraph."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def seeds_of(entries: Sequence[Entry]) -> int:
    """The most trainings that any variant had."""
    return max(sum(entry.variant == name for entry in entries) for name in {entry.variant for entry in entries})


def table(entries: Sequence[Entry]) -> str:
    """One row per variant, in the order of ``VARIANTS``, chance last."""
    rows = [
        "| | seeds | mAP | top-1 | detection AP | s / epoch | images / s | memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, label in [*((name, v.label) for name, v in VARIANTS.items()), (CHANCE, "random ranking of true boxes")]:
        found = [entry for entry in entries if entry.variant == name]
        if not found:
            continue
        cells = [
            *(spread([getattr(e, key) for e in found], 100, 1) for key in ("map", "top1", "detection_ap")),
            *(spread([getattr(e, key) for e in found], 1, 1) for key in ("epoch_seconds", "images_per_second")),
            spread([entry.memory for entry in found], 1, 0),
        ]
        rows.append(f"| {label} | {'-' if name == CHANCE else len(found)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def spread(values: Sequence[float | None], factor: float, digits: int) -> str:
    """Mean, and standard deviation where there are several; a dash where there is nothing."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def published() -> str:
    """The published numbers, marked as such, with the commands that would reproduce each."""
    lines = [
        "### Published, not measured here",
        "",
        wrapped(
            "These numbers were published with the reference implementation of the baseline, for a ResNet-50 from "
            "ImageNet weights at 600 x 1000. The papers on OIM and NAE report other numbers, for settings of their "
            "own. None of them is ours, and none compares with a number above."
        ),
        "| | CUHK-SYSU mAP / top-1 | PRW mAP / top-1 |",
        "| --- | ---: | ---: |",
    ]
    for label, _, *results in PUBLISHED:
        lines.append(f"| {label} (published) | {' | '.join(f'{m:.1f} / {t:.1f}' for m, t in results)} |")
    lines += [
        "",
        wrapped(
            "These commands would reproduce them, with the dataset in `data/` and the Caffe-flavour ResNet-50 weights "
            "where the recipe says. They were not run."
        ),
        "```sh",
    ]
    for _, name, *_ in PUBLISHED:
        for dataset in ("cuhk-sysu", "prw"):
            recipe = f"{name}_{dataset}"
            training = f"person-search train --config recipes/{recipe}.yaml"
            lines.append(f"{training} && person-search evaluate --checkpoint runs/{recipe}")
    return "\n".join([*lines, "```", ""])
