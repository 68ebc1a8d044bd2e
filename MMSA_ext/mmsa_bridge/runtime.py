"""Surroundings of a run: logging, progress bars, random state, device."""

from __future__ import annotations

import logging
import pkgutil
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from MMSA_ext.errors import ConfigError
from MMSA_ext.files import reason, write_error
from MMSA_ext.mmsa_bridge.patching import replace_attribute

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
        ConfigError: If `verbose_level` is none of the three.
        WriteError: If the file cannot be opened.
    """
    if verbose_level not in _STREAM_LEVELS:
        raise ConfigError(f"verbose_level is {verbose_level!r}; use 0, 1 or 2.")
    logger = logging.getLogger("MMSA")
    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        file_handler = _LogFile(log_file, encoding="utf-8")
    except OSError as error:
        raise write_error(Path(log_file), error) from error
    file_handler.setLevel(logging.DEBUG)
    file_handler.setFormatter(
        logging.Formatter("%(asctime)s - %(name)s [%(levelname)s] - %(message)s")
    )
    stream_handler = logging.StreamHandler()
    stream_handler.setLevel(_STREAM_LEVELS[verbose_level])
    stream_handler.setFormatter(logging.Formatter("%(name)s - %(message)s"))
    with ExitStack() as undo:
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.DEBUG)
        for handler in (file_handler, stream_handler):
            logger.addHandler(handler)
            undo.callback(handler.close)
            undo.callback(logger.removeHandler, handler)
        yield logger


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
    """Show or silence the progress bars of MMSA's trainers; touches no random stream."""
    with ExitStack() as undo:
        if not enabled:
            for module in _trainer_modules():
                silent = partial(vars(module)["tqdm"], disable=True)
                replace_attribute(undo, module, "tqdm", silent)
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
            answer where CUDA is absent.

    Returns:
        The device.

    Raises:
        ConfigError: If the id is no number, or CUDA has no such device.
    """
    ids = [gpu_ids] if isinstance(gpu_ids, int | str) else list(gpu_ids)
    wanted = _device_number(ids[0]) if ids else None
    if not torch.cuda.is_available() or (wanted is not None and wanted < 0):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if wanted is None:
        wanted = max(range(count), key=lambda number: torch.cuda.mem_get_info(number)[0])
    if wanted >= count:
        raise ConfigError(f"gpu_ids asks for CUDA device {wanted}, but only {count} are visible.")
    return torch.device("cuda", wanted)


def _device_number(gpu_id: int | str) -> int:
    if str(gpu_id).lower() == "cpu":
        return -1
    try:
        return int(gpu_id)
    except ValueError:
        raise ConfigError(
            f"gpu_ids contains {gpu_id!r}; give device numbers, or 'cpu' or -1 for the CPU."
        ) from None
