"""A stream of images: in order, ahead of its use but not far, and ended properly however it ends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from person_search.config import MethodSettings, method_settings
from person_search.data.target import Target
from person_search.models import streaming
from person_search.models.building import build_model
from person_search.models.detections import Detections, GivenPerson, ImageResult
from person_search.models.inference import prepare_for_inference
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.streaming import detections_of

WAIT = 30.0
"""Seconds after which what does not happen is taken for hanging."""


class Brightness(PersonSearchModel):
    """Finds one person in every image, whose embedding is the image's mean, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(MethodSettings(method="brightness"), 1)
        self.weight = nn.Parameter(torch.ones(1))
        self.batches: list[list[tuple[int, ...]]] = []

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        raise NotImplementedError

    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, *, context: bool = False
    ) -> list[ImageResult]:
        self.batches.append([tuple(image.shape[1:]) for image in images])
        given = [[]] * len(images) if boxes is None else [[GivenPerson(box, box[:1]) for box in own] for own in boxes]
        means = [self.weight * image.float().mean() for image in images]
        return [
            ImageResult(Detections(torch.zeros(1, 4), torch.ones(1), mean[None]), people)
            for mean, people in zip(means, given, strict=True)
        ]

    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError


@pytest.fixture
def brightness() -> Brightness:
    return Brightness().eval()


