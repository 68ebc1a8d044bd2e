"""Names that MMSA's layout of features gives: of modalities, and of splits."""

from typing import Literal

Modality = Literal["text", "audio", "vision"]
MODALITIES: tuple[str, ...] = ("text", "audio", "vision")
FRAMES = ("audio", "vision")  # the modalities that are frames, with lengths of their own
# MMSA's arguments for a feature file of one modality, in the order of `MODALITIES`.
MODALITY_FILES = ("feature_T", "feature_A", "feature_V")
SPLITS = ("train", "valid", "test")
