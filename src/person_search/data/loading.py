"""Which images a training shows and in which order, and the processes that decode them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from person_search.data.grouping import aspect_group, in_groups
from person_search.data.scene import Boxes, Scene, Split
from person_search.data.size_checks import check_decoded
from person_search.data.target import Target
from person_search.data.unreadable import UnreadableImageError
from person_search.data.workers import Batches
from person_search.errors import DataError, UsageError


class Item(NamedTuple):
    """Scene number, whether it is shown mirrored, and the seed of the random choices made for it."""

    scene: int
    mirrored: bool
    seed: int


class Batch:
    """Images of any sizes, their targets and their scene numbers.

    Images are as decoded until ``to`` mirrors those that are to be, where that is fastest; targets are mirrored.
    Not a dataclass: Fabric would look into one and cast the boxes in it to half precision.
    """

    __slots__ = ("images", "mirror", "scenes", "targets")

    def __init__(
        self, images: list[Tensor], targets: list[Target], scenes: list[int], mirror: Sequence[bool] | None = None
    ):
        self.images, self.targets, self.scenes = images, targets, scenes
        self.mirror = list(mirror) if mirror is not None else [False] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``, ready for a model."""
        moved = [image.to(device, non_blocking=True) for image in self.images]
        images = [image.flip(2) if mirror else image for image, mirror in zip(moved, self.mirror, strict=True)]
        return Batch(images, [target.to(device) for target in self.targets], self.scenes)

    def pin_memory(self) -> Batch:
        """The same batch with its images in page-locked memory, from where copies to a GPU overlap with work."""
        return Batch([image.pin_memory() for image in self.images], self.targets, self.scenes, self.mirror)


