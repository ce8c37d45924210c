"""What may change similarities before they are ranked: every way of doing so is declared here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from person_search.config import EvaluationConfig
from person_search.data.scene import Split
from person_search.evaluation import cbgm
from person_search.evaluation.optional_arrays import CONTEXT
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.search import Rescore
from person_search.evaluation.similarity import Block


@dataclass(frozen=True)
class Rescorer:
    """A way to change similarities by what is known beside the two embeddings.

    Attributes:
        name: what errors call it.
        needs: names of the optional arrays that it reads.
        advice: what to do where they are missing.
        is_on: whether the settings ask for it.
        make: what changes the similarities of a block, of predictions as they are searched: in the split's scene
            order, without detections that take no part. What it leaves at -inf is outside the query's gallery.
    """

    name: str
    needs: tuple[str, ...]
    advice: str
    is_on: Callable[[EvaluationConfig], bool]
    make: Callable[[Predictions, Split, EvaluationConfig], Rescore]


def _context_matching(predictions: Predictions, split: Split, config: EvaluationConfig) -> Rescore:
    k1, k2 = cbgm.defaults(split.dataset)
    return cbgm.context_rescore(predictions, k1=config.cbgm_k1 or k1, k2=config.cbgm_k2 or k2)


RESCORERS: tuple[Rescorer, ...] = (
    Rescorer("CBGM", CONTEXT, cbgm.ADVICE, lambda config: config.cbgm, _context_matching),
)
"""All of them, in the order in which they act."""


def rescore_as_asked(
    predictions: Predictions, split: Split, config: EvaluationConfig, rescorers: Sequence[Rescorer] = RESCORERS
) -> Rescore | None:
    """What the re-scorers that ``config`` asks for do, one after the other; None where it asks for none.

    Raises DataError where one of them needs what ``predictions`` do not hold.
    """
    steps: list[Rescore] = []
    for rescorer in rescorers:
        if rescorer.is_on(config):
            predictions.require(rescorer.needs, by=rescorer.name, advice=rescorer.advice)
            steps.append(rescorer.make(predictions, split, config))
    if not steps:
        return None

    def rescore(block: Block) -> None:
        for step in steps:
            step(block)

    return rescore
