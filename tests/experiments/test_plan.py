"""Units, which of them are done, and the time that is left."""

import pickle

import pytest

from MMSA_ext.errors import FeatureFileError
from MMSA_ext.experiments import Plan, render_status, run, status
from MMSA_ext.experiments.plan import Claims, TimeLeft, format_seconds
from MMSA_ext.records.store import RunRecord, RunStore
from tests.conftest import make_feature_data


def test_units_are_row_by_row_and_each_run_comes_once(make, store, feature_file):
    rows = [
        {"label": "a", "model": "text_only"},
        {"label": "b", "model": "lf_dnn"},
        {"label": "same as a", "model": "text_only", "published": "Fast"},
    ]
    plan = Plan(make(rows=rows), store, {"custom_feature": feature_file})
    assert [(unit.label, unit.identity.seed) for unit in plan.units] == [
        ("a", 1), ("a", 2), ("b", 1), ("b", 2)
    ]  # fmt: skip
    assert plan.rows["same as a", "mosi"] == plan.rows["a", "mosi"]
    assert str(plan.units[0]) == "a on mosi, seed 1"


def test_a_unit_is_its_configuration_file_seed_and_code(make, store, feature_file, tmp_path):
    def keys(experiment, file=feature_file):
        return {unit.key for unit in Plan(experiment, store, {"custom_feature": file}).units}

    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps(make_feature_data(seed=1)))
    first = keys(make())
    assert first == keys(make())
    assert len(first) == 4
    assert not first & keys(make(), other)
    assert not first & keys(make().narrowed(config={"num_epochs": 30}))
    assert len(first & keys(make().narrowed(seeds=[2, 3]))) == 2


def test_a_planned_name_is_its_records(make, options, tiny, store):
    experiment = make().narrowed(config=tiny)
    outcomes = run(experiment, **options)
    plan = Plan(experiment, store, options)
    for outcome in outcomes:
        assert outcome.unit.identity == outcome.record.identity
        assert plan.record(outcome.unit) == outcome.record
        assert plan.state(outcome.unit) == "done"


class TestStatus:
    def test_counts_seeds_and_time(self, make, options, tiny, store):
        experiment = make().narrowed(config=tiny)
        run(experiment.narrowed(seeds=[1]), **options)
        more = experiment.narrowed(seeds=[1, 2, 3])
        plan = Plan(more, store, options)
        with Claims(store).claim(plan.units[1].key):
            lines = status(more, store, custom_feature=options["custom_feature"])
        assert lines["row"].tolist() == ["slow", "fast"]
        states = lines[["done", "diverged", "running", "missing", "older"]].to_numpy().tolist()
        assert states == [[1, 0, 1, 1, 0], [1, 0, 0, 2, 0]]
        used = [record.seconds for record in store.records()]
        assert sorted(lines["used"]) == pytest.approx(sorted(used))
        assert lines["left"].tolist() == pytest.approx([2 * used for used in lines["used"]])
        assert lines["unknown"].tolist() == [0, 0]
        text = render_status(lines)
        assert "2 done, 0 diverged, 1 running, 3 missing; left, one run after another: " in text
        assert "older" not in text

    def test_records_by_other_code_are_named_and_not_counted(self, make, options, tiny, store):
        experiment = make().narrowed(config=tiny, seeds=[1])
        (record,) = (outcome.record for outcome in run(experiment, **options)[:1])
        old = record.identity.model_copy(update={"code_version": "0.0.0+old"})
        store.path(record.identity).unlink()
        store.write(record.model_copy(update={"identity": old, "predictions_sha256": None}))
        lines = status(experiment, store, custom_feature=options["custom_feature"])
        assert lines[["done", "missing", "older"]].to_numpy().tolist() == [[0, 1, 1], [1, 0, 0]]
        assert "older: by other code" in render_status(lines)

    def test_needs_no_data(self, make, options, tiny, store):
        experiment = make().narrowed(config=tiny | {"featurePath": "/nowhere.pkl"})
        assert status(experiment, store)["missing"].tolist() == [2, 2]
        run(experiment, **options)
        assert status(experiment, store)["done"].tolist() == [2, 2]

    def test_on_unknown_data_a_record_on_any_counts(self, make, options, tiny, store):
        """As for a driver without data, whose workers may have several files in turn."""
        experiment = make().narrowed(config=tiny | {"featurePath": "/nowhere.pkl"}, seeds=[1])
        outcomes = run(experiment, **options)
        plan = Plan(experiment, store)
        assert all(u.is_of(o.record.identity) for u, o in zip(plan.units, outcomes, strict=True))
        record = outcomes[0].record
        other = record.identity.model_copy(update={"dataset_fingerprint": "0" * 64})
        newer = record.created.replace(year=2999)
        update = {"identity": other, "created": newer, "predictions_sha256": None}
        store.write(record.model_copy(update=update))
        lines = status(experiment, store)
        assert lines[["done", "missing", "older"]].to_numpy().tolist() == [[1, 0, 0], [1, 0, 0]]
        assert Plan(experiment, store).record(plan.units[0]).identity == other
        assert plan.look(plan.units[0]).identity == other

    def test_a_file_that_is_given_must_be_there(self, make, store):
        with pytest.raises(FeatureFileError, match=r"typo\.pkl"):
            status(make(), store, custom_feature="typo.pkl")


