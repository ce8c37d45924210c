"""What may change similarities before they are ranked: every way of doing so is declared here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from person_search.config import EvaluationConfig
from person_search.data.scene import Split
from person_search.errors import UsageError
from person_search.evaluation import cbgm, gallery_filter
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


def _gallery_filter(predictions: Predictions, split: Split, config: EvaluationConfig) -> Rescore:
    return gallery_filter.filter_rescore(predictions)


GALLERY_FILTER = Rescorer(
    name="the gallery filter",
    needs=gallery_filter.ARRAYS,
    advice=gallery_filter.ADVICE,
    is_on=lambda config: config.gfn_scores,
    make=_gallery_filter,
)
RESCORERS: tuple[Rescorer, ...] = (
    Rescorer("CBGM", CONTEXT, cbgm.ADVICE, lambda config: config.cbgm, _context_matching),
    # Last, so that all similarities in a scene, those that CBGM gave too, are times one score.
    GALLERY_FILTER,
)
"""All of them, in the order in which they act."""


def refuse_what_is_not_predicted(config: EvaluationConfig, arrays: Collection[str], model: str) -> None:
    """Raise UsageError where a re-scorer that ``config`` asks for needs what a model does not predict.

    Args:
        config: how predictions are to be scored.
        arrays: the optional arrays that the model fills, beside the people of the queries' scenes.
        model: what the error calls it.
    """
    for rescorer in RESCORERS:
        missing = [name for name in rescorer.needs if name not in {*CONTEXT, *arrays}]
        if missing and rescorer.is_on(config):
            raise UsageError(f"{model} predicts no {missing[0]}, which {rescorer.name} needs; {rescorer.advice}")


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
