"""Surroundings of a run: logging, progress bars, random state, device."""

from __future__ import annotations

import logging
import pkgutil
import random
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from MMSA_ext.errors import ConfigError
from MMSA_ext.files import reason
from MMSA_ext.mmsa_bridge.patching import replace_attribute
from MMSA_ext.paths import shown
from MMSA_ext.validation import integer, verbosity

logger = logging.getLogger("MMSA")

_CPU = -1

_STREAM_LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.DEBUG}


@contextmanager
def run_logging(log_file: str | Path, verbose_level: int = 1) -> Iterator[logging.Logger]:
    """MMSA's logger with a file and a stream handler, both gone at the end.

    Levels and formats are MMSA's; what MMSA leaves behind (its handlers, so that the next run also
    writes into this run's file) is cleaned up.

    Args:
        log_file: File to append to; its folder is made.
        verbose_level: What the stream shows: 0 errors, 1 information, 2 everything.

    Yields:
        The logger `MMSA`.

    Raises:
        ConfigError: If `verbose_level` is none of the three, or the file cannot be written to.
    """
    level = _STREAM_LEVELS[verbosity(verbose_level)]
    file_handler = _log_file(Path(log_file))
    file_handler.setLevel(logging.DEBUG)
    file_handler.setFormatter(
        logging.Formatter("%(asctime)s - %(name)s [%(levelname)s] - %(message)s")
    )
    stream_handler = logging.StreamHandler()
    stream_handler.setLevel(level)
    stream_handler.setFormatter(logging.Formatter("%(name)s - %(message)s"))
    with ExitStack() as undo:
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.DEBUG)
        for handler in (file_handler, stream_handler):
            logger.addHandler(handler)
            undo.callback(handler.close)
            undo.callback(logger.removeHandler, handler)
        yield logger


def _log_file(path: Path) -> logging.FileHandler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and stat.S_ISFIFO(path.stat().st_mode):  # opening a pipe would wait
            raise ConfigError(f"{shown(path)}: is no file, so no log can be written; move it away.")
        return _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{shown(path)}: no log can be written ({reason(error)}); give another folder with "
            "--log-dir."
        ) from None


class _LogFile(logging.FileHandler):
    """A log that costs no run: on a full disk it says so once, and what follows is not logged."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)
        print(f"{self.baseFilename}: the log ends here ({reason(error)}).", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written before
            super().close()


@contextmanager
def progress_bars(enabled: bool) -> Iterator[None]:
    """Show the bars of MMSA's trainers in a terminal, or none; touches no random stream."""
    with ExitStack() as undo:
        for module in _trainer_modules():
            bar = partial(vars(module)["tqdm"], disable=None if enabled else True)
            replace_attribute(undo, module, "tqdm", bar)
        yield


def _trainer_modules() -> list[ModuleType]:
    package = import_module("MMSA.trains")
    found = pkgutil.walk_packages(package.__path__, prefix="MMSA.trains.")
    modules = [import_module(info.name) for info in found if not info.ispkg]
    return [module for module in modules if "tqdm" in vars(module)]


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give the random streams of torch, numpy and Python back as they were before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def setup_seed(seed: int) -> None:
    """Seed torch, numpy and Python and ask cuDNN for determinism, as MMSA does."""
    import_module("MMSA.utils.functions").setup_seed(seed)


def assign_device(gpu_ids: Sequence[int | str] | int | str) -> torch.device:
    """Choose the device as MMSA does, without changing the caller's list.

    Args:
        gpu_ids: CUDA devices, of which the first is used; an empty sequence chooses the one with
            the least memory in use. A negative id or `cpu` asks for the CPU, which is also the
            answer where CUDA is absent. That is logged, but not of the tuple `(0,)`: it is the
            default, and nobody asked.

    Returns:
        The device.

    Raises:
        ConfigError: If an id is no number, or CUDA has no such device.
    """
    ids = device_numbers(gpu_ids)
    if not torch.cuda.is_available():
        by_default = isinstance(gpu_ids, tuple) and ids == [0]
        if ids and ids[0] != _CPU and not by_default:
            logger.warning(
                "gpu_ids asks for CUDA device %d, but this machine has none for torch: the CPU is "
                "used.",
                ids[0],
            )
        return torch.device("cpu")
    if not ids:
        free = [torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count())]
        ids = [free.index(max(free))]
    return torch.device("cpu") if ids[0] == _CPU else torch.device("cuda", ids[0])


def device_numbers(gpu_ids: Sequence[int | str] | int | str) -> list[int]:
    """The numbers that `gpu_ids` asks for, -1 for the CPU.

    Raises:
        ConfigError: If an id is no number, or CUDA is there and has no such device.
    """
    given: Any = gpu_ids
    if isinstance(gpu_ids, str) or integer(gpu_ids) is not None:
        given = [gpu_ids]
    elif isinstance(gpu_ids, bytes | Mapping) or not isinstance(gpu_ids, Iterable):
        raise _no_device(gpu_ids)
    numbers = [_device_number(gpu_id) for gpu_id in given]
    count = torch.cuda.device_count() if torch.cuda.is_available() else None
    for number in numbers:
        if count is not None and number >= count:
            raise ConfigError(
                f"gpu_ids asks for CUDA device {number}, but there are only "
                f"{', '.join(map(str, range(count)))}; choose one of them, or 'cpu'."
            )
    return numbers


def _device_number(gpu_id: object) -> int:
    number = integer(gpu_id)
    if isinstance(gpu_id, str):
        if gpu_id.strip().lower() == "cpu":
            return _CPU
        with suppress(ValueError):
            number = int(gpu_id)
    if number is None:
        raise _no_device(gpu_id)
    return max(number, _CPU)


def _no_device(given: object) -> ConfigError:
    return ConfigError(
        f"gpu_ids has {given!r:.80}; give numbers of CUDA devices such as [0], 'cpu' or -1 for the "
        "CPU, or [] for the most free device."
    )
