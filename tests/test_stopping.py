"""Ctrl-C and SIGTERM end a command in order; storing a result is not cut."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from MMSA_ext import cli
from MMSA_ext.errors import WriteError
from MMSA_ext.records.store import RunStore
from MMSA_ext.stopping import Stopped, deferred, stoppable
from MMSA_ext.training.trainer import Trainer
from tests.conftest import tiny_config

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a fresh process: Ray, used by a test before, leaves its own."""
    before = {number: signal.getsignal(number) for number, _ in CODES}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_command_ends_with_the_usual_code_and_says_what_is_kept(
    number, code, monkeypatch, capsys
):
    before = [signal.getsignal(n) for n, _ in CODES]
    monkeypatch.setattr(cli, "app", lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    assert capsys.readouterr().err.splitlines() == ["Stopped; what was finished before is kept."]
    assert [signal.getsignal(n) for n, _ in CODES] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def storing(*signals, error=None):
    """Get signals while something is stored; what was done before the first acted."""
    done = []
    try:
        with deferred("a result"):
            for number in signals:
                signal.raise_signal(number)
            done.append("stored")
            if error is not None:
                raise error
        done.append("went on")
    except BaseException as stopped:
        return done, stopped
    return done, None


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_while_storing_acts_afterwards(number, code):
    with stoppable():
        done, stopped = storing(number)
    assert done == ["stored"]
    assert isinstance(stopped, Stopped)
    assert stopped.code == code


def test_a_second_signal_while_storing_acts_at_once():
    with stoppable():
        done, stopped = storing(signal.SIGTERM, signal.SIGTERM)
    assert done == []
    assert isinstance(stopped, Stopped)


def test_from_python_ctrl_c_is_a_keyboard_interrupt_afterwards():
    done, stopped = storing(signal.SIGINT)
    assert done == ["stored"]
    assert type(stopped) is KeyboardInterrupt


def test_an_error_of_storing_is_said_before_the_signal_acts(caplog):
    with stoppable():
        _, stopped = storing(signal.SIGTERM, error=WriteError("kept in some folder"))
    assert isinstance(stopped, Stopped)
    assert "kept in some folder" in caplog.text


@pytest.fixture
def arguments(tmp_path, feature_file, tiny_encoder):
    """Of a command that trains three seeds."""
    config = tiny_config("text_only", tiny_encoder)
    names = ("model-save", "res-save", "log")
    return [
        *("run", "-m", "text_only", "-f", str(feature_file), "-g", "cpu", "-n", "0", "-v", "0"),
        *("-s", "1", "-s", "2", "-s", "3"),
        *(word for name in names for word in (f"--{name}-dir", str(tmp_path / name))),
        *(word for key, value in config.items() for word in ("--set", f"{key}={value}")),
    ]


def check_kept(tmp_path, said):
    kept = tmp_path / "res-save" / "runs"
    assert said == f"Stopped; kept in {kept}: seeds 1. The same command goes on.\n"
    assert [record.identity.seed for record in RunStore(kept).records()] == [1]
    # The checkpoint of the first seed, and the state that the second goes on from.
    endings = {path.suffix for path in (tmp_path / "model-save").iterdir()}
    assert endings == {".pth", ".resume"}
    assert len(list((tmp_path / "model-save").iterdir())) == 2
    assert not [path for path in kept.rglob("*") if "unfinished" in path.name]


def told_to_stop(train=Trainer.do_train, number=signal.SIGTERM):
    """Training that a signal reaches while its second seed has weights on the disk."""

    def do_train(self, *args, **options):
        train(self, *args, **options)
        if self.args.cur_seed == 2:
            assert Path(self.args.model_save_path).is_file()
            os.kill(os.getpid(), number)

    return do_train


def test_sigterm_keeps_finished_seeds_and_leaves_nothing_over(
    tmp_path, arguments, monkeypatch, capsys
):
    monkeypatch.setattr(Trainer, "do_train", told_to_stop())
    monkeypatch.setattr(sys, "argv", ["mmsa-ext", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 143
    check_kept(tmp_path, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_process_of_its_own(tmp_path, arguments, number, code):
    script = (
        "from MMSA_ext.cli import main; from tests.test_stopping import Trainer, told_to_stop;"
        f"Trainer.do_train = told_to_stop(number={int(number)}); main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    check_kept(tmp_path, ended.stderr)