class TestClaims:
    def test_are_exclusive_until_the_block_ends(self, tmp_path):
        mine, theirs = (Claims(RunStore(tmp_path)) for _ in range(2))
        with mine.claim("a") as ours:
            assert ours
            with theirs.claim("a") as too:
                assert not too
            assert theirs.held("a")
            assert not theirs.held("b")
        assert not theirs.held("a")
        with theirs.claim("a") as again:
            assert again

    def test_that_end_without_an_error_leave_nothing(self, tmp_path):
        claims = Claims(RunStore(tmp_path))
        with claims.claim("a"):
            pass
        assert not list((tmp_path / ".claims").iterdir())
        with pytest.raises(KeyboardInterrupt), claims.claim("a"):
            raise KeyboardInterrupt
        assert not claims.held("a")


def _made(identity, seconds):
    return RunRecord.model_validate(
        {
            "identity": identity,
            "status": "diverged",
            "reason": "only a test",
            "selection": "none",
            "environment": {"device": "cpu", "python": "3", "platform": "Linux"},
            "timings": {"total": seconds},
        }
    )


class TestTime:
    def test_is_the_rows_own_else_the_models_else_unknown(self, make, store, feature_file):
        rows = [{"label": m, "model": m} for m in ("text_only", "lf_dnn")]
        rows.append({"label": "other", "model": "text_only", "config": {"num_epochs": 9}})
        plan = Plan(make(rows=rows), store, {"custom_feature": feature_file})
        units = {label: units for (label, _), units in plan.rows.items()}
        for number, seconds in enumerate((10.0, 20.0, 90.0, None)):
            identity = units["text_only"][0].identity.model_copy(update={"seed": number})
            plan.add(_made(identity, seconds))
        assert plan.time_left(units["text_only"]) == TimeLeft(40.0, 0)
        plan.add(_made(units["other"][0].identity.model_copy(update={"model": "mult"}), 7.0))
        assert plan.time_left(units["other"][:1]) == TimeLeft(20.0, 0)
        assert plan.time_left(units["lf_dnn"]) == TimeLeft(0, 2)

    def test_for_people(self):
        assert [format_seconds(s) for s in (3.4, 185, 7810)] == ["3 s", "3 min 5 s", "2 h 10 min"]
        assert str(TimeLeft(185, 0)) == "3 min 5 s"
        assert str(TimeLeft(185, 2)) == "3 min 5 s and 2 run(s) of unknown length"
        assert str(TimeLeft(0, 2)) == "2 run(s) of unknown length"
