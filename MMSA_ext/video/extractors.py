"""Extractors by name: what makes audio and vision features of a clip.

One of your own is registered as a model is, and known once its module is imported:

    @register_extractor("loudness")
    class Loudness:
        name, modality, width = "loudness", "audio", 1
        def recipe(self): ...
        def __call__(self, clip): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from MMSA_ext.data.recipes import problems
from MMSA_ext.errors import ConfigError, MMSAExtError, one_line, suggest
from MMSA_ext.extras import install_command
from MMSA_ext.validation import whole_number

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Extractor

__all__ = [
    "ExtractorEntry",
    "checked_extractor",
    "extractor",
    "list_extractors",
    "options_of",
    "register_extractor",
    "unregister_extractor",
]

_Make = TypeVar("_Make", bound="Callable[..., Extractor]")


@dataclass(frozen=True)
class ExtractorEntry:
    """What is known of an extractor.

    Attributes:
        name: Its name.
        make: Makes it from its options, or the name of what does, as `package.module:Class`.
        modality: What it makes features of.
        about: What the features are, in a line.
        packages: Packages that it needs, as they are imported.
        extra: The extra that brings them.
        recipe_name: Its name in recipes, where that is another's.
    """

    name: str
    make: Callable[..., Extractor] | str
    modality: Literal["audio", "vision"]
    about: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""
    recipe_name: str = ""

    @property
    def absent(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return tuple(name for name in self.packages if find_spec(name) is None)

    @property
    def mend(self) -> str:
        """The line that installs what is absent; empty if nothing is."""
        return install_command(self.extra) if self.absent else ""


_SHIPPED = (
    ExtractorEntry(
        "sims33",
        "MMSA_ext.video.audio:Sims33",
        "audio",
        "pitch, 20 MFCC and 12 chroma, as SIMS has them",
        ("av", "soxr", "librosa"),
        "video",
    ),
    ExtractorEntry(
        "egemaps25",
        "MMSA_ext.video.audio:Egemaps25",
        "audio",
        "eGeMAPSv02 low-level descriptors, as SIMS v2 has them; openSMILE",
        ("av", "soxr", "opensmile"),
        "video,egemaps",
        "opensmile",
    ),
    ExtractorEntry(
        "facemesh",
        "MMSA_ext.video.vision:FaceMesh",
        "vision",
        "shape and pose of the largest face; MediaPipe",
        ("av", "soxr", "mediapipe"),
        "video",
    ),
    ExtractorEntry(
        "openface",
        "MMSA_ext.video.openface:OpenFace",
        "vision",
        "what OpenFace 2 wrote into a CSV file beside the video",
    ),
)
_EXTRACTORS = {entry.name: entry for entry in _SHIPPED}


def extractor(name: str, **options: Any) -> Extractor:
    """The extractor of a name.

    Args:
        name: Its name.
        options: Its options, such as `rate` of `facemesh`.

    Raises:
        ConfigError: There is no such extractor or option, or a package is not installed.
    """
    entry = _entry(name)
    if entry.absent:
        raise ConfigError(
            f"extractor {name!r} needs {' and '.join(entry.absent)}, not installed: {entry.mend}"
        )
    make = resolve_name(entry.make) if isinstance(entry.make, str) else entry.make
    known = options_of(entry)
    if unknown := [option for option in options if not (known is None or option in known)]:
        others = suggest(unknown[0], sorted(known)) if known else "it has none."
        raise ConfigError(f"extractor {name!r} has no option {unknown[0]!r:.80}; {others}")
    try:
        made: Extractor = make(**options)
    except MMSAExtError:
        raise
    except Exception as error:
        said = one_line(error)
        raise ConfigError(f"extractor {name!r}: {said}; check its options.") from error
    return checked_extractor(made, entry.modality)


def options_of(entry: ExtractorEntry) -> set[str] | None:
    """Options of an extractor, which its recipe names alike; None if it takes any."""
    make = resolve_name(entry.make) if isinstance(entry.make, str) else entry.make
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def checked_extractor(made: Any, modality: str) -> Extractor:
    """An extractor of a modality, which has what `contract.Extractor` has.

    Raises:
        ConfigError: It has not.
    """
    parts = ("name", "modality", "width", "recipe", "__call__")
    if lacks := [part for part in parts if not hasattr(made, part)]:
        raise ConfigError(
            f"{modality}: {made!r:.80} is no extractor, it has no {lacks[0]}; see "
            "video.contract.Extractor."
        )
    if made.modality != modality:
        raise ConfigError(f"{modality}: {made.name!r} extracts {made.modality}.")
    whole_number(f"width of extractor {made.name!r}", made.width, 1)
    try:
        recipe = made.recipe()
    except MMSAExtError:
        raise
    except Exception as error:
        raise ConfigError(f"recipe of extractor {made.name!r}: {one_line(error)}") from error
    if wrong := problems({modality: recipe}):
        raise ConfigError(f"recipe of extractor {made.name!r}: {wrong[0]}")
    return cast("Extractor", made)


def list_extractors() -> list[ExtractorEntry]:
    """What there is, by name."""
    return [_EXTRACTORS[name] for name in sorted(_EXTRACTORS)]


def register_extractor(name: str) -> Callable[[_Make], _Make]:
    """Register the decorated class, or function that makes one, as extractor `name`.

    Args:
        name: Name of the extractor, in lower case. The class has `modality`; a function may have.

    Returns:
        A decorator that leaves what it decorates as it is.

    Raises:
        ConfigError: The name is taken or not in lower case, or nothing says the modality.
    """
    if name != name.lower() or name in ("", "none") or ":" in name:
        raise ConfigError(f"extractor name {name!r}: use lower case, no colon, and not none.")

    def decorate(make: _Make) -> _Make:
        if name in _EXTRACTORS:
            raise ConfigError(f"extractor {name!r} exists already; choose another name.")
        modality = getattr(make, "modality", None)
        if modality not in ("audio", "vision"):
            raise ConfigError(
                f"extractor {name!r}: its modality is {modality!r:.80}; set the attribute to "
                "'audio' or 'vision'."
            )
        about = (make.__doc__ or "").strip().partition("\n")[0]
        _EXTRACTORS[name] = ExtractorEntry(name, make, modality, about)
        return make

    return decorate


def unregister_extractor(name: str) -> None:
    """Forget an extractor.

    Raises:
        ConfigError: There is none of that name.
    """
    del _EXTRACTORS[_entry(name).name]


def _entry(name: str) -> ExtractorEntry:
    if name not in _EXTRACTORS:
        raise ConfigError(
            f"unknown extractor {name!r:.80}; {suggest(str(name), sorted(_EXTRACTORS))} One of "
            "your own is known once its module is imported: --import MODULE, in Python `import`."
        )
    return _EXTRACTORS[name]
