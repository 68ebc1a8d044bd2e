"""Errors a user can act on: each message names the file or key and the mend."""

import difflib

# How a note on a finished run begins that trained in vain.
NOT_BETTER = "not better than untrained"


class MMSAExtError(Exception):
    """Base of every error that MMSA_ext raises on purpose."""


class ConfigError(MMSAExtError, ValueError):
    """A configuration, model name, data set name or option is not usable."""


class UnknownModelError(ConfigError):
    """There is no model of a name, or its module has not been imported."""


class FeatureFileError(MMSAExtError, ValueError):
    """A feature file is missing, unsafe, damaged or inconsistent."""


class MediaError(MMSAExtError, ValueError):
    """A video, audio or subtitle file is missing, damaged, or is none."""


class TextEncoderError(MMSAExtError, OSError):
    """A text encoder cannot be loaded."""


class CheckpointError(MMSAExtError, ValueError):
    """A checkpoint is missing, damaged or does not fit what it is used on."""


class WriteError(MMSAExtError, OSError):
    """A file or folder cannot be written, or is locked; what was there before is unchanged."""


class HubError(MMSAExtError, OSError):
    """The Hugging Face Hub cannot be reached, has no such repository, or refuses."""


class TrainingDivergedError(MMSAExtError, ArithmeticError):
    """Training produced a non-finite loss, or did not beat the untrained model as it must."""


def suggest(word: str, known: list[str]) -> str:
    """Say which known words come closest, or list them all.

    Close is what is spelled alike; else what has `word` for a part, as `num_epochs` has `epochs`,
    or for its initials, as `learning_rate` has `lr`.
    """
    lower = word.lower()
    spelled = {name.lower(): name for name in known}
    close = [spelled[name] for name in difflib.get_close_matches(lower, spelled, n=3)]
    if not close:
        parts = {name: name.lower().split("_") for name in known}
        close = [name for name, own in parts.items() if _stands_for(lower, own)][:3]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."


def _stands_for(word: str, parts: list[str]) -> bool:
    initials = "".join(part[:1] for part in parts)
    return word in parts or (len(word) > 1 and initials.startswith(word))


def one_line(error: Exception) -> str:
    """What an error of others says, after the name of its kind, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def first_line(error: Exception) -> str:
    """The first line of what an error of others says, or the name of its kind if it is silent."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
