"""Paths that users write, and the folders of a run.

`~` and environment variables are expanded, which MMSA leaves as they are. What cannot be a path is
refused here, in one sentence, so that what opens files need not expect it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from MMSA_ext.errors import ConfigError

# Folder of MMSA's data (it holds MOSI/, MOSEI/, SIMS/), in place of the one in MMSA's files.
DATA_ROOT_VARIABLE = "MMSA_DATA_ROOT"

# A repository of the hub. As a path, `hf://` has one stroke less.
_HUB_NAME = re.compile(r"(?:hf:/{1,2})?([\w-][\w.-]*/[\w-][\w.-]*)")
# More than what a run's files are called below its folders, which must fit in a path too.
_ROOM = "x" * 240
_SHOWN = 160
_KINDS = {
    stat.S_ISDIR: "is a folder; give a file in it",
    stat.S_ISFIFO: "is a pipe; write what comes out of it to a file",
    stat.S_ISSOCK: "is a socket, not a file",
    stat.S_ISCHR: "is a device, not a file",
    stat.S_ISBLK: "is a device, not a file",
}


def expand(path: str | os.PathLike[str]) -> str:
    """Expand environment variables and `~`.

    Raises:
        ConfigError: If it is no path, or names the home folder of nobody.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{path!r:.80} is no path; give a text or a pathlib.Path.")
    text = os.path.expandvars(os.fspath(path))
    if not isinstance(text, str):
        raise ConfigError(f"{path!r} is no path; give a text or a pathlib.Path.")
    if "\0" in text:
        raise ConfigError(f"{shown(text)}: a path holds no NUL character; take it out.")
    try:
        os.fsencode(text)
        expanded = str(Path(text).expanduser())
        os.lstat(expanded)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{shown(text)}: holds a character that no path can have on this machine; rename it."
        ) from None
    except RuntimeError:
        if text.startswith(("~/", "~\\")) or text == "~":
            home()  # says why there is none
        raise ConfigError(
            f"{shown(text)}: there is no user of that name; write the path."
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(_too_long(text)) from None
    return expanded


def expand_file(path: str | os.PathLike[str]) -> str:
    """`expand`, of a file that is read next; whether it is there is found out then.

    Raises:
        ConfigError: As `expand`, and if it is a pipe or a device, which may never end.
    """
    expanded = expand(path)
    there = Path(expanded).exists() and not Path(expanded).is_dir()
    if there and (reason := why_no_file(expanded, "file")):
        raise ConfigError(f"{shown(expanded)}: {reason}.")
    return expanded


def expand_given(path: str | os.PathLike[str] | None) -> str | None:
    """`expand`, of a path that need not be given: None and MMSA's default, an empty text, are not.

    Raises:
        ConfigError: As `expand`.
    """
    return None if path is None or (isinstance(path, str) and not path) else expand(path)


def home() -> Path:
    """The home folder.

    Raises:
        ConfigError: If the system knows none, as in containers that run under a number.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(
            "the home folder is not known: HOME is not set, and this user has no entry in the "
            "password file. Set HOME to a folder that can be written to, such as HOME=/tmp/home."
        ) from None


def why_no_file(path: str | os.PathLike[str], kind: str) -> str:
    """Why a path, from `expand`, cannot be read as a file of a kind; empty if it can.

    A pipe or a device is none: reading it may never end.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return f"no such {kind}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:  # what `expand` refuses
        return str(error)
    for is_kind, reason in _KINDS.items():
        if is_kind(mode):
            return reason
    return "" if os.access(path, os.R_OK) else "cannot be read: permission denied"


def hub_name(path: str) -> str | None:
    """`owner/name` of what can be a repository of the Hugging Face Hub; None if it cannot."""
    found = _HUB_NAME.fullmatch(path)
    return None if found is None or path.endswith(".pth") else found[1]


def why_no_model(path: str) -> str:
    """Why a path, from `expand`, is neither a file nor a folder of a trained model; empty if it is.

    Nothing is downloaded unless that is asked for.
    """
    if Path(path).is_dir():
        return ""
    if not os.path.lexists(path) and (name := hub_name(path)):
        return (
            "no such checkpoint here. If it is a model of the Hugging Face Hub, get it first: "
            f"`mmsa-ext pull {name}`, or in Python Scorer.from_pretrained({name!r})"
        )
    return why_no_file(path, "checkpoint")


def check_output(target: Path, *inputs: Path) -> None:
    """Refuse to write where something is read from.

    Raises:
        ConfigError: The output is one of the inputs.
    """
    # Not Path.resolve, which raises where links go in a circle.
    if os.path.realpath(target) in map(os.path.realpath, inputs):
        raise ConfigError(f"{target} is the input; name another output, so that nothing is lost.")


def shown(path: object) -> str:
    """A path as messages show it: on one line, and not longer than that."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 4 :]}"


def _too_long(path: str) -> str:
    return f"{shown(path)}: the path is too long ({len(path)} characters); choose a shorter one."


@dataclass(frozen=True)
class Places:
    """Folders of a run.

    Attributes:
        models: Checkpoints.
        results: Records, tables, pictures.
        logs: Log files.
    """

    models: Path
    results: Path
    logs: Path

    @classmethod
    def default(
        cls,
        models: str | Path | None = None,
        results: str | Path | None = None,
        logs: str | Path | None = None,
    ) -> Places:
        """`resolved`, and made where they are missing.

        Raises:
            ConfigError: If a folder cannot be made or written to.
        """
        places = cls.resolved(models, results, logs)
        options = ("--model-save-dir", "--res-save-dir", "--log-dir")
        for folder, option in zip(vars(places).values(), options, strict=True):
            if reason := _why_not_writable(folder):
                raise ConfigError(
                    f"{shown(folder)}: cannot be written to ({reason}); give another folder with "
                    f"{option}."
                )
        return places

    @classmethod
    def resolved(
        cls,
        models: str | Path | None = None,
        results: str | Path | None = None,
        logs: str | Path | None = None,
    ) -> Places:
        """MMSA's folders under the home directory, for those not given; none is made.

        Raises:
            ConfigError: If one is no path, or is in a home directory that is not known.
        """
        given = {"saved_models": models, "results": results, "logs": logs}
        found = {name: expand_given(folder) for name, folder in given.items()}
        return cls(
            *(Path(path) if path else home() / "MMSA" / name for name, path in found.items())
        )


def _why_not_writable(folder: Path) -> str:
    try:
        _measure(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return "there is a file of that name"
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"


def _measure(folder: Path) -> None:
    """Fail where a file below the folder would have a path that is too long."""
    try:
        os.lstat(folder / _ROOM)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise


def config_folder() -> Path:
    """Folder with the shipped configuration files (wheel, editable install or source tree)."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "configs", package.parent / "configs"
    return inside if inside.is_dir() else beside


def experiment_files() -> dict[str, Path]:
    """The shipped experiments by name, sorted."""
    return {path.stem: path for path in sorted((config_folder() / "experiments").glob("*.json"))}
