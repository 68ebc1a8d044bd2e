import ast
import hashlib
import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import MMSA_ext.reporting
from MMSA_ext.errors import MMSAExtError, WriteError
from MMSA_ext.records.store import (
    Environment,
    EpochRecord,
    RunIdentity,
    RunRecord,
    RunStore,
    StoreError,
    StoreWarning,
    collect_environment,
    content_digest,
)

FINGERPRINT = "a3" * 32


def identity(**changes):
    fields = {
        "dataset": "mosi",
        "dataset_fingerprint": FINGERPRINT,
        "model": "dashfusion",
        "configuration": {"learning_rate": 2e-5, "layers": 2, "fusion": {"p": 8, "kind": "hbf"}},
        "seed": 1111,
        "code_version": "0.1.0",
    }
    return RunIdentity(**{**fields, **changes})


def test_reporting_imports_neither_torch_nor_models_nor_training():
    forbidden = ("torch", "MMSA", "transformers", "MMSA_ext.models", "MMSA_ext.training")
    for path in Path(MMSA_ext.reporting.__path__[0]).glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module)
        bad = [n for n in imported for f in forbidden if n == f or n.startswith(f + ".")]
        assert not bad, f"{path.name} imports {bad}"


class TestIdentity:
    def test_digest_is_a_fixed_function_of_the_content(self):
        # Computed by sha256sum from the canonical text. A change of this number renames every
        # stored run, so it takes a new schema version.
        text = rb'{"a":"\u00fc","b":[1,2.5,null,true]}'
        digest = content_digest({"b": [1.0, 2.5, None, True], "a": "ü"})
        assert digest == hashlib.sha256(text).hexdigest()
        assert digest == "016a42b8cab958d1ab0e8d320efe7edf0046f9615095ae25f338ee8b24ef2296"

    def test_key_order_and_spelling_of_numbers_do_not_matter(self):
        first = identity(configuration={"a": 1, "b": {"c": 0.0, "d": (1, 2)}})
        second = identity(configuration={"b": {"d": [1.0, 2], "c": -0.0}, "a": np.float64(1.0)})
        assert first.digest == second.digest
        assert first == second
        assert len({first, second}) == 1

    def test_a_boolean_is_not_a_number(self):
        truth, one = identity(configuration={"a": True}), identity(configuration={"a": 1})
        assert truth.digest != one.digest
        assert truth != one

    @pytest.mark.parametrize(
        "change",
        [
            {"dataset": "mosei"},
            {"dataset_fingerprint": "00" * 32},
            {"model": "text_only"},
            {"configuration": {"learning_rate": 3e-5}},
            {"seed": 1112},
            {"code_version": "0.2.0"},
        ],
    )
    def test_every_field_counts(self, change):
        assert identity(**change).digest != identity().digest

    def test_seeds_share_an_experiment_and_nothing_else_does(self):
        assert identity(seed=1).experiment == identity(seed=2).experiment
        assert identity(model="mult").experiment != identity().experiment
        assert len(identity().short_id) == len(identity().experiment) == 16

    @given(
        st.dictionaries(
            st.text(max_size=5),
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64),
            max_size=5,
        ).filter(lambda d: all(not isinstance(v, float) or math.isfinite(v) for v in d.values()))
    )
    def test_digest_survives_the_way_through_json(self, configuration):
        before = identity(configuration=configuration)
        after = RunIdentity.model_validate_json(before.model_dump_json())
        assert after.digest == before.digest

    @pytest.mark.parametrize(
        ("value", "name"), [(math.nan, "nan"), (Path("x"), "Path"), ({1}, "set"), ({1: 2}, "1")]
    )
    def test_a_value_without_json_form_is_refused_by_key(self, value, name):
        with pytest.raises(ValidationError, match=rf"configuration\.outer\[0\].*{name}"):
            identity(configuration={"outer": [value]})

    @pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "a\\b", "", "mosi\n"])
    def test_names_that_are_no_folder_are_refused(self, name):
        with pytest.raises(ValidationError):
            identity(dataset=name)


