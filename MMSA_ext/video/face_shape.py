"""What the 478 points of MediaPipe's face mesh say, as values with names.

A point is given in the face's own axes: x to the right of the picture, y down, z away from the
camera when the face looks straight ahead; its origin is between the eyes, its unit the distance of
their outer corners. So place, size and turn of the head do not count, but for `pose_*`.

Columns (right and left are the person's):
    pose_yaw, pose_pitch, pose_roll: Turn of the head, radians: to the picture's right, up, and
        clockwise.
    mouth_open, mouth_width, mouth_inner_width, mouth_height: Between inner lips, corners, inner
        corners, outer lips.
    lip_upper, lip_lower: Thickness of a lip.
    corner_lift_right, corner_lift_left: How far a corner is above the middle of the mouth.
    corner_eye_right, corner_eye_left: From a corner to the outer corner of the eye.
    mouth_forward: How far the lips stand out before the corners.
    upper_lip_nose, jaw_drop: From the nose's base to the upper lip, and to the chin.
    brow_inner_*, brow_middle_*, brow_outer_*: How far a brow is above the corners of its eye.
    brow_gap: Between the brows.
    eye_open_*: Height of an eye by its width.
    gaze_x_*, gaze_y_*: Iris from the middle of the eye's corners, by the eye's width; right, down.
    cheek_*: From a cheek to the lower lid.
    nose_width, nose_length: Between the nostrils, and from the root to the tip.
    x_N, y_N: Point N of the mesh.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "POINTS", "described"]

POINTS = 478  # the last ten are the irises
_BLOCK = 1024  # pictures that are worked on at once

# Numbers of the points in MediaPipe's mesh.
_EYE_RIGHT, _EYE_LEFT = (33, 133), (263, 362)  # outer and inner corner
_LIDS_RIGHT, _LIDS_LEFT = ((160, 144), (159, 145), (158, 153)), ((387, 373), (386, 374), (385, 380))
_BROW_RIGHT, _BROW_LEFT = (107, 105, 70), (336, 334, 300)  # inner, middle, outer
_IRIS_RIGHT, _IRIS_LEFT = 468, 473
_CORNER_RIGHT, _CORNER_LEFT = 61, 291
_LIP_TOP, _LIP_INNER_TOP, _LIP_INNER_BOTTOM, _LIP_BOTTOM = 0, 13, 14, 17
_NOSE_BASE, _NOSE_ROOT, _NOSE_TIP, _CHIN = 2, 168, 4, 152
_SIDE_RIGHT, _SIDE_LEFT = 234, 454
_DRAWN = (
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 13, 14, 78, 308),  # lips
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(33, 159, 133, 145, 362, 386, 263, 374),  # eyes
    *(4, 2, 98, 327, 172, 150, 152, 379, 397),  # nose and jaw
)
_DISTANCES = {
    "mouth_open": (_LIP_INNER_TOP, _LIP_INNER_BOTTOM),
    "mouth_width": (_CORNER_RIGHT, _CORNER_LEFT),
    "mouth_inner_width": (78, 308),
    "mouth_height": (_LIP_TOP, _LIP_BOTTOM),
    "lip_upper": (_LIP_TOP, _LIP_INNER_TOP),
    "lip_lower": (_LIP_INNER_BOTTOM, _LIP_BOTTOM),
    "corner_eye_right": (_CORNER_RIGHT, _EYE_RIGHT[0]),
    "corner_eye_left": (_CORNER_LEFT, _EYE_LEFT[0]),
    "upper_lip_nose": (_NOSE_BASE, _LIP_TOP),
    "jaw_drop": (_NOSE_BASE, _CHIN),
    "brow_gap": (_BROW_RIGHT[0], _BROW_LEFT[0]),
    "cheek_right": (205, 145),
    "cheek_left": (425, 374),
    "nose_width": (98, 327),
    "nose_length": (_NOSE_ROOT, _NOSE_TIP),
}
_SIDES = {
    "right": (_EYE_RIGHT, _LIDS_RIGHT, _BROW_RIGHT, _IRIS_RIGHT, _CORNER_RIGHT),
    "left": (_EYE_LEFT, _LIDS_LEFT, _BROW_LEFT, _IRIS_LEFT, _CORNER_LEFT),
}

_Array = NDArray[np.float64]


def described(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of `COLUMNS`.

    Args:
        points: (L, 478, 3) float32, in one unit along all axes, such as pixels.

    Returns:
        (L, len(COLUMNS)) float32.
    """
    blocks = [points[k : k + _BLOCK] for k in range(0, len(points), _BLOCK)]
    described = [np.zeros((0, len(COLUMNS)), np.float32), *map(_described, blocks)]
    return np.concatenate(described)


