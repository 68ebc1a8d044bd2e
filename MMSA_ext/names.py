"""Names that MMSA's layout of features gives: of modalities, and of splits."""

from typing import Literal

Modality = Literal["text", "audio", "vision"]
MODALITIES: tuple[str, ...] = ("text", "audio", "vision")
FRAMES = ("audio", "vision")  # the modalities that are frames, with lengths of their own
SPLITS = ("train", "valid", "test")