class TestRecord:
    def test_undefined_numbers_become_none(self, make_record):
        record = make_record(
            metrics={"test": {"MAE": np.float32(0.5), "Corr": np.float64("nan")}},
            history=[EpochRecord(epoch=1, train={"Loss": math.inf}, valid={"Loss": 1})],
        )
        assert record.metrics == {"test": {"MAE": 0.5, "Corr": None}}
        assert record.history[0].train == {"Loss": None}
        assert "NaN" not in record.model_dump_json()

    def test_checkpoint_keeps_no_folder_of_this_machine(self, make_record):
        assert make_record(checkpoint=Path("/home/someone/a.pth")).checkpoint == "a.pth"
        assert make_record(checkpoint="C:\\Users\\someone\\a.pth").checkpoint == "a.pth"
        assert make_record(checkpoint="seeds/a.pth").checkpoint == "seeds/a.pth"

    @pytest.mark.parametrize(
        "change",
        [
            {"status": "diverged"},
            {"reason": "because"},
            {"metrics": {}},
            {"status": "running"},
            {"surprise": 1},
        ],
    )
    def test_contradictions_are_refused(self, make_record, change):
        with pytest.raises(ValidationError):
            make_record(**change)

    def test_the_recipe_is_plain_json_and_may_be_absent(self, make_record):
        recipe = {"audio": {"name": "opensmile", "version": "2", "rates": [1, 0.5, None]}}
        content = json.loads(make_record(recipe=recipe).model_dump_json())
        assert content.pop("recipe") == recipe
        assert RunRecord.model_validate(content).recipe == {}  # of an earlier record
        for broken in (
            {"audio": {"name": "half \ud800"}},
            {"audio": "opensmile"},
            {"audio": {1: 2}},
        ):
            with pytest.raises(ValidationError, match="recipe"):
                make_record(recipe=broken)

    def test_is_frozen(self, make_record):
        with pytest.raises(ValidationError):
            make_record().status = "diverged"

    def test_created_is_utc_by_default(self, make_record):
        fields = make_record().model_dump(exclude={"created"})
        assert RunRecord(**fields).created.tzinfo is UTC


class TestEnvironment:
    def test_collects_versions_without_importing_anything(self):
        found = collect_environment(
            "cpu", threads=2, packages=["numpy", "no-such-package"], extra_versions={"cuda": "13.0"}
        )
        assert found.versions == {"numpy": np.__version__, "cuda": "13.0"}
        assert found.threads == 2
        assert "2 threads" in found.describe()
        assert f"numpy {np.__version__}" in found.describe()

    @pytest.mark.parametrize("path", ["/home/someone/torch", "C:\\Users\\someone"])
    def test_refuses_paths(self, path):
        with pytest.raises(ValidationError, match="is a path"):
            Environment(device=path, python="3.11", platform="Linux")


