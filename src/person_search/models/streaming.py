"""A model over a stream of images: results in their order, as they come, while the next images are read.

Three things happen at once: a thread takes images from the caller's iterable, the device computes a batch of them, and
what it found in the batch before is copied to ordinary memory and handed out. At most three batches of images are held
at any time, however many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from person_search.models.detections import ImageResult
from person_search.models.inference import prepare_for_inference
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.read_ahead import ReadAhead

IN_FLIGHT = {"cuda": 1}
"""Batches, by type of device, that are being computed or copied while the program works on those before; else none:
a CPU is done with a batch when the call returns."""
DARKEST, BRIGHTEST = -1.0, 2.0
"""A float image is in 0..1, and a little beyond where it was resized; from here on it is something else."""
END = object()

Results = Generator[ImageResult, None, None]


@dataclass(frozen=True, eq=False)
class _Item:
    """An image of the stream and the (n, 4) boxes to embed in it, if any were asked for."""

    image: Tensor
    boxes: Tensor | None


def detections_of(
    model: PersonSearchModel,
    images: Iterable[Tensor],
    *,
    batch_size: int = 4,
    with_boxes: Iterable[Tensor] | None = None,
    context: bool = False,
    detect: bool = True,
    same_size_batches: bool = False,
    precision: str = "32",
) -> ResultStream:
    """What the model finds in every image, in order, as it comes; on the CPU, float32.

    The network sees where an image of a batch ends and its padding begins: what it finds in one differs a little with
    the size of the largest image beside it (docs/technical-report.md has numbers). ``same_size_batches`` switches that
    off: every image then gives what it gives alone, but for the rounding of sums.

    Args:
        model: in evaluation mode, on the device to use. It is prepared for inference first (a copy of its weights in
            memory); who streams often from one model saves time by giving what ``prepare_for_inference`` makes of it.
        images: any number, even without end, of (3, H, W) RGB tensors of any sizes, uint8 or float in 0..1. They are
            taken in another thread, ahead of their use, so each is to be a tensor of its own.
        batch_size: images in one pass. Every ``batch_size``-th image begins a new one.
        with_boxes: for each image the (n, 4) boxes, xyxy in its pixels, whose people are to be embedded too, as
            ``ImageResult.given``; n may be 0. It is read together with ``images``, and may be as long.
        context: also find the people beside every given one (for CBGM).
        detect: False: embed what is in the given boxes alone. ``detections`` are then empty.
        same_size_batches: an image of another size than the one before begins a new batch too.
        precision: arithmetic of the network: 32, bf16, 16.

    Returns:
        A stream to iterate over once; leaving a ``with`` block, or ``close``, ends it early.

    Raises:
        ValueError: the model is in training mode, or an argument is out of its range.

    While it is iterated over, each after the results of all images before it: TypeError and ValueError for an image or
    boxes that are not as above, naming the image by its number from 0; ValueError where there are more images than
    lists of boxes or the other way round; and, as it is, whatever ``images`` or ``with_boxes`` raise.
    """
    if model.training:
        raise ValueError("the model is in training mode; call .eval() to detect")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: expected at least 1")
    if with_boxes is None and (context or not detect):
        raise ValueError("context=True and detect=False are about given boxes; give with_boxes too")
    ready = prepare_for_inference(model)
    items = _items(iter(images), None if with_boxes is None else iter(with_boxes))

    def compute(batch: Sequence[_Item]) -> list[ImageResult]:
        moved = [item.image.to(model.device, non_blocking=True) for item in batch]
        boxes = None if with_boxes is None else [item.boxes for item in batch if item.boxes is not None]
        with torch.no_grad(), autocast(model.device, precision):
            if boxes is None or detect:
                return ready.detect_and_embed(moved, boxes, context=context)
            return ready.embed_alone(moved, boxes)

    batches = _batches(items, batch_size, same_size=same_size_batches, device=model.device)
    return ResultStream(_results(batches, compute, in_flight=IN_FLIGHT.get(model.device.type, 0)))


class ResultStream(Iterator[ImageResult]):
    """An ``ImageResult`` per image. Closing it, or dropping it, ends the thread that reads the images.

    ``close`` waits up to a second for an iterable that is at work on its next image; the thread ends when it has it.
    """

    def __init__(self, results: Results):
        self._results = results
        self._closed = False

    def __next__(self) -> ImageResult:
        """Raises ValueError once the stream was closed."""
        if self._closed:
            raise ValueError("the stream of results is closed; call detections_of again for another one")
        return next(self._results)

    def close(self) -> None:
        """Drop what is still to come."""
        self._closed = True
        self._results.close()

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CopyToHost:
    """A copy of results to ordinary memory, float32, that the device makes while it is given other work."""

    def __init__(self, results: Sequence[ImageResult]):
        self._copies = [result.map(lambda value: value.float().to("cpu", non_blocking=True)) for result in results]
        self._done = torch.cuda.Event() if results and results[0].detections.scores.is_cuda else None
        if self._done is not None:
            self._done.record()

    def wait(self) -> list[ImageResult]:
        """The copies, once they are made."""
        if self._done is None:
            return self._copies
        self._done.synchronize()
        # They are in page-locked memory, of which a whole split's would be too much.
        return [result.map(torch.clone) for result in self._copies]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of ``precision`` (32, bf16, 16) on ``device``."""
    half = torch.float16 if precision == "16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")


