"""Which form a source has, by its content, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from MMSA_ext.data.convert.openface import is_openface
from MMSA_ext.data.convert.source import Source
from MMSA_ext.errors import ConfigError, FeatureFileError, suggest
from MMSA_ext.file_kinds import HEAD_BYTES, foreign_kind
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.samples import Sample

__all__ = ["FORMS", "Reader", "find_form", "reader"]

# A form is the name of the module here that reads it; and which options say how.
_TABLE = ("columns", "group", "seed", "shares")
FORMS = {
    "table": (*_TABLE, "audio", "vision"),
    "arrays": (*_TABLE, "front_padding"),
    "hugging_face": _TABLE,
    "mult": ("front_padding",),
    "mag_bert": (),
    "mmsa_fet": ("front_padding",),
    "openface": (),
}

Reader = Callable[[Source, "Options", "ConversionReport"], Iterator["Sample"]]


def reader(form: str, options: Options) -> Reader:
    """The function that reads a form.

    Raises:
        ConfigError: There is no such form, or an option means nothing to it.
    """
    if form not in FORMS:
        raise ConfigError(f"--form {form}: no such form; {suggest(form, list(FORMS))}")
    for name, value in vars(options).items():
        if value not in (None, {}) and name not in FORMS[form]:
            takers = [other for other, names in FORMS.items() if name in names]
            raise ConfigError(
                f"{name} means nothing to a source of form {form}; it goes with "
                f"{', '.join(takers)}."
            )
    read: Reader = import_module(f"{__package__}.{form}").read
    return read


def find_form(given: Source) -> str:
    """Recognise a form by content.

    Raises:
        FeatureFileError: There is no such file, or it is none of the forms.
    """
    source = given.path
    if source.is_dir():
        return _of_folder(source)
    try:
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise FeatureFileError(f"{shown(source)}: cannot be read: {error.strerror}.") from None
    if kind := foreign_kind(head):
        raise FeatureFileError(f"{shown(source)} is {kind}.")
    if head.startswith(b"\x80") or source.suffix.lower() in (".pkl", ".pickle", ".p"):
        return _of_pickle(given)
    if head.startswith(b"PK") and source.suffix.lower() == ".npz":
        return "arrays"
    text = head.decode("utf-8-sig", errors="replace")
    if b"\0" in head or head.startswith((b"\x89HDF", b"\x93NUMPY", b"PK")):
        raise FeatureFileError(
            f"{shown(source)} is none of the forms {', '.join(FORMS)}. Sequences by id (.h5, .npz) "
            "go with --audio or --vision beside a CSV of utterances; single arrays (.npy) in a "
            "folder, as text.npy, audio.npy and vision.npy."
        )
    return "openface" if is_openface(_first_line(source, text)) else "table"


def _first_line(source: Path, head: str) -> str:
    if "\n" in head:
        return head.splitlines()[0]
    with source.open(encoding="utf-8-sig", errors="replace") as file:  # OpenFace's is long
        return file.readline()


def _of_folder(source: Path) -> str:
    from MMSA_ext.data.convert.arrays import is_arrays
    from MMSA_ext.data.convert.hugging_face import is_hugging_face

    if is_hugging_face(source):
        return "hugging_face"
    if is_arrays(source):
        return "arrays"
    raise FeatureFileError(
        f"{shown(source)} is a folder with neither a data set of save_to_disk nor text.npy, "
        "audio.npy, vision.npy. Sequences by id go with --audio or --vision beside a CSV of "
        "utterances."
    )


def _of_pickle(source: Source) -> str:
    from MMSA_ext.data.convert.mag_bert import is_mag_bert
    from MMSA_ext.data.feature_layout import LABEL_KEYS, is_single_sample

    data = source.pickled
    if is_mag_bert(data):
        return "mag_bert"
    if not isinstance(data, dict) or not data:
        raise FeatureFileError(
            f"{shown(source.path)} holds {type(data).__name__}, not a dict of splits or of arrays. "
            "Name its form with --form, or store it as one of them (docs/data.md)."
        )
    splits = [raw for raw in data.values() if isinstance(raw, dict)]
    if is_single_sample(data) or any(LABEL_KEYS["M"] in raw for raw in splits):
        return "mmsa_fet"
    return "mult" if any("labels" in raw for raw in splits) else "mmsa_fet"