@pytest.fixture(params=[0, 1], ids=["handed-out-at-once", "one-batch-in-flight"], autouse=True)
def in_flight(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As on a CPU, and as on a GPU."""
    monkeypatch.setitem(streaming.IN_FLIGHT, "cpu", request.param)
    return int(request.param)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert_no_reader()


@pytest.fixture(scope="module")
def model() -> PersonSearchModel:
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "width": 0.125, "weights": "none", "shorter_side": (64,), "longer_side": 96}
    model = build_model(method_settings("baseline", **small, score_threshold=0.0, rpn_post_nms_test=20), 3).eval()
    return prepare_for_inference(model)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def assert_no_reader() -> None:
    for thread in readers():
        thread.join(WAIT)
    assert readers() == []


def numbered(count: int | None = None) -> Iterator[Tensor]:
    for number in itertools.count() if count is None else range(count):
        yield torch.full((3, 8, 8), number % 256, dtype=torch.uint8)


def numbers(results: Iterator[ImageResult]) -> list[int]:
    return [round(float(result.detections.embeddings)) for result in results]


def make_images(*sizes: tuple[int, int]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8) for size in sizes]


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_results_come_in_the_order_of_the_images(brightness: Brightness, count: int) -> None:
    assert numbers(detections_of(brightness, numbered(count), batch_size=4)) == list(range(count))
    assert [len(batch) for batch in brightness.batches] == [4] * (count // 4) + ([count % 4] if count % 4 else [])


def test_an_endless_stream_is_read_a_few_batches_ahead_and_no_further(brightness: Brightness) -> None:
    taken = 0

    def count_taken() -> Iterator[Tensor]:
        nonlocal taken
        for image in numbered():
            taken += 1
            yield image

    with detections_of(brightness, count_taken(), batch_size=2) as results:
        for number, result in enumerate(results):
            assert float(result.detections.embeddings) == number
            # One batch on its way from the iterator, one waiting, one or two at the device or being handed out.
            assert taken <= number + 1 + 4 * 2
            if number == 40:
                break
    assert_no_reader()


def test_a_result_is_handed_out_before_the_next_image_is_there(brightness: Brightness) -> None:
    """As from a camera: what is found in one picture does not wait for the next."""
    received = threading.Semaphore(0)

    def answers() -> Iterator[Tensor]:
        for image in numbered(3):
            yield image
            assert received.acquire(timeout=WAIT)

    seen = []
    for result in detections_of(brightness, answers(), batch_size=1):
        seen.append(float(result.detections.embeddings))
        received.release()
    assert seen == [0, 1, 2]


def test_it_finds_what_the_model_finds(model: PersonSearchModel) -> None:
    images = make_images((64, 96), (80, 64), (64, 80), (96, 96), (64, 64))
    boxes = [torch.tensor([[4.0, 4, 30, 50], [10, 8, 40, 60]])[: number % 3] for number in range(5)]
    found = list(detections_of(model, iter(images), batch_size=2, with_boxes=iter(boxes), context=True))
    for start in range(0, 5, 2):
        batch = slice(start, start + 2)
        expected = model.detect_and_embed(images[batch], boxes[batch], context=True)
        for ours, theirs in zip(found[batch], expected, strict=True):
            assert_same(ours, theirs)


def assert_same(ours: ImageResult, theirs: ImageResult) -> None:
    pairs = [(ours.detections, theirs.detections)]
    for one, other in zip(ours.given, theirs.given, strict=True):
        assert torch.equal(one.box, other.box)
        assert torch.equal(one.embedding, other.embedding)
        pairs.append((one.beside, other.beside))
    for one, other in pairs:
        for name in ("boxes", "scores", "embeddings"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_embedding_alone_detects_nobody(model: PersonSearchModel) -> None:
    images = make_images((64, 96), (64, 96))
    boxes = [torch.zeros(0, 4), torch.tensor([[4.0, 4, 30, 50]])]
    nobody, one = detections_of(model, images, with_boxes=boxes, detect=False)
    expected = model.embed(images, boxes)[1]
    assert len(nobody.detections) == len(one.detections) == len(nobody.given) == 0
    assert nobody.detections.embeddings.shape == (0, expected.shape[1])
    assert torch.equal(one.given[0].embedding[None], expected)
    assert torch.equal(one.given[0].box[None], boxes[1])


def test_results_hold_no_gradient(brightness: Brightness) -> None:
    (result,) = detections_of(brightness, numbered(1))
    assert not result.detections.embeddings.requires_grad
    assert torch.is_grad_enabled()


def test_batches_of_one_size_begin_anew_with_another_and_at_every_whole_number(brightness: Brightness) -> None:
    a, b = (8, 8), (8, 12)
    list(detections_of(brightness, make_images(a, a, b, b, b, b, a), batch_size=3, same_size_batches=True))
    assert brightness.batches == [[a, a], [b], [b, b, b], [a]]


def test_among_images_of_one_size_each_gives_what_it_gives_alone(model: PersonSearchModel) -> None:
    images = make_images((64, 96), (64, 96), (64, 96), (96, 64), (96, 64), (64, 96))
    alone = [model([image])[0] for image in images]

    def furthest(*, same_size_batches: bool) -> float:
        found = detections_of(model, images, batch_size=6, same_size_batches=same_size_batches)
        pairs = zip([result.detections for result in found], alone, strict=True)
        return max(difference(one, other) for one, other in pairs)

    assert furthest(same_size_batches=True) < 1e-5
    assert furthest(same_size_batches=False) > 1e-3


def difference(one: Detections, other: Detections) -> float:
    """The largest, of embeddings (of length 1) or scores; infinite where they are not equally many."""
    if len(one) != len(other):
        return float("inf")
    pairs = ((one.embeddings, other.embeddings), (one.scores, other.scores))
    return max(float((a - b).abs().max()) for a, b in pairs)


class CameraError(Exception):
    """What a caller's own iterator raises."""


def failing(count: int, error: BaseException) -> Iterator[Tensor]:
    yield from numbered(count)
    raise error


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_an_error_of_the_iterator_comes_as_it_is_after_the_results_before_it(
    brightness: Brightness, count: int
) -> None:
    error = CameraError("unplugged")
    results = detections_of(brightness, failing(count, error), batch_size=2)
    seen = [round(float(next(results).detections.embeddings)) for _ in range(count)]
    assert seen == list(range(count))
    with pytest.raises(CameraError) as caught:
        next(results)
    assert caught.value is error
    assert_no_reader()
    assert next(results, None) is None


def test_an_error_that_is_no_ordinary_one_comes_out_too(brightness: Brightness) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(detections_of(brightness, failing(3, KeyboardInterrupt()), batch_size=2))


def test_an_error_of_the_model_ends_the_thread(brightness: Brightness, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(brightness, "detect_and_embed", full)
    results = detections_of(brightness, numbered())
    with pytest.raises(MemoryError):
        next(results)
    assert_no_reader()


def test_a_closed_stream_says_so(brightness: Brightness) -> None:
    results = detections_of(brightness, numbered())
    next(results)
    results.close()
    assert_no_reader()
    with pytest.raises(ValueError, match="stream of results is closed; call detections_of again"):
        next(results)
    results.close()


def test_a_stream_that_was_never_begun_has_no_thread(brightness: Brightness) -> None:
    results = detections_of(brightness, numbered())
    assert readers() == []
    results.close()
    with pytest.raises(ValueError, match="closed"):
        next(results)


def test_a_stream_that_is_dropped_ends_its_thread(brightness: Brightness) -> None:
    for result in detections_of(brightness, numbered()):
        if float(result.detections.embeddings) == 3:
            break
    assert_no_reader()


def test_closing_does_not_wait_for_an_iterator_that_waits(
    brightness: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("person_search.runtime.read_ahead.PATIENCE", 0.01)
    go_on, ended = threading.Event(), threading.Event()

    def stuck() -> Iterator[Tensor]:
        try:
            yield from numbered(1)
            go_on.wait(WAIT)
            yield from numbered()
        finally:
            ended.set()

    results = detections_of(brightness, stuck(), batch_size=1)
    next(results)
    results.close()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(WAIT)


def box(*corners: float) -> Tensor:
    return torch.tensor([corners])


HERE = box(1, 1, 5, 7)
IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("abc", "image 0: expected a .3, H, W. RGB tensor, found str; .*read_image"),
        ([IMAGE.numpy()], "image 0: .* found ndarray; .*permute"),
        ([IMAGE, None], "image 1: .* found NoneType"),
        (IMAGE, r"image 0: .* found shape \(8, 8\)"),
        ([IMAGE, IMAGE.permute(1, 2, 0)], r"image 1: .* found shape \(8, 8, 3\)"),
        ([IMAGE[None]], r"found shape \(1, 3, 8, 8\)"),
        ([IMAGE[:, :0]], r"found shape \(3, 0, 8\)"),
        ([IMAGE.long()], "expected uint8 or float in 0..1, found torch.int64"),
        ([IMAGE.bool()], "found torch.bool"),
        ([IMAGE + 255.0], "expected floats in 0..1, found 255 to 255; divide by 255"),
        ([IMAGE - 1.5], "found -1.5 to -1.5"),
        ([IMAGE * float("nan")], "found nan to nan"),
    ],
)
def test_what_is_no_image_is_named_by_its_number(brightness: Brightness, images: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        list(detections_of(brightness, images))
    assert "\n" not in str(caught.value)


def test_floats_are_images(brightness: Brightness) -> None:
    (result,) = detections_of(brightness, [torch.full((3, 4, 4), 1.02)])
    assert float(result.detections.embeddings) == pytest.approx(1.02)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([HERE], r"with_boxes ended before image 1; give a list of boxes, \(0, 4\) or more, for each"),
        ([HERE, HERE, HERE], "with_boxes goes on after the last image, number 1"),
        ([HERE, HERE[0]], r"boxes of image 1: expected shape \(n, 4\), .* found \(4,\)"),
        ([HERE, HERE[:, :3]], r"boxes of image 1: .* found \(1, 3\)"),
        ([HERE, torch.zeros(0)], r"boxes of image 1: .* found \(0,\)"),
        ([HERE, [[1, 1, 5, 7]]], "boxes of image 1: .* found list"),
        (HERE, r"boxes of image 0: .* found \(4,\)"),
        ([HERE, box(1, 1, 5, float("inf"))], "boxes of image 1: NaN or infinity"),
        ([box(1, float("nan"), 5, 7), HERE], "boxes of image 0: NaN or infinity"),
        ([HERE, torch.cat([HERE, box(8, 1, 30, 7)])], r"image 1: \(8, 1, 30, 7\) lies outside the image of 8 x 8"),
        ([box(1, -9, 5, 0), HERE], r"image 0: \(1, -9, 5, 0\) lies outside"),
    ],
)
def test_what_are_no_boxes_of_an_image_is_named_by_its_number(brightness: Brightness, boxes: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        list(detections_of(brightness, [IMAGE, IMAGE], with_boxes=boxes))


def test_results_before_a_bad_image_are_there(brightness: Brightness) -> None:
    results = detections_of(brightness, [*numbered(3), IMAGE.long()], batch_size=2)
    assert [round(float(next(results).detections.embeddings)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="image 3"):
        next(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"context": True}, "give with_boxes too"),
        ({"detect": False}, "give with_boxes too"),
    ],
)
def test_arguments_are_checked_at_once(brightness: Brightness, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detections_of(brightness, numbered(), **arguments)


def test_a_model_in_training_mode_is_refused(brightness: Brightness) -> None:
    with pytest.raises(ValueError, match="training mode"):
        detections_of(brightness.train(), numbered())


@pytest.mark.parametrize("call", [lambda m: detections_of(m, 3), lambda m: detections_of(m, [], with_boxes=3)])
def test_what_cannot_be_iterated_over_is_refused_at_once(brightness: Brightness, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="int"):
        call(brightness)
