import logging
import os
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.errors import ConfigError
from MMSA_ext.validation import verbosity

MMSA_LOGGER = logging.getLogger("MMSA")


def test_two_runs_in_a_row_log_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    level, handlers = MMSA_LOGGER.level, list(MMSA_LOGGER.handlers)
    for name in ("first", "second"):
        with mmsa_bridge.run_logging(tmp_path / "logs" / f"{name}.log") as logger:
            logger.debug("detail of %s", name)
            logger.info("run %s", name)
    assert (MMSA_LOGGER.level, MMSA_LOGGER.handlers) == (level, handlers)
    lines = (tmp_path / "logs" / "first.log").read_text().splitlines()
    assert [line.partition(" - ")[2] for line in lines] == [
        "MMSA [DEBUG] - detail of first",
        "MMSA [INFO] - run first",
    ]
    assert capsys.readouterr().err == "MMSA - run first\nMMSA - run second\n"


@pytest.mark.parametrize(("verbose_level", "shown"), [(0, "e"), (1, "ei"), (2, "eid")])
def test_verbose_level_decides_what_the_stream_shows(
    verbose_level: int, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mmsa_bridge.run_logging(tmp_path / "run.log", verbose_level) as logger:
        logger.error("e")
        logger.info("i")
        logger.debug("d")
    assert capsys.readouterr().err == "".join(f"MMSA - {letter}\n" for letter in shown)


def test_handlers_go_also_after_an_error(tmp_path: Path) -> None:
    handlers = list(MMSA_LOGGER.handlers)
    with pytest.raises(KeyError), mmsa_bridge.run_logging(tmp_path / "run.log"):
        raise KeyError
    assert handlers == MMSA_LOGGER.handlers


def test_unknown_verbose_level(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="use 0, 1 or 2"),
        mmsa_bridge.run_logging(tmp_path / "run.log", 3),
    ):
        pass
    assert not (tmp_path / "run.log").exists()
    for level in ("1", None, True, [1], 1.0):
        with pytest.raises(ConfigError, match="use 0, 1 or 2"):
            verbosity(level)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """A pipe would be waited for until somebody reads it."""
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "file").touch()
    for name in ("pipe.log", "folder.log", "file/run.log"):
        with (
            pytest.raises(ConfigError, match="no log can be written"),
            mmsa_bridge.run_logging(tmp_path / name),
        ):
            pass


@pytest.mark.parametrize(("enabled", "terminal"), [(True, True), (True, False), (False, True)])
def test_progress_bars(
    enabled: bool,
    terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a terminal, and not in files and pipes."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for name in ("singleTask.LF_DNN", "multiTask.SELF_MM", "missingTask.TFR_NET"):
        module = import_module(f"MMSA.trains.{name}")
        stock = module.tqdm
        with mmsa_bridge.progress_bars(enabled), module.tqdm([1, 2]) as bar:
            assert list(bar) == [1, 2]
        assert module.tqdm is stock
        assert bool(capsys.readouterr().err) == (enabled and terminal)


def test_random_state_is_preserved() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    mmsa_bridge.setup_seed(7)
    expected = draw()
    mmsa_bridge.setup_seed(7)
    with mmsa_bridge.preserved_random_state():
        assert draw() == expected
        draw()
    assert draw() == expected


class TestAssignDevice:
    @pytest.fixture
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ([100, 900][device], 1000))

    def test_cpu_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for gpu_ids in ([0], [], 3, "0", [-1], "cpu"):
            assert mmsa_bridge.assign_device(gpu_ids) == torch.device("cpu")

    def test_that_the_cpu_is_used_is_said_once_where_a_device_was_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for gpu_ids in ([0], 0, "0", ["0"], [3, 1], np.array([0])):
            caplog.clear()
            mmsa_bridge.assign_device(gpu_ids)
            (said,) = caplog.messages
            assert "this machine has none for torch: the CPU is used" in said
        caplog.clear()
        for gpu_ids in ((0,), [], "cpu", -1, [-1]):  # (0,) is the default, as MMSA's [0] is
            mmsa_bridge.assign_device(gpu_ids)
        assert caplog.messages == []

    @pytest.mark.usefixtures("two_gpus")
    def test_with_cuda(self) -> None:
        assert mmsa_bridge.assign_device([0]) == torch.device("cuda:0")
        assert mmsa_bridge.assign_device(["1", 0]) == torch.device("cuda:1")
        assert mmsa_bridge.assign_device(1) == torch.device("cuda:1")
        for gpu_ids in (-1, [-1], "cpu", ["CPU"]):
            assert mmsa_bridge.assign_device(gpu_ids) == torch.device("cpu")

    @pytest.mark.usefixtures("two_gpus")
    def test_empty_list_takes_the_most_free_one_and_stays_empty(self) -> None:
        gpu_ids: list[int] = []
        assert mmsa_bridge.assign_device(gpu_ids) == torch.device("cuda:1")
        assert gpu_ids == []

    @pytest.mark.usefixtures("two_gpus")
    def test_bad_ids(self) -> None:
        with pytest.raises(ConfigError, match="there are only 0, 1; choose"):
            mmsa_bridge.assign_device([2])
        with pytest.raises(ConfigError, match="CUDA device 7"):
            mmsa_bridge.assign_device([0, 7])

    @pytest.mark.parametrize(
        "gpu_ids",
        [None, ["first"], "0,1", "", True, [True], 1.5, [None], [[0]], "cuda:0", b"0", {0: 1}, len],
    )
    def test_what_is_no_device(self, gpu_ids: Any) -> None:
        with pytest.raises(ConfigError, match="give numbers of CUDA devices"):
            mmsa_bridge.assign_device(gpu_ids)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no disk that is always full")
def test_a_log_on_a_full_disk_costs_one_line(capsys):
    with mmsa_bridge.run_logging("/dev/full", 0) as logger:
        for _ in range(3):
            logger.info("a line")
    said = capsys.readouterr().err
    assert said == "/dev/full: the log ends here (No space left on device).\n"
