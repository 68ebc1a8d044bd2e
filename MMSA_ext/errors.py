"""Errors a user can act on: each message names the file or key and the mend."""

import difflib


class MMSAExtError(Exception):
    """Base of every error that MMSA_ext raises on purpose."""


class ConfigError(MMSAExtError, ValueError):
    """A configuration, model name, data set name or option is not usable."""


class FeatureFileError(MMSAExtError, ValueError):
    """A feature file is missing, unsafe, damaged or inconsistent."""


class TextEncoderError(MMSAExtError, OSError):
    """A text encoder cannot be loaded."""


class CheckpointError(MMSAExtError, ValueError):
    """A checkpoint is missing, damaged or does not fit what it is used on."""


class WriteError(MMSAExtError, OSError):
    """A file or folder cannot be written, or is locked; what was there before is unchanged."""


class TrainingDivergedError(MMSAExtError, ArithmeticError):
    """Training produced a non-finite loss or never improved on the untrained model."""


def suggest(word: str, known: list[str]) -> str:
    """Say which known words come closest, or list them all."""
    spelled = {name.lower(): name for name in known}
    close = [spelled[name] for name in difflib.get_close_matches(word.lower(), spelled, n=3)]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."
