"""What several processes of runs are given: their share of threads and devices."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace

import torch
from joblib import cpu_count

from MMSA_ext.errors import ConfigError
from MMSA_ext.processes import THREADS_VARIABLE
from MMSA_ext.runs.options import RunOptions

logger = logging.getLogger("MMSA")


def check_copied(options: RunOptions) -> None:
    """Refuse callbacks that no other process can be given, by a ConfigError."""
    try:
        pickle.dumps(options.callbacks)
    except Exception as error:  # whatever an object's own pickling raises
        raise ConfigError(
            f"a callback cannot be copied to other processes ({error}); define its class in a "
            "module and open files in on_start, or leave out jobs (--jobs)."
        ) from error


def options_of(number: int, jobs: int, options: RunOptions) -> RunOptions:
    """What of the options is one of several processes'."""
    ids = options.gpu_ids
    if isinstance(ids, Sequence) and not isinstance(ids, str) and len(ids) > 1:
        ids = [ids[number % len(ids)]]
    # The runs have all cores already; loader processes are started anew each epoch.
    loaders = options.num_workers if jobs == 1 else 0
    return replace(options, verbose_level=0, num_workers=loaders, gpu_ids=ids)


def threads_each(jobs: int) -> int:
    """Threads of each of several processes: what the user set, else a share of this one's."""
    if THREADS_VARIABLE not in os.environ:
        return max(1, torch.get_num_threads() // jobs)
    threads, cores = torch.get_num_threads(), cpu_count()
    if jobs > 1 and threads > 1 and jobs * threads > cores:
        logger.warning(
            "%d processes of %s=%d threads share %d cores and hinder each other; unset it, or set "
            "it to %d.",
            jobs,
            THREADS_VARIABLE,
            threads,
            cores,
            max(1, cores // jobs),
        )
    return threads
