"""What the program asks of a method, however the method does it."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from person_search.config import MethodSettings
from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.models.detections import Detections, ImageResult, given_alone
from person_search.models.scene_memory import SceneMemory


@dataclass(frozen=True, eq=False)
class HeavyParts:
    """The parts of a network in which most of its time goes: what is worth compiling and keeping channels last.

    One with an attribute ``recompute`` can compute its activations again for the gradient instead of keeping them.

    Attributes:
        per_image: run once on a batch of whole images; compiled.
        per_region: run on as many regions as there happen to be; compiled for any number of them.
        uncompiled: kept channels last like the others, but not worth compiling.
    """

    per_image: list[nn.Module] = field(default_factory=list)
    per_region: list[nn.Module] = field(default_factory=list)
    uncompiled: list[nn.Module] = field(default_factory=list)


class PersonSearchModel(nn.Module, abc.ABC):
    """Detection and re-identification in one network: what every method does. How is the method's own business.

    Call it with a list of (3, H, W) RGB tensors, uint8 or float in 0..1, of any sizes: in evaluation mode it
    returns a list of ``Detections``; in training mode it also wants a list of ``Target`` and returns the losses.
    ``build_model`` makes a method with ``(config, num_identities, load_weights=...)``; ``load_weights`` is off when a
    checkpoint follows.

    Args:
        config: the model settings.
        num_identities: N, identities of the training set.

    Attributes:
        metrics: scalars of the newest training batch to log beside its losses; nan where there is no value.
        prepared: whether this is a copy for inference (``prepare_for_inference``), which cannot be trained.
        keep_samples: whether a training batch leaves ``samples``.
        samples: per image of that batch the regions that trained detection, (n, 4) in its pixels, and their (n,)
            labels: identity, -1 a person without, below: background.
        scene_memory: what training remembers of earlier batches beside the weights and buffers; None: nothing. A step
            that is not taken leaves it as it was, and a run that goes on finds it as it left it.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    """The settings of the method, which say what is in YAML and on the command line where it is chosen."""

    def __init__(self, config: MethodSettings, num_identities: int):
        super().__init__()
        if num_identities < 1:
            raise UsageError(f"a model needs at least one training identity, found {num_identities}")
        self.config = config
        self.num_identities = num_identities
        self.metrics: dict[str, Tensor] = {}
        self.prepared = False
        self.keep_samples = False
        self.samples: list[tuple[Tensor, Tensor]] = []
        self.scene_memory: SceneMemory | None = None

    # What a method supplies.

    @abc.abstractmethod
    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses by name, scalars already weighted; their sum is what training makes smaller."""

    @abc.abstractmethod
    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, *, context: bool = False
    ) -> list[ImageResult]:
        """The people of every image and those in given boxes, from one pass.

        Args:
            images: [(3, H, W)] RGB.
            boxes: per image (n, 4) xyxy in its pixels, or None for none at all.
            context: also find the people beside every given one.
        """

    @abc.abstractmethod
    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """(n, D) embeddings of given boxes, per image (n, 4) xyxy in its pixels; nothing is detected."""

    # What a method may say beside that.

    def embed_alone(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[ImageResult]:
        """``embed`` with all else that is known of the scenes and of the people in the boxes, who are ``given``."""
        return [given_alone(*each) for each in zip(boxes, self.embed(images, boxes), strict=True)]

    def optional_arrays(self) -> tuple[str, ...]:
        """Names of the arrays in every ``ImageResult`` and ``GivenPerson`` that comes of a pass with boxes."""
        return ()

    def reid_parameters(self) -> list[nn.Parameter]:
        """Parameters with their own optimiser; may be empty. All others are detection parameters."""
        return []

    def unclipped_parameters(self) -> list[nn.Parameter]:
        """Parameters that clipping of the gradient's norm neither counts nor changes."""
        return []

    def weights_from(self, method: str, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The ``state`` dict of a model of ``method`` as a start for this one; None where it is of no use.

        What belongs to identities is left out by who asks, and so need not fit.
        """
        return dict(state) if method == self.config.method else None

    def heavy_parts(self) -> HeavyParts:
        """What to compile and to keep channels last."""
        return HeavyParts()

    def fold_normalisation(self) -> None:
        """Fold normalisations into the convolutions before them, for good; the model is a copy for inference."""

    def propose(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]] | None:
        """What a first stage proposes: (n, 4) boxes, in pixels of each image, and (n,) logits, best first.

        None when the method has no such stage.
        """
        return None

    # What a user calls.

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses by name in training mode, detections (best first) in evaluation mode.

        Raises ValueError in training mode without ``targets``.
        """
        if not self.training:
            return [result.detections for result in self.detect_and_embed(images)]
        if targets is None or len(targets) != len(images):
            raise ValueError("training mode needs one target per image; call .eval() to detect")
        return self.losses(images, targets)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``. Raises ValueError for a copy that was prepared for inference."""
        if mode and self.prepared:
            raise ValueError("this is a copy for inference, which cannot be trained; train the model it is a copy of")
        return super().train(mode)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
