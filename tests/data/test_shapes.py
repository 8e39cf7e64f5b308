"""The embedded benchmark: what a rendered scene promises. Golden digests hold its bytes."""

import colorsys
from functools import cache

import numpy as np
import pytest

from dpnet.config import VOID
from dpnet.data.shapes import CLASSES, render

ALL = tuple(range(1, len(CLASSES) + 1))
SIZE = 81


@cache
def scene(seed, classes=ALL, size=SIZE, diversity=0.4):
    return render([seed], classes, size, diversity)


def ids(label):
    return [int(value) for value in np.unique(label) if value not in (0, VOID)]


def test_the_arguments_alone_make_the_bytes():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    for size in (65, 81, 161):
        image, label = render([7, 1, 3], ALL, size, 0.4)
        render([6], ALL, 65, 1.0)
        again, label_again = render(np.array([7, 1, 3]), reversed(ALL), size, 0.4)
        assert image.dtype == label.dtype == np.uint8
        assert (image.shape, label.shape) == ((size, size, 3), (size, size))
        assert (image.tobytes(), label.tobytes()) == (again.tobytes(), label_again.tobytes())
    assert np.random.get_state()[1].tolist() == before
    seeds = [[0, 1, 1], [0, 1, 2], [0, 2, 1], [1, 1, 1], [2, 1, 0]]
    assert len({render(seed, ALL, SIZE, 0.4)[0].tobytes() for seed in seeds}) == len(seeds)


def test_a_scene_holds_two_or_three_of_the_allowed_classes():
    for diversity in (0.0, 0.4, 1.0):
        present = [ids(scene(seed, (2, 3, 5, 11, 20), SIZE, diversity)[1]) for seed in range(40)]
        assert set().union(*present) <= {2, 3, 5, 11, 20}
        assert {len(some) for some in present} == {2, 3}
    assert all(ids(scene(seed, (4,))[1]) == [4] for seed in range(10))
    assert all(ids(scene(seed, (19, 4))[1]) == [4, 19] for seed in range(10))


def test_no_object_dominates():
    # The control that a model must pass, another class as support, means nothing where one object stands out.
    areas = [sorted(np.mean(label == class_id) for class_id in ids(label)) for _, label in map(scene, range(100))]
    assert 0.05 < np.median(np.concatenate(areas)) < 0.13
    assert max(area[-1] for area in areas) < 0.4
    assert np.median([area[-1] / area[0] for area in areas]) < 3


def test_every_class_is_drawn_and_stands_out_and_has_its_own_outline():
    for class_id in ALL:
        for seed in range(4):
            image, label = scene(seed, (class_id,))
            inside = label == class_id
            assert 0.01 < inside.mean() < 0.4
            contrast = image[inside].mean(0) - image[label == 0].mean(0)
            assert np.abs(contrast).max() > 12 or image[inside].std(0).max() > 25
    # The same seed lays every class in the same place: the overlap of two outlines tells them apart.
    outlines = np.array([scene(3, (class_id,), SIZE, 0.0)[1] == class_id for class_id in ALL])
    shared = (outlines[:, None] & outlines).sum((2, 3)) / (outlines[:, None] | outlines).sum((2, 3))
    assert (shared - np.eye(len(ALL))).max() < 0.8


def hue(image, inside):
    return colorsys.rgb_to_hsv(*image[inside].mean(0) / 255)[0]


def test_an_id_is_a_position_in_classes():
    for name, expected in {"butterfly": 0.8, "car": 0.95, "tree": 0.3, "cup": 0.52, "cactus": 0.4}.items():
        image, label = scene(0, (CLASSES.index(name) + 1,), SIZE, 0.0)
        assert abs((hue(image, (label > 0) & (label != VOID)) - expected + 0.5) % 1 - 0.5) < 0.12


def test_diversity_spreads_hue_and_pose():
    def spread(angles):  # 0 where all are the same, 1 where they are any
        return 1 - abs(np.exp(1j * np.array(angles)).mean())

    def axis(inside):  # the direction of the long one, which repeats after half a turn
        covariance = np.cov(*np.nonzero(inside)[::-1])
        return np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])

    for class_id in (CLASSES.index("fish") + 1, CLASSES.index("bottle") + 1):
        hues, poses = [], []
        for diversity in (0.0, 0.4, 1.0):
            scenes = [scene(seed, (class_id,), SIZE, diversity) for seed in range(30)]
            hues.append(spread([2 * np.pi * hue(image, label == class_id) for image, label in scenes]))
            poses.append(spread([axis(label == class_id) for _, label in scenes]))
        # The texture's other colour and the light alone bring 0.35 at most.
        assert hues[0] < 0.05 < 0.1 < hues[1] < 0.5 < hues[2]
        assert poses[0] < 0.05 < 0.08 < poses[1] < 0.25 < poses[2]


@pytest.mark.parametrize(("size", "width"), [(33, 2), (65, 2), (161, 2), (241, 2), (322, 4)])
def test_void_lies_between_an_object_and_all_else_as_wide_as_the_size_asks(size, width):
    for seed in range(6):
        _, label = scene(seed, ALL, size, 1.0)
        for one, other in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            assert not ((one != other) & (one != VOID) & (other != VOID)).any()
    widths = []
    for row in scene(1, (4,), size, 0.0)[1]:
        runs = np.split(row, 1 + np.flatnonzero(np.diff(row == VOID)))
        between = zip(runs, runs[1:], runs[2:], strict=False)
        widths += [len(v) for left, v, right in between if v[0] == VOID and (left[-1] == 0) != (right[0] == 0)]
    assert min(widths) == width
    assert np.median(widths) <= 2 * width


def test_clutter_casts_no_void():
    for seed in range(20):
        label = scene(seed, (8,), 65, 1.0)[1]
        y, x = np.nonzero((label > 0) & (label != VOID))
        void_y, void_x = np.nonzero(label == VOID)
        away = np.maximum(abs(void_y[:, None] - y), abs(void_x[:, None] - x)).min(1)
        assert np.mean(away <= 4) > 0.98


def test_what_is_out_of_range_is_refused():
    for classes in ([], [0], [21], [1, 2, 255], [-1]):
        with pytest.raises(ValueError, match="classes"):
            render([0], classes, SIZE, 0.4)
    for diversity in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="diversity"):
            render([0], ALL, SIZE, diversity)
    with pytest.raises(ValueError, match="size"):
        render([0], ALL, 31, 0.4)
    assert render([0], ALL, 32, 0.4)[1].shape == (32, 32)
