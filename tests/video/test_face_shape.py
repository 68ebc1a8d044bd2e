import numpy as np
import pytest

from MMSA_ext.video.face_shape import COLUMNS, POINTS, described


@pytest.fixture
def points() -> np.ndarray:
    """Points that stand about where a face's do, looking ahead."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-60, 60, (1, POINTS, 3))
    for number, place in {
        33: (-45, 0, 0), 133: (-15, 0, 0), 263: (45, 0, 0), 362: (15, 0, 0),
        234: (-70, 20, 40), 454: (70, 20, 40), 168: (0, 0, -10), 2: (0, 50, -10),
        61: (-25, 75, 0), 291: (25, 75, 0), 0: (0, 68, -8), 17: (0, 86, -8),
        13: (0, 74, -6), 14: (0, 78, -6),
    }.items():  # fmt: skip
        points[0, number] = place
    return points.astype(np.float32)


def column(points: np.ndarray, name: str) -> float:
    return float(described(points)[0, COLUMNS.index(name)])


def turned(points: np.ndarray, axis: int, angle: float) -> np.ndarray:
    a, b = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return (points @ turn.T).astype(np.float32)


def test_columns_have_names_of_their_own():
    assert len({*COLUMNS}) == len(COLUMNS) == 119


def test_place_and_size_do_not_count(points):
    moved = points * 2.5 + np.array([100, -30, 7], np.float32)

    assert described(moved) == pytest.approx(described(points), abs=1e-4)


@pytest.mark.parametrize(("axis", "name"), [(0, "pose_pitch"), (1, "pose_yaw"), (2, "pose_roll")])
@pytest.mark.parametrize("angle", [-0.3, 0.3])
def test_the_turn_of_the_head_is_in_the_pose_alone(points, axis, name, angle):
    before, after = described(points)[0], described(turned(points, axis, angle))[0]

    assert abs(after - before)[COLUMNS.index(name)] == pytest.approx(0.3, abs=1e-3)
    assert after[3:] == pytest.approx(before[3:], abs=1e-3)


def test_roll_is_clockwise_and_yaw_to_the_right(points):
    assert column(turned(points, 2, 0.3), "pose_roll") == pytest.approx(0.3, abs=1e-3)
    right = turned(points, 1, 0.3)
    # The nose of a head that looks to the right of the picture is there.
    sign = np.sign(turned(np.array([[[0, 0, -1.0]]]), 1, 0.3)[0, 0, 0])
    assert column(right, "pose_yaw") == pytest.approx(0.3 * sign, abs=1e-3)
    up = np.sign(-turned(np.array([[[0, 0, -1.0]]]), 0, 0.3)[0, 0, 1])
    assert column(turned(points, 0, 0.3), "pose_pitch") == pytest.approx(0.3 * up, abs=1e-3)


def test_measures_are_in_distances_between_the_eyes(points):
    assert column(points, "mouth_width") == pytest.approx(50 / 90)
    assert column(points, "mouth_open") == pytest.approx(4 / 90)
    assert column(points, "corner_lift_right") == pytest.approx(2 / 90, abs=1e-4)
    points[0, 61, 1] -= 9
    assert column(points, "corner_lift_right") == pytest.approx(11 / 90, abs=1e-4)
    assert column(points, "corner_lift_left") == pytest.approx(2 / 90, abs=1e-4)
    points[0, 468] = (-30 + 6, 3, 0)  # the right iris
    assert column(points, "gaze_x_right") == pytest.approx(0.2)
    assert column(points, "gaze_y_right") == pytest.approx(0.1)
    points[0, 105] = (-30, -27, 0)
    assert column(points, "brow_middle_right") == pytest.approx(0.3)
    assert (column(points, "x_61"), column(points, "y_61")) == pytest.approx((-25 / 90, 66 / 90))


def test_points_in_one_place_give_finite_values():
    assert np.isfinite(described(np.zeros((2, POINTS, 3), np.float32))).all()


def test_many_pictures_are_as_each_alone(points):
    many = np.concatenate([points * (1 + k % 7) for k in range(1030)])

    assert described(many) == pytest.approx(np.repeat(described(points), 1030, axis=0), abs=1e-4)
    assert described(many[:0]).shape == (0, len(COLUMNS))