def _described(points: NDArray[np.float32]) -> NDArray[np.float32]:
    named = _named(points.astype(np.float64))
    return np.nan_to_num(np.stack([named[name] for name in COLUMNS], axis=1)).astype(np.float32)


def _named(points: _Array) -> dict[str, _Array]:
    axes = _axes(points)  # (L, 3, 3), a row an axis
    eyes = points[:, [*_EYE_RIGHT, *_EYE_LEFT]]
    unit = np.linalg.norm(points[:, _EYE_LEFT[0]] - points[:, _EYE_RIGHT[0]], axis=1)
    own = np.einsum("lpi,lai->lpa", points - eyes.mean(axis=1, keepdims=True), axes)
    own /= np.maximum(unit, 1e-6)[:, None, None]
    forward = -axes[:, 2]
    values = {
        "pose_yaw": np.arctan2(forward[:, 0], -forward[:, 2]),
        "pose_pitch": np.arcsin(np.clip(-forward[:, 1], -1, 1)),
        "pose_roll": np.arctan2(axes[:, 0, 1], axes[:, 0, 0]),
    }
    for name, (a, b) in _DISTANCES.items():
        values[name] = np.linalg.norm(own[:, a] - own[:, b], axis=1)
    lips = own[:, [_LIP_TOP, _LIP_BOTTOM]].mean(axis=1)
    corners = own[:, [_CORNER_RIGHT, _CORNER_LEFT]].mean(axis=1)
    values["mouth_forward"] = corners[:, 2] - lips[:, 2]
    for side, parts in _SIDES.items():
        values |= {f"{name}_{side}": value for name, value in _side(own, lips, *parts).items()}
    for point in _DRAWN:
        values[f"x_{point}"], values[f"y_{point}"] = own[:, point, 0], own[:, point, 1]
    return values


def _side(
    own: _Array,
    lips: _Array,
    eye: tuple[int, int],
    lids: tuple[tuple[int, int], ...],
    brow: tuple[int, int, int],
    iris: int,
    corner: int,
) -> dict[str, _Array]:
    """What is there on the right and on the left."""
    middle = own[:, eye].mean(axis=1)
    width = np.maximum(np.linalg.norm(own[:, eye[0]] - own[:, eye[1]], axis=1), 1e-6)
    upper, lower = zip(*lids, strict=True)
    height = np.linalg.norm(own[:, upper] - own[:, lower], axis=2).mean(axis=1)
    gaze = (own[:, iris] - middle) / width[:, None]
    brows = zip(("inner", "middle", "outer"), brow, strict=True)
    return {
        "corner_lift": lips[:, 1] - own[:, corner, 1],
        **{f"brow_{part}": middle[:, 1] - own[:, point, 1] for part, point in brows},
        "eye_open": height / width,
        "gaze_x": gaze[:, 0],
        "gaze_y": gaze[:, 1],
    }


def _axes(points: _Array) -> _Array:
    """The face's axes in the picture, (L, 3, 3): right, down, away."""
    across = points[:, _EYE_LEFT[0]] - points[:, _EYE_RIGHT[0]]
    across = across + points[:, _SIDE_LEFT] - points[:, _SIDE_RIGHT]
    right = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    down = points[:, _NOSE_BASE] - points[:, _NOSE_ROOT]
    down = down - np.sum(down * right, axis=1, keepdims=True) * right
    down = down / np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
    return np.stack([right, down, np.cross(right, down)], axis=1)


COLUMNS = tuple(_named(np.zeros((1, POINTS, 3))))
