"""What goes into a model beside the image, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """The people found in one image, best score first.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the image as given.
        scores: (N,) float32 in 0..1.
        embeddings: (N, D) float32, of unit length (the baseline's: each of its levels).
    """

    boxes: Tensor
    scores: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Tensor) -> Detections:
        """Those of ``chosen``: row numbers, or (N,) bool."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.embeddings[chosen])

    def map(self, change: Callable[[Tensor], Tensor]) -> Detections:
        """The same with every tensor changed."""
        return Detections(change(self.boxes), change(self.scores), change(self.embeddings))


@dataclass(frozen=True, eq=False)
class GivenPerson:
    """A person whose box was given, such as a query's, and who else is in the image.

    Attributes:
        box: (4,) float32 xyxy, as given.
        embedding: (D,) float32, taken at that box and never weighted by a score.
        beside: the people that a detection pass finds beside this one, who takes part in it with score 1 (CBGM; Li and
            Miao, AAAI 2021); their embeddings are not weighted either. None where nobody asked for them.
        arrays: what else is known of this person, by name: its row of an optional array of predictions that has one
            for every query.
    """

    box: Tensor
    embedding: Tensor
    beside: Detections | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> GivenPerson:
        """The same with every tensor changed."""
        beside = None if self.beside is None else self.beside.map(change)
        arrays = {name: change(value) for name, value in self.arrays.items()}
        return GivenPerson(change(self.box), change(self.embedding), beside, arrays)


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What one pass over an image gives.

    Attributes:
        detections: the people found.
        given: those who were given, in the order of their boxes.
        arrays: what else is known, by name: of the scene its row of an optional array of predictions that has one for
            every scene; of its N detections their rows, (N, ...), of one that has one for every detection.
    """

    detections: Detections
    given: list[GivenPerson]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> ImageResult:
        """The same with every tensor changed."""
        arrays = {name: change(value) for name, value in self.arrays.items()}
        return ImageResult(self.detections.map(change), [person.map(change) for person in self.given], arrays)


def given_alone(boxes: Tensor, embeddings: Tensor) -> ImageResult:
    """The people in (n, 4) ``boxes`` as given, and none that were detected; ``embeddings`` (n, D) of them."""
    people = [GivenPerson(*person) for person in zip(boxes.to(embeddings.device), embeddings, strict=True)]
    nobody = Detections(embeddings.new_zeros(0, 4), embeddings.new_zeros(0), embeddings[:0])
    return ImageResult(nobody, people)
