"""An experiment on a real Ray, started here, with two workers of which one is killed."""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from MMSA_ext import registry
from MMSA_ext.errors import ConfigError
from MMSA_ext.experiments import Outcome, Plan, run
from MMSA_ext.experiments.ray_engine import Delivery, RayEngine, _slots, connect
from MMSA_ext.processes import LostWorkerError
from MMSA_ext.records.store import RunStore, file_digest
from MMSA_ext.runs.options import RunOptions
from tests.attack import store as attack
from tests.conftest import OWN_MODEL

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    ray = pytest.importorskip("ray")
    # Its sockets need a short path.
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


def workers():
    """Process numbers of the workers that are running a unit, by the title that Ray gives them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::deliver"):
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers by /proc")
def test_a_worker_that_dies_costs_nothing(ray, make, options, tiny, store, tmp_path):
    """One of two is killed while both run; every record is there once, with all that belongs."""
    killed = []
    done = threading.Event()

    def kill_one():
        while not killed and not done.wait(0.005):
            running = workers()
            if len(running) == 2:
                os.kill(running[0], signal.SIGKILL)
                killed.append(running[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    longer = {"num_epochs": 25, "early_stop": None}  # so that two are seen running
    experiment = make().narrowed(config=tiny | longer)
    # A relative path: the workers' folder is another.
    features = os.path.relpath(options["custom_feature"])
    try:
        outcomes = run(
            experiment, engine=connect(checkpoints=True), **options | {"custom_feature": features}
        )
    finally:
        done.set()
        killer.join()
    assert killed
    assert [outcome.error for outcome in outcomes] == [""] * 4
    records = list(store.records())
    assert len(records) == len({record.identity for record in records}) == 4
    for record in records:
        assert len(store.predictions(record)) == 24
        assert (options["model_save_dir"] / record.checkpoint).is_file()
    here = run(experiment, **options)
    assert all(outcome.reused for outcome in here)
    assert len(list((tmp_path / "r" / "runs").rglob("*.json"))) == 4


def test_a_refusal_reaches_the_driver(ray, make, options, tiny, store):
    experiment = make().narrowed(config=tiny | {"pretrained": "./nowhere"}, seeds=[1])
    outcomes = run(experiment, engine=connect(slots=1), **options)
    assert [outcome.state for outcome in outcomes] == ["refused"] * 2
    assert "./nowhere" in outcomes[0].error
    assert not list(store.records())


def test_workers_find_a_model_of_the_users_and_send_all_that_belongs(
    ray, make, options, store, tmp_path, monkeypatch
):
    """In a folder that only the driver's path has, and by no option: it was imported."""
    (folder := tmp_path / "elsewhere").mkdir()
    (folder / "ray_means.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("ray_means")
    try:
        row = {"label": "mine", "model": "means", "config": {"num_epochs": 1}}
        experiment = make(rows=[row], seeds=[1])
        # A relative path: the workers' folder is another.
        relative = {"custom_feature": os.path.relpath(options["custom_feature"])}
        (there,) = run(experiment, engine=connect(checkpoints=True), **options | relative)
        (here,) = run(experiment, **options)
    finally:
        registry.unregister_model("means")
    assert (there.state, there.error, there.reused) == ("finished", "", False)
    assert here.reused
    (record,) = store.records()
    assert len(store.predictions(record)) == 24
    assert (options["model_save_dir"] / record.checkpoint).is_file()


def test_without_ray_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs ray, which is not installed: .*\[ray\]"):
        connect()


def test_a_cluster_that_is_not_there_is_named_at_once(store, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:9: .*refused"):
        connect("127.0.0.1:9")(store, RunOptions())


def test_as_many_runs_as_fit():
    cluster = {"CPU": 8.0, "GPU": 2.0}
    assert [_slots(cluster, *need) for need in ((1, 0), (3, 0), (1, 1), (16, 0), (0, 0.5))] == [
        8, 2, 2, 1, 4
    ]  # fmt: skip


class FakeRay:
    """As much of Ray as the driver's end of a delivery needs."""

    exceptions = SimpleNamespace(RayError=RuntimeError, RayTaskError=KeyError)

    def __init__(self, delivery):
        self.delivery = delivery

    def cluster_resources(self):
        return {"CPU": 1}

    def remote(self, **options):
        return lambda function: SimpleNamespace(remote=lambda *arguments: "reference")

    def get(self, reference):
        if isinstance(self.delivery, Exception):
            raise self.delivery
        return self.delivery


class TestTheDriver:
    @pytest.fixture
    def take(self, make, store, feature_file, options):
        """What the driver makes of a delivery."""
        (unit, *_) = Plan(make(), store, {"custom_feature": feature_file}).units
        run, table = attack.record(1), attack.predictions(1)
        vouched = {"checkpoint_sha256": "0" * 64, "predictions_sha256": "0" * 64}

        def take(fails=None):
            outcome = Outcome(unit, "finished", run.model_copy(update=vouched))
            ray = FakeRay(fails or Delivery(outcome, table, b"weights"))
            engine = RayEngine(ray, False, store, RunOptions(**options), None, 1, 0, True)
            return run, engine.begin(unit)()

        return take

    def test_tells_a_worker_that_died_from_a_task_that_failed(self, take):
        with pytest.raises(LostWorkerError, match="Ray: the worker died"):
            take(FakeRay.exceptions.RayError("the worker died"))
        _, outcome = take(FakeRay.exceptions.RayTaskError("out of memory"))
        assert (outcome.state, "out of memory" in outcome.error) == ("failed", True)

    def test_stores_record_predictions_and_checkpoint_as_one(self, take, store, options):
        run, outcome = take()
        assert outcome.state == "finished"
        stored, checkpoint = store.find(run.identity), options["model_save_dir"] / run.checkpoint
        assert checkpoint.read_bytes() == b"weights"
        assert file_digest(checkpoint) == stored.checkpoint_sha256
        assert len(store.predictions(stored)) == len(attack.predictions(1))

    def test_a_checkpoint_that_cannot_be_written_costs_no_record(self, take, store, options):
        options["model_save_dir"].touch()
        run, outcome = take()
        assert outcome.state == "finished"
        assert len(store.predictions(store.find(run.identity))) == len(attack.predictions(1))

    def test_what_cannot_be_stored_is_kept_beside_the_checkpoints(self, take, store, options):
        store.root.parent.mkdir(parents=True)
        store.root.touch()
        run, outcome = take()
        assert outcome.state == "failed"
        assert f"cp -r {options['model_save_dir']}/rescued/runs/* {store.root}" in outcome.error
        kept = RunStore(options["model_save_dir"] / "rescued" / "runs")
        assert len(kept.predictions(kept.find(run.identity))) == len(attack.predictions(1))
