"""The embedded benchmark: what a rendered scene promises."""

import colorsys
from functools import cache

import numpy as np
import pytest

from dpnet.data.shapes import CLASSES, VOID, render

ALL = tuple(range(1, len(CLASSES) + 1))
SIZE = 81


@cache
def scene(
    seed: int, classes: tuple[int, ...] = ALL, size: int = SIZE, diversity: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    return render([seed], classes, size, diversity)


def ids(label: np.ndarray) -> list[int]:
    return [int(value) for value in np.unique(label) if value not in (0, VOID)]


@pytest.mark.parametrize("size", [65, 81, 161, 241])
def test_one_seed_gives_the_same_bytes(size: int) -> None:
    image, label = render([7, 1, 3], ALL, size, 0.4)
    again, label_again = render(np.array([7, 1, 3]), reversed(ALL), size, 0.4)  # type: ignore[arg-type]
    assert image.dtype == label.dtype == np.uint8
    assert (image.shape, label.shape) == ((size, size, 3), (size, size))
    assert image.tobytes() == again.tobytes()
    assert label.tobytes() == label_again.tobytes()


def test_nothing_outside_the_seed_matters() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    image, _ = render([5], ALL, SIZE, 0.4)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    render([6], ALL, SIZE, 1.0)
    assert render([5], ALL, SIZE, 0.4)[0].tobytes() == image.tobytes()


def test_every_part_of_the_seed_matters() -> None:
    seeds = [[0, 1, 1], [0, 1, 2], [0, 2, 1], [1, 1, 1], [2, 1, 0]]
    assert len({render(seed, ALL, SIZE, 0.4)[0].tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("diversity", [0.0, 0.4, 1.0])
def test_a_scene_holds_two_or_three_of_the_allowed_classes(diversity: float) -> None:
    allowed = (2, 3, 5, 11, 20)
    amounts = []
    for seed in range(60):
        found = ids(scene(seed, allowed, SIZE, diversity)[1])
        assert set(found) <= set(allowed)
        amounts.append(len(found))
    assert set(amounts) == {2, 3}


def test_few_classes_give_as_many_objects() -> None:
    assert all(ids(scene(seed, (4,))[1]) == [4] for seed in range(10))
    assert all(ids(scene(seed, (19, 4))[1]) == [4, 19] for seed in range(10))


def test_no_object_dominates() -> None:
    # The control that a model must pass, another class as support, means nothing where one object stands out.
    areas = [sorted(np.mean(label == class_id) for class_id in ids(label)) for _, label in map(scene, range(100))]
    assert 0.05 < np.median(np.concatenate(areas)) < 0.13
    assert max(area[-1] for area in areas) < 0.4
    assert np.median([area[-1] / area[0] for area in areas]) < 3


@pytest.mark.parametrize("class_id", ALL)
def test_every_class_is_drawn_and_stands_out(class_id: int) -> None:
    for seed in range(4):
        image, label = scene(seed, (class_id,))
        inside = label == class_id
        assert 0.01 < inside.mean() < 0.4
        contrast = image[inside].mean(0) - image[label == 0].mean(0)
        texture = image[inside].std(0)
        assert np.abs(contrast).max() > 12 or texture.max() > 25


def test_classes_differ_in_outline() -> None:
    # The same seed lays every class in the same place: the overlap of two outlines tells them apart.
    outlines = np.array([scene(3, (class_id,), SIZE, 0.0)[1] == class_id for class_id in ALL])
    shared = (outlines[:, None] & outlines).sum((2, 3)) / (outlines[:, None] | outlines).sum((2, 3))
    assert (shared - np.eye(len(ALL))).max() < 0.8


@pytest.mark.parametrize(
    ("name", "hue"),
    [("butterfly", 0.8), ("car", 0.95), ("tree", 0.3), ("cup", 0.52), ("cactus", 0.4)],
)
def test_an_id_is_a_position_in_classes(name: str, hue: float) -> None:
    image, label = scene(0, (CLASSES.index(name) + 1,), SIZE, 0.0)
    red, green, blue = image[(label > 0) & (label != VOID)].mean(0) / 255
    found = colorsys.rgb_to_hsv(red, green, blue)[0]
    assert abs((found - hue + 0.5) % 1 - 0.5) < 0.12


def hue_spread(class_id: int, diversity: float) -> float:
    # Circular: 0 where all objects have one hue, 1 where they have any.
    hues = []
    for seed in range(30):
        image, label = scene(seed, (class_id,), SIZE, diversity)
        red, green, blue = image[label == class_id].mean(0) / 255
        hues.append(colorsys.rgb_to_hsv(red, green, blue)[0])
    return 1 - abs(np.exp(2j * np.pi * np.array(hues)).mean())


def angle_spread(class_id: int, diversity: float) -> float:
    # The same for the direction of the long axis, which repeats after half a turn.
    angles = []
    for seed in range(30):
        _, label = scene(seed, (class_id,), SIZE, diversity)
        y, x = np.nonzero(label == class_id)
        covariance = np.cov(x, y)
        angles.append(0.5 * np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1]))
    return 1 - abs(np.exp(2j * np.array(angles)).mean())


@pytest.mark.parametrize("name", ["fish", "bottle"])
def test_diversity_spreads_hue_and_pose(name: str) -> None:
    class_id = CLASSES.index(name) + 1
    hues, angles = ([spread(class_id, d) for d in (0.0, 0.4, 1.0)] for spread in (hue_spread, angle_spread))
    # The texture's other colour and the light alone bring 0.35 at most.
    assert hues[0] < 0.05 < 0.1 < hues[1] < 0.5 < hues[2]
    assert angles[0] < 0.05 < 0.08 < angles[1] < 0.25 < angles[2]


@pytest.mark.parametrize("size", [65, 161, 241, 330])
def test_void_lies_between_an_object_and_all_else(size: int) -> None:
    for seed in range(6):
        _, label = scene(seed, ALL, size, 1.0)
        for one, other in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            differ = (one != other) & (one != VOID) & (other != VOID)
            assert not differ.any()


@pytest.mark.parametrize(("size", "width"), [(33, 2), (65, 2), (161, 2), (241, 2), (322, 4)])
def test_the_rim_is_as_wide_as_the_size_asks(size: int, width: int) -> None:
    label = scene(1, (4,), size, 0.0)[1]
    widths = []
    for row in label:
        starts = 1 + np.flatnonzero(np.diff(row == VOID))
        runs = np.split(row, starts)
        between = zip(runs, runs[1:], runs[2:], strict=False)
        widths += [
            len(void) for left, void, right in between if void[0] == VOID and (left[-1] == 0) != (right[0] == 0)
        ]
    assert min(widths) == width
    assert np.median(widths) <= 2 * width


def test_clutter_casts_no_void() -> None:
    for seed in range(20):
        label = scene(seed, (8,), 65, 1.0)[1]
        y, x = np.nonzero((label > 0) & (label != VOID))
        void_y, void_x = np.nonzero(label == VOID)
        away = np.maximum(abs(void_y[:, None] - y), abs(void_x[:, None] - x)).min(1)
        assert np.mean(away <= 4) > 0.98


@pytest.mark.parametrize("classes", [[], [0], [21], [1, 2, 255], [-1]])
def test_unknown_classes_are_refused(classes: list[int]) -> None:
    with pytest.raises(ValueError, match="classes"):
        render([0], classes, SIZE, 0.4)


@pytest.mark.parametrize("diversity", [-0.1, 1.01, float("nan")])
def test_diversity_outside_its_range_is_refused(diversity: float) -> None:
    with pytest.raises(ValueError, match="diversity"):
        render([0], ALL, SIZE, diversity)


def test_a_tiny_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        render([0], ALL, 31, 0.4)
    assert render([0], ALL, 32, 0.4)[1].shape == (32, 32)
