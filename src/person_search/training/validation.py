"""How good the model is on people and scenes it does not train on, while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable

from person_search.config import Config, EvaluationConfig
from person_search.data.catalogue import open_split
from person_search.data.holdout import hold_out, validation_protocol, validation_split
from person_search.data.scene import Dataset, Protocol, ProtocolOptions, Split
from person_search.evaluation.predict import predict
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import Results, score
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.distributed import all_gather_object, errors_on_all_ranks


class Validation:
    """The validation scenes and their searches.

    ``results`` are the newest, on the process that scores them; None before the first time and on the others.
    """

    def __init__(self, split: Split, protocol: Protocol):
        self.split, self.protocol = split, protocol
        self.results: Results | None = None

    def run(
        self, model: PersonSearchModel, config: Config, *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """``val/map``, ``val/top1``, ``val/detection_ap``, ``val/detection_recall``, fractions; nan where undefined.

        Processes share the scenes; all call this and get the same.
        """
        # What is compared from epoch to epoch is the model alone, whatever the final evaluation adds.
        plain = config.evaluation.model_copy(update={"cbgm": False, "gfn_scores": False, "use_gt_boxes": False})
        predictions = predict(model, self.split, config.model_copy(update={"evaluation": plain}), progress=progress)
        metrics: dict[str, float] = {}
        with errors_on_all_ranks():
            if predictions is not None:
                metrics = self._metrics(predictions, plain)
        return all_gather_object(metrics)[0]

    def _metrics(self, predictions: Predictions, settings: EvaluationConfig) -> dict[str, float]:
        self.results = results = score(predictions, self.split, [self.protocol] if self.split.queries else [], settings)
        search = results.search[0] if results.search else None
        metrics = {
            "val/map": search.map if search else None,
            "val/top1": search.top1 if search else None,
            "val/detection_ap": results.detection.all.ap,
            "val/detection_recall": results.detection.all.recall,
        }
        return {name: math.nan if value is None else value for name, value in metrics.items()}


def selection_metric(metrics: dict[str, float]) -> float:
    """What makes a checkpoint better: mAP, or detection AP where no search was asked; -inf for neither."""
    for name in ("val/map", "val/detection_ap"):
        if not math.isnan(metrics.get(name, math.nan)):
            return metrics[name]
    return -math.inf


def training_and_validation(dataset: Dataset, config: Config) -> tuple[Split, Validation | None]:
    """The training scenes, and validation where there is any and it is asked for.

    A dataset's own validation split goes first; else ``validation_share`` of the training scenes are held out, also
    where training never validates on them: who holds scenes out may test on them later.
    """
    share, seed = config.data.validation_share, config.training.seed
    wanted = config.training.validate_every > 0 or bool(config.training.validate_epochs)
    held_out: Split | None = None
    if dataset.has_validation():
        train = open_split(dataset, "train")
        if wanted or share:
            held_out = validation_split(dataset, share, seed)
    elif share:
        train, held_out = hold_out(dataset, share, seed)
    else:
        train = open_split(dataset, "train")
    if held_out is None or not wanted:
        return train, None
    return train, Validation(held_out, validation_protocol(dataset, held_out, ProtocolOptions()))