def _results(
    batches: Iterator[list[_Item]], compute: Callable[[Sequence[_Item]], list[ImageResult]], *, in_flight: int
) -> Results:
    reader = ReadAhead(batches)
    copies: deque[CopyToHost] = deque()
    try:
        while True:
            # Where the device cannot be given anything yet, or ever again, nothing is gained by holding results back.
            while copies and not reader.has_item():
                yield from copies.popleft().wait()
            batch = reader.take()
            if batch is None:
                return
            copies.append(CopyToHost(compute(batch)))
            del batch
            while len(copies) > in_flight:
                yield from copies.popleft().wait()
    finally:
        reader.close()


def _batches(
    items: Iterable[_Item], batch_size: int, *, same_size: bool, device: torch.device
) -> Iterator[list[_Item]]:
    """The items in lists; an error among them comes after those before it."""
    batch: list[_Item] = []
    failure = None
    try:
        for number, item in enumerate(items, start=1):
            if same_size and batch and item.image.shape != batch[-1].image.shape:
                yield batch
                batch = []
            batch.append(_pinned(item, device))
            if number % batch_size == 0:
                yield batch
                batch = []
    except Exception as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def _pinned(item: _Item, device: torch.device) -> _Item:
    """The item with its image in page-locked memory, from where copies to a GPU overlap with its work."""
    if device.type != "cuda" or item.image.device.type != "cpu":
        return item
    with torch.cuda.device(device):
        return _Item(item.image.pin_memory(), item.boxes)


def _items(images: Iterator[Tensor], boxes: Iterator[Tensor] | None) -> Iterator[_Item]:
    number = 0
    for number, image in enumerate(images):
        _check_image(image, number)
        if boxes is None:
            yield _Item(image, None)
            continue
        given = next(boxes, END)
        if given is END:
            raise ValueError(f"with_boxes ended before image {number}; give a list of boxes, (0, 4) or more, for each")
        yield _Item(image, _checked_boxes(given, image, number))
    if boxes is not None and next(boxes, END) is not END:
        raise ValueError(f"with_boxes goes on after the last image, number {number}; give as many as there are images")


def _check_image(image: object, number: int) -> None:
    """Raise TypeError or ValueError for what is no picture. The values of one on the CPU are looked at too."""
    if not isinstance(image, Tensor):
        raise TypeError(
            f"image {number}: expected a (3, H, W) RGB tensor, found {type(image).__name__}; from_numpy(array) and "
            "permute(2, 0, 1) make one of an (H, W, 3) array, person_search.data.decode.read_image of a file"
        )
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image {number}: expected a (3, H, W) RGB tensor, found shape {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"image {number}: expected uint8 or float in 0..1, found {image.dtype}; convert it")
    if image.is_floating_point() and image.device.type == "cpu":
        low, high = (float(value) for value in image.aminmax())
        if not DARKEST < low <= high < BRIGHTEST:
            raise ValueError(
                f"image {number}: expected floats in 0..1, found {low:g} to {high:g}; divide by 255, or give uint8"
            )


def _checked_boxes(boxes: object, image: Tensor, number: int) -> Tensor:
    """``boxes`` as float32. Raises TypeError or ValueError."""
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes of image {number}: expected an (n, 4) tensor, found {type(boxes).__name__}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes of image {number}: expected shape (n, 4), x1, y1, x2, y2 in pixels, found {tuple(boxes.shape)}"
        )
    boxes = boxes.float()
    if not bool(boxes.isfinite().all()):
        raise ValueError(f"boxes of image {number}: NaN or infinity among them; every number must be finite")
    outside = boxes_outside(boxes, image)
    if bool(outside.any()):
        height, width = image.shape[1:]
        found = ", ".join(f"{value:g}" for value in boxes[int(outside.nonzero()[0])].tolist())
        raise ValueError(
            f"boxes of image {number}: ({found}) lies outside the image of {width} x {height} pixels; "
            "give x1, y1, x2, y2 in pixels of this image"
        )
    return boxes


def boxes_outside(boxes: Tensor, image: Tensor) -> Tensor:
    """(n,) bool: which of (n, 4) xyxy ``boxes`` share no pixel with the (3, H, W) ``image``."""
    height, width = image.shape[1:]
    return (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
