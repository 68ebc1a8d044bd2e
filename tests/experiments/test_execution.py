"""Running an experiment: here, in processes, in several invocations, and after being killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from MMSA_ext.errors import ConfigError, WriteError
from MMSA_ext.experiments import Plan, run
from MMSA_ext.experiments.execution import run_missing
from MMSA_ext.experiments.plan import Claims
from MMSA_ext.experiments.workers import LocalProcesses, Outcome, Worker
from MMSA_ext.processes import LostWorkerError, threads_of_new_processes
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.processes import threads_each
from MMSA_ext.stopping import handlers
from tests.experiments.conftest import CONTENT


def begun(tmp_path):
    """How often each seed was trained, by the log that all processes write."""
    log = (tmp_path / "l" / "text_only-mosi.log").read_text("utf-8")
    return Counter(line.split("with seed ")[1].split()[0] for line in log.splitlines()
                   if "Running with seed" in line)  # fmt: skip


def states(outcomes):
    return [outcome.state for outcome in outcomes]


class TestHere:
    def test_is_run_row_by_row_and_looked_up_afterwards(self, make, options, tiny, tmp_path):
        experiment = make().narrowed(config=tiny)
        seen = []
        first = run(experiment, progress=seen.append, **options)
        assert [(o.unit.label, o.unit.identity.seed) for o in first] == [
            ("slow", 1), ("slow", 2), ("fast", 1), ("fast", 2)
        ]  # fmt: skip
        assert states(first) == ["finished"] * 4
        assert not any(outcome.reused for outcome in first)
        assert [(p.done, p.running, p.missing) for p in seen][:3] == [
            (0, 0, 4), (0, 1, 3), (1, 0, 3)
        ]  # fmt: skip
        assert (seen[-1].done, seen[-1].total, seen[-1].left.unknown) == (4, 4, 0)
        assert "unknown length" in str(seen[0])
        assert str(seen[-1]) == "fast on mosi, seed 2: finished [4 of 4 done, 0 running]"
        again = run(experiment, **options)
        assert all(outcome.reused for outcome in again)
        more = run(experiment.narrowed(seeds=[1, 3]), **options)
        assert [outcome.reused for outcome in more] == [True, False] * 2
        assert begun(tmp_path) == {"1": 2, "2": 2, "3": 2}
        repeated = run(experiment.narrowed(seeds=[1]), **options, reuse=False)
        assert not any(outcome.reused for outcome in repeated)
        assert begun(tmp_path)["1"] == 4

    def test_trackers_are_refused_where_their_folder_would_be_lost(self, make, options):
        with pytest.raises(ConfigError, match="leave out --track"):
            run(make(), engine=Mock(), track="tensorboard", **options)

    def test_a_refused_row_does_not_stop_the_others(self, make, options, tiny, store):
        rows = [
            {"label": "no encoder", "model": "text_only", "config": {"pretrained": "./nowhere"}},
            CONTENT["rows"][1],
        ]
        refused, fine = run(make(rows=rows).narrowed(config=tiny, seeds=[1]), **options)
        assert (refused.state, refused.record) == ("refused", None)
        assert "./nowhere" in refused.error
        assert fine.state == "finished"
        assert len(list(store.records())) == 1

    def test_an_unexpected_error_does_not_stop_the_others(self, make, options, tiny, monkeypatch):
        from MMSA_ext.runs.seeds import Run

        train = Run._train

        def broken(self, identity, *rest):
            if identity.seed == 1:
                raise RuntimeError("out of memory")
            return train(self, identity, *rest)

        monkeypatch.setattr(Run, "_train", broken)
        outcomes = run(make().narrowed(config=tiny), **options)
        assert states(outcomes) == ["failed", "finished"] * 2
        assert outcomes[0].error == "RuntimeError: out of memory"

    def test_data_that_are_refused_are_read_once_a_row(self, make, options, tiny, monkeypatch):
        from MMSA_ext.runs import seeds as runs

        read = []
        monkeypatch.setattr(runs, "read_features", lambda *a, **k: read.append(a) or missing())

        def missing():
            raise ConfigError("not these")

        outcomes = run(make().narrowed(config=tiny), **options)
        assert states(outcomes) == ["refused"] * 4
        assert len(read) == 2

    def test_a_model_of_mmsa_is_a_row_like_any_other(self, make, options):
        rows = [{"label": "LF-DNN", "model": "lf_dnn", "config": {"early_stop": 1}}]
        (outcome,) = run(make(rows=rows, seeds=[1]), **options)
        assert outcome.state == "finished"

    def test_rows_that_cannot_be_run_are_all_named_before_any_is(self, make, options, store):
        bad = [
            {"label": "one", "model": "text_onyl"},
            {"label": "two", "model": "text_only", "config": {"dimm": 3}},
        ]
        with pytest.raises(ConfigError, match=r"(?s)2 row.*one.*text_only.*two.*dim"):
            run(make(rows=[CONTENT["rows"][0], *bad]), **options)
        assert not list(store.records())

    def test_one_file_does_not_serve_two_data_sets(self, make, options):
        columns = {"mosi": ["MAE"], "mosei": ["MAE"]}
        two = make(datasets=["mosi", "mosei"], columns=columns)
        with pytest.raises(ConfigError, match="--dataset"):
            run(two, **options)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"gpu_ids": ["foo"]}, "gpu_ids has 'foo'"),
            ({"gpu_ids": ["cpu", "foo"]}, "gpu_ids has 'foo'"),
            ({"verbose_level": 7}, "verbose_level is 7"),
        ],
    )
    def test_device_and_verbosity_are_checked_once(self, make, options, tmp_path, wrong, said):
        with pytest.raises(ConfigError, match=said):
            run(make(), **options | wrong)
        assert not (tmp_path / "r").exists()

    @pytest.mark.parametrize("folder", ["res_save_dir", "model_save_dir", "log_dir"])
    def test_a_folder_that_cannot_be_written_to_is_named(self, make, options, tmp_path, folder):
        (tmp_path / "in the way").write_text("")
        option = f"--{folder.replace('_', '-')}"
        with pytest.raises(ConfigError, match=f"in the way.*cannot be written to.*{option}"):
            run(make(), **options | {folder: tmp_path / "in the way" / "r"})

    def test_a_missing_feature_file_says_how_to_give_one(self, make, options, tiny):
        missing = options | {"custom_feature": None}
        experiment = make(seeds=[1]).narrowed(config=tiny | {"featurePath": "/nowhere.pkl"})
        outcomes = run(experiment, **missing)
        assert states(outcomes) == ["refused"] * 2
        assert all("-f FILE" in outcome.error for outcome in outcomes)

    def test_no_jobs(self, make, options):
        with pytest.raises(ConfigError, match="jobs is 0"):
            run(make(), jobs=0, **options)


class Fake:
    """An engine that refuses or loses units as told, and says what it was given."""

    def __init__(self, slots=1, losses=0, while_running=lambda unit: None):
        self.slots, self.losses, self.while_running = slots, losses, while_running
        self.given, self.closed = [], False

    def begin(self, unit):
        self.given.append(unit.identity.seed)
        return lambda: self.outcome(unit)

    def outcome(self, unit):
        self.while_running(unit)
        if self.losses:
            self.losses -= 1
            raise LostWorkerError("killed")
        return Outcome(unit, "refused", error="only a test")

    def close(self):
        self.closed = True


class TestScheduling:
    @pytest.fixture
    def plan(self, make, store, feature_file):
        rows = [CONTENT["rows"][0]]
        return Plan(make(rows=rows, seeds=[1, 2, 3]), store, {"custom_feature": feature_file})

    @staticmethod
    def schedule(plan, engine):
        outcomes = {}
        run_missing(plan, engine, outcomes)
        return outcomes

    def test_what_another_process_runs_is_passed_over_and_taken_when_it_dies(self, plan, store):
        """Here it dies, without a record, when the last of the others is begun."""
        other = ExitStack()
        other.enter_context(Claims(store).claim(plan.units[0].key))

        def dies(unit):
            if unit.identity.seed == 3:
                other.close()

        engine = Fake(while_running=dies)
        assert len(self.schedule(plan, engine)) == 3
        assert engine.given == [2, 3, 1]
        assert engine.closed

    def test_what_another_process_finished_meanwhile_is_found(
        self, plan, store, make, options, tiny, tmp_path
    ):
        experiment = make().narrowed(config=tiny, seeds=[1])
        plan = Plan(experiment, store, options)
        run(experiment, **options)
        engine = Fake()
        outcomes = self.schedule(plan, engine)
        assert engine.given == []
        assert all(outcome.reused and outcome.record for outcome in outcomes.values())

    def test_a_driver_without_the_data_counts_what_its_workers_made(
        self, make, options, tiny, store
    ):
        """Like Ray's: only the workers have the feature file."""
        experiment = make().narrowed(config=tiny | {"featurePath": "/nowhere.pkl"}, seeds=[1])
        blind = {key: value for key, value in options.items() if key != "custom_feature"}
        given = []

        def engine(store, _):
            inner = Worker(RunOptions(**options))
            begin = inner.begin
            inner.begin = lambda unit: given.append(unit.key) or begin(unit)
            return inner

        first = run(experiment, engine=engine, **blind)
        assert states(first) == ["finished"] * 2
        again = run(experiment, engine=engine, **blind)
        assert all(outcome.reused for outcome in again)
        assert len(given) == 2

    def test_a_repeat_counts_what_another_process_made_since(
        self, make, store, options, tiny, tmp_path
    ):
        experiment = make().narrowed(config=tiny, seeds=[1])
        rows = experiment.rows
        run(experiment, **options)
        plan = Plan(experiment, store, options)
        other = experiment.model_copy(update={"rows": rows[:1]})
        run(other, reuse=False, **options)
        engine, outcomes = Fake(), {}
        run_missing(plan, engine, outcomes, reuse=False)
        assert [unit.label for unit in plan.units] == ["slow", "fast"]
        assert states(outcomes.values()) == ["finished", "refused"]
        assert len(engine.given) == 1

    def test_a_lost_unit_is_tried_when_the_others_are_done_three_times_at_most(self, plan):
        engine = Fake(losses=1)
        assert set(states(self.schedule(plan, engine).values())) == {"refused"}
        assert engine.given == [1, 2, 3, 1]
        engine = Fake(losses=9)
        outcomes = self.schedule(plan, engine)
        assert states(outcomes.values()) == ["failed"] * 3
        assert engine.given == [1, 2, 3] * 3
        assert outcomes[plan.units[0].key].error == "killed"

    def test_what_has_another_name_than_planned_is_not_run(
        self, make, store, options, tiny, monkeypatch
    ):
        """As where the code or the feature file is changed while an experiment runs."""
        plan = Plan(make().narrowed(config=tiny, seeds=[1]), store, options)
        monkeypatch.setattr(
            "MMSA_ext.runs.identity.model_code_version", lambda model, **options: "changed"
        )
        outcomes = self.schedule(plan, Worker(RunOptions(**options)))
        assert states(outcomes.values()) == ["refused"] * 2
        assert all("another name" in outcome.error for outcome in outcomes.values())
        assert not list(store.records())

    @pytest.mark.parametrize("breaking", ["store", "claims"])
    def test_what_cannot_be_stored_is_not_begun(self, plan, store, monkeypatch, breaking):
        """The disk fills while the first unit runs; what is running goes on."""

        def refuse(*args):
            raise WriteError("the disk is full")

        def full(unit):
            where, name = {"store": (store, "check_writable"), "claims": (Claims, "claim")}[
                breaking
            ]
            monkeypatch.setattr(where, name, refuse)

        engine = Fake(while_running=full)
        outcomes = self.schedule(plan, engine)
        assert engine.given == [1]
        assert states(outcomes.values()) == ["refused"] * 3
        errors = [outcomes[unit.key].error for unit in plan.units]
        assert errors == ["only a test", "the disk is full", "the disk is full"]

    def test_a_store_that_cannot_be_written_is_said_before_any_engine_is_made(
        self, make, options, store
    ):
        store.root.parent.mkdir(parents=True)
        store.root.touch()
        with pytest.raises(WriteError, match="choose another folder"):
            run(make(), engine=lambda *args: pytest.fail("made"), **options)

    def test_claims_end_with_the_run(self, plan, store):
        def interrupted(unit):
            raise KeyboardInterrupt

        engine = Fake(while_running=interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.schedule(plan, engine)
        assert engine.closed
        assert not any(Claims(store).held(unit.key) for unit in plan.units)


@pytest.mark.parametrize(("cores", "jobs", "each"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_processes_share_the_threads(monkeypatch, cores, jobs, each):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    assert threads_each(jobs) == each


def test_threads_that_the_user_set_stand(monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("MMSA_ext.runs.processes.cpu_count", lambda: 8)
    assert threads_each(2) == 4
    assert not caplog.messages
    assert threads_each(3) == 4
    assert "unset it, or set it to 2" in caplog.text


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({}, ["3", "PASSIVE"]),
        ({"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}, ["3", "ACTIVE"]),
    ],
)
def test_a_new_process_is_told_its_threads_and_this_one_keeps_its_own(monkeypatch, before, told):
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    script = f"import os; print(*[os.environ[name] for name in {names}])"
    with threads_of_new_processes(3):
        shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout.split() == told
    assert {name: os.environ[name] for name in names if name in os.environ} == before


def test_a_process_goes_on_with_the_data_that_it_has_open(make, store, feature_file, monkeypatch):
    class Process:
        setting, process = "", Mock()

        def __init__(self, options):
            self.made = []

        def send(self, unit):
            self.setting = unit.identity.setting
            self.made.append(unit)

        def receive(self): ...

    monkeypatch.setattr("MMSA_ext.experiments.workers._Process", Process)
    slow, _, fast, _ = Plan(make(), store, {"custom_feature": feature_file}).units
    engine = LocalProcesses(2, RunOptions())
    for unit in (slow, fast, fast, slow, slow):
        engine.begin(unit)()
    engine.close()
    assert [process.made for process in engine._all] == [[slow, slow, slow], [fast, fast]]


@pytest.mark.slow
def test_a_killed_process_is_replaced(make, options, tiny, store, tmp_path):
    """Two processes, of which one is killed when both have begun."""
    killed = []

    def kill_one(progress):
        if progress.running == 2 and not killed:
            victim = multiprocessing.active_children()[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    experiment = make().narrowed(config=tiny)
    outcomes = run(experiment, jobs=2, progress=kill_one, **options)
    assert killed
    assert states(outcomes) == ["finished"] * 4
    assert len(list(store.records())) == 4
    assert begun(tmp_path).total() in (4, 5)  # it may have been killed before it began to train
    assert not multiprocessing.active_children()


@pytest.fixture
def command(options, tmp_path):
    """The command that runs the experiment, in a session of its own."""

    def start(*arguments):
        line = [sys.executable, "-m", "MMSA_ext", "experiment", "run", str(tmp_path / "rates.json"),
                "-f", str(options["custom_feature"]), "-g", "cpu", "-n", "0", "-v", "0",
                "--model-save-dir", str(tmp_path / "m"), "--res-save-dir", str(tmp_path / "r"),
                "--log-dir", str(tmp_path / "l"), *arguments]  # fmt: skip
        # Where the tests run in the background, Ctrl-C is ignored, and would be inherited so.
        with handlers({signal.SIGINT: signal.default_int_handler}):
            started.append(subprocess.Popen(
                line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
            ))  # fmt: skip
        return started[-1]

    started = []
    yield start
    for process in started:  # where a test failed before it stopped one
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def alive(session):
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state != "Z":
                found.append(path.parent.name)
    return found


def wait_until(reached):
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Quick: in tests/test_stopping.py that what is told to stop ends with its code, in the next test
# what becomes of a killed one's work.
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes by /proc")
@pytest.mark.parametrize(
    ("number", "whom", "code"),
    [
        (signal.SIGINT, "killpg", 130),  # as a terminal sends it, to the processes too
        (signal.SIGTERM, "kill", 143),
        (9, "kill", -9),
    ],
)
def test_stopped_in_any_way_its_processes_end_and_the_claims_are_free(
    make, command, options, tiny, store, tmp_path, number, whom, code
):
    experiment = make(config=tiny | {"num_epochs": 500})
    plan = Plan(experiment, store, options)
    running = command("--jobs", "2")
    log = tmp_path / "l" / "text_only-mosi.log"
    wait_until(lambda: log.is_file() and begun(tmp_path).total() == 2)
    claims = Claims(store)
    assert [claims.held(unit.key) for unit in plan.units] == [True, True, False, False]
    getattr(os, whom)(running.pid, number)
    _, error = running.communicate(timeout=60)
    assert running.returncode == code
    assert ("goes on after what was finished" in error) == (code > 0)
    assert code < 0 or "Traceback" not in error
    assert not any(claims.held(unit.key) for unit in plan.units)
    wait_until(lambda: not alive(running.pid))
    assert not list(store.records())


def test_two_invocations_share_the_work_and_one_may_be_killed(
    make, command, options, tiny, store, tmp_path
):
    """The other process is killed in the middle of a run; this one takes all that is left."""
    experiment = make(config=tiny, seeds=[1, 2, 3, 4])
    other = command()
    lines = (line for line in other.stdout)
    assert any("seed 1: finished" in line for line in lines)
    (first,) = (path for path in store.root.rglob("*seed1.json"))
    written = first.stat().st_mtime_ns, first.read_bytes()
    together = []

    def kill(progress):
        if progress.event.endswith("finished") and not together:
            claims = Claims(store)
            together.extend(
                unit.identity.seed for unit in experiment_units if claims.held(unit.key)
            )
            other.kill()
            other.wait()

    experiment_units = Plan(experiment, store, options).units
    outcomes = run(experiment, progress=kill, **options)
    other.stdout.close()
    other.stderr.close()
    assert together, "the other process was at work"
    assert states(outcomes) == ["finished"] * 8
    assert len(list(store.records())) == 8
    assert begun(tmp_path).total() in (8, 9)  # at most the killed run was begun twice
    assert (first.stat().st_mtime_ns, first.read_bytes()) == written
    for outcome in outcomes:
        assert json.loads(store.path(outcome.record.identity).read_text())["status"] == "finished"
        assert len(store.predictions(outcome.record)) == 24