class TestStore:
    def test_what_is_written_is_found(self, tmp_path, make_record, predictions):
        store, record = RunStore(tmp_path / "runs"), make_record()
        assert store.find(record.identity) is None
        path = store.write(record, predictions)
        assert path == store.path(record.identity)
        run = record.identity
        assert path.relative_to(store.root).as_posix() == (
            f"mosi/dashfusion/{run.digest[:16]}-seed1111.json"
        )
        found = store.find(record.identity)
        assert found.model_copy(update={"predictions_sha256": None}) == record
        assert list(store.records()) == [found]

    def test_predictions_come_back_exactly(self, tmp_path, make_record, predictions):
        store, record = RunStore(tmp_path), make_record()
        shuffled_columns = predictions[["label", "id", "prediction", "split"]]
        store.write(record, shuffled_columns)
        read = store.predictions(store.find(record.identity))
        pd.testing.assert_frame_equal(read, predictions, check_exact=True, check_dtype=False)

    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
                st.floats(width=64),
                st.floats(width=32),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_any_id_and_any_float_come_back(self, tmp_path_factory, rows):
        ids, labels, predicted = zip(*rows, strict=True)
        frame = pd.DataFrame({"split": "test", "id": ids, "label": labels})
        frame["prediction"] = np.array(predicted, dtype=np.float32)
        store = RunStore(tmp_path_factory.mktemp("runs"))
        record = _finished()
        store.write(record, frame)
        read = store.predictions(store.find(record.identity))
        assert list(read["id"]) == list(ids)
        for column in ("label", "prediction"):
            expected = frame[column].to_numpy(np.float64)
            np.testing.assert_array_equal(read[column].to_numpy(), expected)

    def test_first_write_is_kept_unless_overwritten(self, tmp_path, make_record, predictions):
        store = RunStore(tmp_path)
        first = make_record(notes=["first"])
        second = make_record(notes=["second"])
        other = predictions.assign(prediction=0.0)
        store.write(first, predictions)
        store.write(second, other)
        found = store.find(first.identity)
        assert found.notes == ("first",)
        assert store.predictions(found)["prediction"].any()
        store.write(second, other, overwrite=True)
        found = store.find(first.identity)
        assert found.notes == ("second",)
        assert not store.predictions(found)["prediction"].any()

    def test_a_failed_write_leaves_nothing_behind(
        self, tmp_path, make_record, predictions, monkeypatch
    ):
        store, record = RunStore(tmp_path), make_record()

        def full_disk(self, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full_disk)
        with pytest.raises(WriteError, match="is full"):
            store.write(record, predictions)
        monkeypatch.undo()
        assert store.find(record.identity) is None
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]

    def test_a_disk_that_fills_while_staging_keeps_the_old_record(
        self, tmp_path, make_record, predictions, monkeypatch
    ):
        store, record = RunStore(tmp_path), make_record()
        store.write(record, predictions)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

        def full_disk(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full_disk)
        with pytest.raises(WriteError, match="is full"):
            store.write(make_record(notes=["new"]), predictions, overwrite=True)
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def test_all_files_change_under_one_lock(self, tmp_path, make_record, predictions, monkeypatch):
        replace, held = Path.replace, []

        def spy(self, target):
            held.append(FileLock(tmp_path / ".lock", blocking=False))
            with pytest.raises(Timeout):
                held[-1].acquire()
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", spy)
        RunStore(tmp_path).write(make_record(), predictions)
        assert len(held) == 3
        held[0].acquire()
        held[0].release()

    def test_an_old_record_never_vouches_for_new_predictions(
        self, tmp_path, make_record, predictions, monkeypatch
    ):
        store, record, replace = RunStore(tmp_path), make_record(), Path.replace
        store.write(record, predictions)

        def fails_at_the_record(self, target):
            if Path(target).suffix == ".json":
                raise OSError(5, "Input/output error")
            return replace(self, target)

        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        monkeypatch.setattr(Path, "replace", fails_at_the_record)
        with pytest.raises(WriteError, match="Input/output"):
            store.write(
                make_record(notes=["new"]), predictions.assign(prediction=0.0), overwrite=True
            )
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def test_predictions_are_on_disk_before_the_record_and_take_their_place_after_it(
        self, tmp_path, make_record, predictions, monkeypatch
    ):
        order, replace = [], Path.replace

        def spy(self, target):
            order.append(Path(target).name)
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", spy)
        RunStore(tmp_path).write(make_record(), predictions)
        assert [name.split(".", 1)[1] for name in order] == [
            "predictions.new.csv",
            "json",
            "predictions.csv",
        ]

    def test_stores_merge_by_copying_files(self, tmp_path, make_record, predictions):
        here, there = RunStore(tmp_path / "here"), RunStore(tmp_path / "there")
        here.write(make_record(seed=1), predictions)
        there.write(make_record(seed=2), predictions)
        there.write(make_record(seed=1), predictions)
        shutil.copytree(there.root, here.root, dirs_exist_ok=True)
        merged = list(here.records())
        assert sorted(record.identity.seed for record in merged) == [1, 2]
        for record in merged:
            assert len(here.predictions(record)) == len(predictions)

    def test_records_can_be_narrowed(self, tmp_path, records):
        store = RunStore(tmp_path)
        for record in records:
            store.write(record)
        assert len(list(store.records())) == len(records)
        assert {r.identity.model for r in store.records(model="text_only")} == {"text_only"}
        assert [r.identity.dataset for r in store.records(dataset="sims")] == ["sims"]

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 1}', "\ufeffx"])
    def test_a_damaged_record_is_named_and_the_others_are_read(self, tmp_path, make_record, damage):
        store, bad, good = RunStore(tmp_path), make_record(seed=1), make_record(seed=2)
        path = store.write(bad)
        store.write(good)
        path.write_text(damage, encoding="utf-8")
        with pytest.raises(StoreError, match=path.name) as caught:
            store.find(bad.identity)
        assert isinstance(caught.value, MMSAExtError)
        with pytest.warns(StoreWarning, match=path.name):
            assert [record.identity.seed for record in store.records()] == [2]

    def test_records_of_earlier_versions_are_said_once(self, tmp_path, make_record):
        store = RunStore(tmp_path)
        for seed in (1, 2, 3):
            path = store.write(make_record(seed=seed))
            if seed < 3:
                path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
        with pytest.warns(StoreWarning, match="earlier MMSA_ext.* So are 1 more") as said:
            assert [record.identity.seed for record in store.records()] == [3]
        assert len(said) == 1

    def test_a_damaged_record_does_not_cost_a_new_result(self, tmp_path, make_record):
        store, record = RunStore(tmp_path), make_record()
        path = store.write(record)
        path.write_text("{", encoding="utf-8")
        with pytest.warns(StoreWarning, match="moved to"):
            store.write(record)
        assert store.find(record.identity) == record
        assert path.with_name(f"{path.name}.damaged").read_text(encoding="utf-8") == "{"

    @pytest.mark.parametrize(
        ("version", "mend"), [(4, "Update MMSA_ext"), (2, "earlier.*run again"), (0, "damaged")]
    )
    def test_a_record_of_another_version_says_what_to_do(
        self, tmp_path, make_record, version, mend
    ):
        store, record = RunStore(tmp_path), make_record()
        path = store.write(record)
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, "schema_version": version}), encoding="utf-8")
        with pytest.raises(StoreError, match=mend):
            store.find(record.identity)

    def test_a_copy_under_another_name_is_not_counted_twice(self, tmp_path, make_record):
        store, record = RunStore(tmp_path), make_record()
        path = store.write(record)
        shutil.copy(path, path.with_name("copy.json"))
        with pytest.warns(StoreWarning, match="delete the copy"):
            assert len(list(store.records())) == 1

    def test_a_record_under_the_name_of_another_run_is_refused(self, tmp_path, make_record):
        store, one, two = RunStore(tmp_path), make_record(seed=1), make_record(seed=2)
        shutil.copy(store.write(one), store.path(two.identity))
        with pytest.raises(StoreError, match="another run"):
            store.find(two.identity)

    def test_missing_changed_and_absent_predictions_are_told_apart(
        self, tmp_path, make_record, predictions
    ):
        store, record = RunStore(tmp_path), make_record()
        store.write(record, predictions)
        found, path = store.find(record.identity), store.predictions_path(record.identity)
        path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
        with pytest.raises(StoreError, match="not the predictions"):
            store.predictions(found)
        path.unlink()
        with pytest.raises(StoreError, match="cannot be read"):
            store.predictions(found)
        store.write(record, overwrite=True)
        with pytest.raises(StoreError, match="without predictions"):
            store.predictions(store.find(record.identity))

    def test_predictions_with_other_columns_are_refused(self, tmp_path, make_record, predictions):
        with pytest.raises(StoreError, match="columns"):
            RunStore(tmp_path).write(make_record(), predictions.drop(columns="label"))

    def test_an_empty_store_has_no_records(self, tmp_path):
        assert list(RunStore(tmp_path / "absent").records()) == []

    def test_writers_at_the_same_time_agree(self, tmp_path):
        start = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_write_many, [tmp_path] * 2, [1, 2], [start] * 2))
        store = RunStore(tmp_path)
        found = list(store.records())
        assert sorted(record.identity.seed for record in found) == list(range(10))
        for record in found:
            # The predictions are those that belong to the record.
            writer = float(record.notes[0])
            assert (store.predictions(record)["prediction"] == writer).all()


def _finished(seed=1111, notes=()):
    return RunRecord(
        identity=identity(seed=seed),
        status="finished",
        metrics={"test": {"MAE": 0.5}},
        selection="last epoch",
        environment=Environment(device="cpu", python="3.11", platform="Linux"),
        notes=notes,
    )


def _write_many(root, writer, start):
    frame = pd.DataFrame({"split": "test", "id": ["a", "b"], "label": 0.0, "prediction": writer})
    start.wait(60)
    for seed in range(10):
        RunStore(root).write(_finished(seed, [str(writer)]), frame)
