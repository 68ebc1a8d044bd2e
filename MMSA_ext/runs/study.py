"""The study of a search, in an SQLite file: what was tried so far, and what is tried next.

Optuna keeps it. A search that is started again finds its trials by the study's name, which is a
digest of all that decides them; trials whose process died are marked as failed, and made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, OperationalError

from MMSA_ext.errors import ConfigError
from MMSA_ext.files import write_error

__all__ = ["FINISHED", "draw_from", "finished", "give_back", "open_study", "put_back", "using"]

# Diverged trials are pruned ones, so that the search avoids where they are.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# Seconds to wait for another process that writes.
_BUSY = 120


def open_study(
    path: Path, name: str, *, direction: str | None = None, anew: bool = False
) -> optuna.Study:
    """A study in a file, for this process.

    Args:
        path: The SQLite file; made where it is missing, if a direction is given.
        name: Of the study.
        direction: `minimize` or `maximize`; None opens a study that is there.
        anew: Forget the trials that are there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with using(path):
        storage = optuna.storages.RDBStorage(
            URL.create("sqlite", database=str(path)).render_as_string(),
            engine_kwargs={"connect_args": {"timeout": _BUSY}},
        )
        if direction is None:
            return optuna.load_study(study_name=name, storage=storage)
        there = {study.study_name for study in optuna.get_all_study_summaries(storage)}
        if anew and name in there:
            optuna.delete_study(study_name=name, storage=storage)
        return optuna.create_study(
            study_name=name, storage=storage, direction=direction, load_if_exists=True
        )


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Errors of the file, as sentences.

    Raises:
        WriteError: It cannot be written.
        ConfigError: It is no study's, or of another version of Optuna.
    """
    try:
        yield
    except OperationalError as error:
        raise write_error(path, error) from error
    except DatabaseError as error:
        raise ConfigError(
            f"{path}: cannot be read as a study ({error.orig}); move it away, or restore it from a "
            "copy."
        ) from error
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        raise ConfigError(
            f"{path}: is of another version of Optuna; install that, or move the file away "
            f"({error})"
        ) from error


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over, by number; not those that failed and are made again."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state in FINISHED]


def put_back(study: optuna.Study) -> int:
    """Mark trials whose process is gone as failed, to be made again; nobody else may be at work."""
    dead = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in dead:
        give_back(study, trial.number, trial.params)
    return len(dead)


def give_back(study: optuna.Study, number: int, params: Mapping[str, Any]) -> None:
    """Mark a trial as failed; the next one to be made is at the same point."""
    study.tell(number, state=TrialState.FAIL)
    study.enqueue_trial(dict(params), user_attrs={"again": number})


def draw_from(study: optuna.Study, seed: int, *, several: bool) -> optuna.Trial:
    """The next trial, drawn from what was found so far.

    Each trial has a random stream of its own, by its place among those that did not fail: a search
    that is stopped and goes on draws what it would have drawn without a break.

    Args:
        study: What was found so far.
        seed: Of the search.
        several: Whether other processes are at work, whose points are not to be drawn as well.
    """
    trial = study.ask()
    before = study.get_trials(deepcopy=False)[: trial.number]
    place = sum(other.state != TrialState.FAIL for other in before)
    stream = np.random.SeedSequence((seed, place)).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(stream), constant_liar=several)
    return trial