class TrainingOrder:
    """The batches of each epoch: every scene and its mirror image, shuffled anew each epoch.

    One step of R processes with batch B and A accumulated batches shows the images of one process with batch
    R x B x A: their images are consecutive in the shuffled order, process by process. The last incomplete step is
    dropped. Iterating gives this process's batches from the position set by ``start_at``. An image's seed depends on
    the epoch and the image alone, so that what is drawn for it does not depend on how the work is shared.

    An epoch in which the number of images per step changed shows all its images, each once: what is left for the last
    step makes a smaller one or, where that would leave a process without an image, one with another batch. Fewer
    images than processes, that cannot be shared so, are left out.

    Args:
        scenes: scene numbers.
        flip: show mirror images too.
        flip_at_random: of a scene and its mirror image show one an epoch, by chance.
        batch_size: images per process and batch.
        accumulate: batches per step.
        seed: with the epoch's number, decides the order.
        rank, processes: which of how many processes this is.
        aspect_ratios: width / height of the image of each of ``scenes``; given, the images of a step are of like
            shape as far as possible, so that little is padded.
    """

    def __init__(
        self,
        scenes: Sequence[int],
        *,
        flip: bool,
        flip_at_random: bool = False,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
        aspect_ratios: Sequence[float] | None = None,
    ):
        both = (False, True) if flip and not flip_at_random else (False,)
        self.mirrored_share = 0.5 if flip and flip_at_random else 0.0
        self.items = [(scene, mirrored) for scene in scenes for mirrored in both]
        self.groups = None if aspect_ratios is None else [aspect_group(r) for r in aspect_ratios for _ in both]
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self.rank, self.processes = rank, processes
        self.images_per_step = batch_size * processes * accumulate
        self.steps = len(self.items) // self.images_per_step
        if self.steps == 0:
            raise UsageError(
                f"one step takes {self.images_per_step} images (batch_size x processes x accumulate), but an epoch has "
                f"only {len(self.items)}, mirror images included; use a smaller batch_size"
            )
        self.start_at(0)

    def start_at(self, epoch: int, images: int = 0, parts: Sequence[tuple[int, int]] = ()) -> None:
        """Continue after the first ``images`` images of ``epoch``, counted from 0.

        ``parts`` tells how those were shown that another number of images per step showed: (images per step, images)
        of one such number after the other.
        """
        self.epoch, self.images, self.parts = epoch, images, tuple(parts)
        self.step_sizes = self._steps_after(images, changed=bool(parts))
        """Images of every step that is left, by all processes."""

    @property
    def end(self) -> int:
        """Images shown when the epoch is over."""
        return self.images + sum(self.step_sizes)

    def batches_in(self, step_size: int) -> int:
        """Batches per process of a step of ``step_size`` images."""
        return -(-step_size // (self.batch_size * self.processes))

    def _steps_after(self, images: int, *, changed: bool) -> list[int]:
        whole = self.images_per_step
        if not changed and images % whole == 0:
            return [whole] * max(0, self.steps - images // whole)
        count, rest = divmod(max(0, len(self.items) - images), whole)
        sizes = [whole] * count
        if rest < self.processes and sizes:
            rest += sizes.pop()
        while rest and self.batches_in(rest) * self.processes > rest:
            rest -= 1
        return [*sizes, rest] if rest else sizes

    def shuffled(self) -> NDArray[np.int64]:
        """Numbers of all ``items`` in the order of the epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.items))
        if self.groups is None:
            return order
        shown = []
        for size, count in self.parts:
            shown.append(_in_groups_and_rest(order, self.groups, size)[:count])
            order = order[~np.isin(order, shown[-1])]
        return np.concatenate([*shown, _in_groups_and_rest(order, self.groups, self.images_per_step)])

    def __iter__(self) -> Iterator[list[Item]]:
        order = self.shuffled()
        seeds = np.random.default_rng([self.seed, self.epoch, 1]).integers(2**62, size=len(self.items))
        turned = np.random.default_rng([self.seed, self.epoch, 2]).random(len(self.items)) < self.mirrored_share
        start = self.images
        for size in self.step_sizes:
            shares = self.batches_in(size) * self.processes
            edges = [start + size * share // shares for share in range(shares + 1)]
            for share in range(self.rank, shares, self.processes):
                yield [
                    Item(self.items[number][0], self.items[number][1] or bool(turned[number]), int(seeds[number]))
                    for number in order[edges[share] : edges[share + 1]]
                ]
            start += size

    def __len__(self) -> int:
        """Batches from the position on, per process."""
        return sum(map(self.batches_in, self.step_sizes))


def _in_groups_and_rest(order: NDArray[np.int64], groups: Sequence[int], size: int) -> NDArray[np.int64]:
    """``in_groups``, and then what it leaves out."""
    arranged = in_groups(order, groups, size)
    return np.concatenate([arranged, order[~np.isin(order, arranged)]])


class TrainingScenes(TorchDataset[Any]):
    """(image as decoded, target, ``Item``) of an ``Item``; an error is returned, not raised, to keep it whole on its
    way out of a worker process."""

    def __init__(self, split: Split):
        self.split = split

    def __getitem__(self, item: Item) -> tuple[Tensor, Target, Item] | DataError:
        scene = self.split.scenes[item.scene]
        try:
            image = read_checked(self.split, scene)
            target = training_target(scene, image.shape[2], image.shape[1], mirrored=item.mirrored)
        except DataError as error:
            return error
        return image, replace(target, seed=item.seed, scene=item.scene), item


class WholeScenes(TorchDataset[Any]):
    """(image, scene number) of the scenes of ``split``, or the error met."""

    def __init__(self, split: Split, scenes: Sequence[int]):
        self.split, self.scenes = split, scenes

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        number = self.scenes[index]
        try:
            return read_checked(self.split, self.split.scenes[number]), number
        except DataError as error:
            return error

    def __len__(self) -> int:
        return len(self.scenes)


def read_checked(split: Split, scene: Scene) -> Tensor:
    """The picture of ``scene``. Raises UnreadableImageError, and DataError where it has another size than declared."""
    image = split.read(scene)
    check_decoded(split.path(scene), scene, image.shape[2], image.shape[1])
    return image


def training_target(scene: Scene, width: int, height: int, *, mirrored: bool) -> Target:
    """The people of ``scene`` in its image of ``width`` x ``height`` pixels: clipped to it, then mirrored if asked.

    Mirroring is x1' = W - 1 - x2, x2' = W - 1 - x1 as published, so a box that touches the right edge starts at -1.
    Raises DataError for a box without area in the image.
    """
    boxes = clip(scene.boxes, width, height)
    empty = np.flatnonzero(~has_area(boxes))
    if len(empty):
        given = ", ".join(f"{value:g}" for value in scene.boxes[empty[0]])
        raise DataError(
            f"image '{scene.name}' is {width} x {height} pixels, but its box {empty[0] + 1} ({given}) has no area "
            "inside; expected x1 < x2 and y1 < y2 in pixels: correct the annotation"
        )
    ignore = clip(scene.ignore, width, height)
    ignore = ignore[has_area(ignore)]
    if mirrored:
        boxes, ignore = mirror(boxes, width), mirror(ignore, width)
    return Target(torch.from_numpy(boxes), torch.from_numpy(scene.person_ids.copy()), torch.from_numpy(ignore))


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """(N, 4) boxes cut to an image of ``width`` x ``height`` pixels."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def has_area(boxes: Boxes) -> NDArray[np.bool_]:
    """(N,) whether a box has x1 < x2 and y1 < y2."""
    return (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def mirror(boxes: Boxes, width: int) -> Boxes:
    """(N, 4) boxes as they lie in the mirror image, ``width`` pixels wide."""
    mirrored = boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = width - 1 - boxes[:, 2], width - 1 - boxes[:, 0]
    return mirrored


def training_batches(split: Split, order: TrainingOrder, *, workers: int, pin: bool) -> Batches:
    """A ``Batch`` at a time in ``order``; a DataError met by a worker comes out in its batch's place."""
    return Batches(TrainingScenes(split), collate_training, workers=workers, pin=pin, batch_sampler=order)


def scene_batches(
    split: Split, *, batch_size: int, workers: int, scenes: Sequence[int] | None = None
) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Images and scene numbers, in order, of all or some scenes; workers start at once, by the thread that calls this.

    While it is iterated over, raises DataError naming an unreadable image.
    """
    chosen = range(len(split.scenes)) if scenes is None else scenes
    dataset = WholeScenes(split, chosen)
    batches = iter(Batches(dataset, _keep_list, workers=workers, pin=False, batch_size=batch_size))
    return map(_images_and_numbers, batches)


def _images_and_numbers(samples: list[Any]) -> tuple[list[Tensor], list[int]]:
    good = list(raise_errors(samples))
    return [image for image, _ in good], [number for _, number in good]


def unreadable_scenes(
    split: Split, scenes: Sequence[int], *, workers: int, progress: Callable[[int, int], None] | None = None
) -> dict[int, UnreadableImageError]:
    """Read every image once: the numbers of the scenes whose image cannot be read, with the reason.

    Leaving these out beforehand, and not when they are met, keeps batches full and the order the same on resuming.
    """
    bad: dict[int, UnreadableImageError] = {}
    loader = Batches(_Readable(split, scenes), _keep_list, workers=workers, pin=False, batch_size=8)
    done = 0
    for batch in loader:
        for number, error in batch:
            done += 1
            if error is not None:
                bad[number] = error
        if progress:
            progress(done, len(scenes))
    return bad


class _Readable(TorchDataset[Any]):
    """(scene number, None or why its image cannot be read): the pixels stay in the worker."""

    def __init__(self, split: Split, scenes: Sequence[int]):
        self.split, self.scenes = split, scenes

    def __getitem__(self, index: int) -> tuple[int, UnreadableImageError | None]:
        number = self.scenes[index]
        try:
            self.split.read(self.split.scenes[number])
        except UnreadableImageError as error:
            return number, error
        return number, None

    def __len__(self) -> int:
        return len(self.scenes)


def collate_training(samples: list[Any]) -> Batch | DataError:
    """Samples of ``TrainingScenes`` as a batch, or the first error among them."""
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    images, targets, items = (list(part) for part in zip(*samples, strict=True))
    return Batch(images, targets, [item.scene for item in items], [item.mirrored for item in items])


def raise_errors(samples: Iterable[Any]) -> Iterator[Any]:
    """The samples; raises the first DataError among them."""
    for sample in samples:
        if isinstance(sample, DataError):
            raise sample
        yield sample


def _keep_list(samples: list[Any]) -> list[Any]:
    return samples
