import inspect
import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import MMSA
import pytest
from easydict import EasyDict
from mmsa_toys import ToyPackage, run_python

from MMSA_ext import mmsa_bridge
from MMSA_ext.mmsa_bridge import registration
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute

STOCK_ROOT = "/home/sharing/disk3/Datasets/MMSA-Standard"


def mmsa_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "MMSA"}


def snapshot() -> dict[str, dict[str, Any]]:
    """Every attribute of every module of MMSA and of every class defined in one."""
    owners: dict[str, Any] = dict(mmsa_modules())
    for name, module in list(owners.items()):
        for attribute, value in vars(module).items():
            if inspect.isclass(value) and value.__module__.split(".")[0] == "MMSA":
                owners[f"{name}.{attribute}"] = value
    return {name: dict(vars(owner)) for name, owner in owners.items()}


@pytest.mark.usefixtures("stock_mmsa")
def test_unregister_restores_every_attribute_of_mmsa() -> None:
    before, names = snapshot(), list(MMSA.SUPPORTED_MODELS)
    mmsa_bridge.register(ToyPackage().extension())
    changed = {name for name, values in snapshot().items() if values != before[name]}
    assert {"MMSA", "MMSA.run", "MMSA.config", "MMSA.data_loader"} <= changed
    mmsa_bridge.unregister()

    after = snapshot()
    assert after.keys() == before.keys()
    for name, values in before.items():
        assert list(after[name]) == list(values), name
        for attribute, value in values.items():
            assert after[name][attribute] is value, f"{name}.{attribute}"
    assert names == MMSA.SUPPORTED_MODELS


def test_register_and_unregister_are_idempotent(toy_package: Any) -> None:
    registered = snapshot()
    mmsa_bridge.register(toy_package.extension())
    assert MMSA.SUPPORTED_MODELS.count("toy") == 1
    assert snapshot() == registered
    mmsa_bridge.unregister()
    mmsa_bridge.unregister()
    assert not mmsa_bridge.in_force()


@pytest.mark.usefixtures("stock_mmsa")
def test_failed_registration_leaves_mmsa_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("late failure")

    before = snapshot()
    monkeypatch.setattr(registration, "_replace_entry_points", fail)
    with pytest.raises(RuntimeError, match="late failure"):
        mmsa_bridge.register(ToyPackage().extension())
    assert snapshot() == before
    assert not mmsa_bridge.in_force()


@pytest.mark.usefixtures("stock_mmsa")
def test_registered_restores_the_state_it_found() -> None:
    with mmsa_bridge.registered():
        assert mmsa_bridge.in_force()
        with mmsa_bridge.registered():
            pass
        assert mmsa_bridge.in_force()
    assert not mmsa_bridge.in_force()


def test_class_maps_know_added_models_also_later_ones(toy_package: Any) -> None:
    trainers = import_module("MMSA.trains.ATIO").ATIO()
    assert trainers.TRAIN_MAP["toy"] is toy_package.models["toy"].trainer
    toy_package.models["late"] = toy_package.models["toy"]
    assert "late" in trainers.TRAIN_MAP
    assert trainers.TRAIN_MAP["lf_dnn"].__name__ == "LF_DNN"
    mmsa_bridge.unregister()
    assert "toy" not in trainers.TRAIN_MAP
    assert "lf_dnn" in trainers.TRAIN_MAP


def test_added_model_cannot_replace_one_of_mmsa(toy_package: Any) -> None:
    toy_package.models["lf_dnn"] = toy_package.models["toy"]
    assert import_module("MMSA.trains.ATIO").ATIO().TRAIN_MAP["lf_dnn"].__name__ == "LF_DNN"


def test_amio_builds_an_added_model(toy_package: Any) -> None:
    model = mmsa_bridge.build_model(EasyDict(model_name="toy", feature_dims=[10, 5, 4]))
    assert type(model).__name__ == "AMIO"
    assert type(model.Model).__name__ == "ToyModel"
    model.state_dict()  # the map is no parameter, buffer or module
    assert "MODEL_MAP" not in dict(model.named_modules())


@pytest.mark.usefixtures("toy_package")
def test_supported_models_is_one_list_brought_up_to_date(toy_package: Any) -> None:
    assert MMSA.SUPPORTED_MODELS is import_module("MMSA.run").SUPPORTED_MODELS
    assert MMSA.SUPPORTED_MODELS[-1] == "toy"
    toy_package.models["late"] = toy_package.models["toy"]
    mmsa_bridge.register()
    assert MMSA.SUPPORTED_MODELS[-2:] == ["toy", "late"]


@pytest.mark.usefixtures("toy_package")
def test_entry_points_of_the_package_are_ours_and_of_the_module_stock() -> None:
    assert MMSA.MMSA_run("toy", "sims", seeds=[1]) == ("run", ("toy", "sims"), {"seeds": [1]})
    assert MMSA.MMSA_test({}, "w", "f") == ("test", ({}, "w", "f"), {})
    assert "tune_times" in inspect.signature(MMSA.MMSA_run).parameters
    assert import_module("MMSA.run").MMSA_run.__module__ == "MMSA.run"


@pytest.mark.usefixtures("toy_package")
def test_citations_know_added_models() -> None:
    cites = MMSA.get_citations()
    assert cites["models"]["TOY"]["title"].startswith("Toy fusion")
    assert cites["models"]["TOY"]["paper_url"] == "https://example.org/toy"
    assert cites["models"]["TFN"]["paper_url"].startswith("https://www.aclweb")
    assert set(cites["datasets"]) == {"SIMS", "MOSI", "MOSEI"}


@pytest.mark.usefixtures("toy_package")
class TestConfiguration:
    def test_readers_know_added_models(self) -> None:
        args = MMSA.get_config_regression("toy", "sims")
        assert args.batch_size == 5
        assert args.feature_dims == [768, 33, 709]
        assert args.featurePath == f"{STOCK_ROOT}/SIMS/Processed/unaligned_39.pkl"
        assert MMSA.get_config_tune("toy", "mosi").width in (1, 2)
        assert MMSA.get_config_tune("toy", "mosi", random_choice=False).width == [1, 2]
        assert "toy" in MMSA.get_config_all("regression")
        assert "debugParams" in MMSA.get_config_all("tune")["toy"]

    def test_random_choice_leaves_the_search_space_alone(self) -> None:
        random.seed(0)
        drawn = {MMSA.get_config_tune("toy", "mosi").width for _ in range(20)}
        assert drawn == {1, 2}

    def test_user_file_wins_and_is_completed(self, tmp_path: Path) -> None:
        own = {
            "datasetCommonParams": {
                "dataset_root_dir": "/mine",
                "mosi": {"unaligned": {"featurePath": "m.pkl"}},
            },
            "other": {},
        }
        path = tmp_path / "own.json"
        path.write_text(json.dumps(own))
        args = MMSA.get_config_regression("toy", "mosi", path)
        assert args.featurePath == "/mine/m.pkl"
        assert args.batch_size == 4
        own["toy"] = {
            "commonParams": {"need_data_aligned": False},
            "datasetParams": {"sims": {"batch_size": 99}},
        }
        path.write_text(json.dumps(own))
        args = MMSA.get_config_regression("toy", "sims", path)
        assert (args.batch_size, args.language) == (99, "cn")

    def test_file_of_models_alone_gets_mmsas_data_sets(self, tmp_path: Path) -> None:
        path = tmp_path / "models.json"
        path.write_text(
            json.dumps(
                {
                    "mine": {
                        "commonParams": {"need_data_aligned": False},
                        "datasetParams": {"mosi": {"batch_size": 3}},
                    }
                }
            )
        )
        assert MMSA.get_config_regression("mine", "mosi", path).train_samples == 1284

    def test_data_root_replaces_the_built_in_one_only(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MMSA_DATA_ROOT", "~/data")
        home = str(Path.home())
        args = MMSA.get_config_regression("lf_dnn", "mosi")
        assert args.featurePath == f"{home}/data/MOSI/Processed/unaligned_50.pkl"
        assert MMSA.get_config_tune("tfn", "sims").featurePath.startswith(f"{home}/data/SIMS")
        assert MMSA.get_config_all("tune").datasetCommonParams.dataset_root_dir == f"{home}/data"
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"datasetCommonParams": {"dataset_root_dir": "/mine"}}))
        assert MMSA.get_config_regression("toy", "mosi", path).featurePath.startswith("/mine")
        monkeypatch.delenv("MMSA_DATA_ROOT")
        assert MMSA.get_config_regression("lf_dnn", "mosi").featurePath.startswith(STOCK_ROOT)

    def test_mmsas_own_configuration_is_unchanged(self) -> None:
        merged = MMSA.get_config_all("regression")
        mmsa_bridge.unregister()
        stock = MMSA.get_config_all("regression")
        assert shared(merged, stock) == stock  # data sets are added


def shared(values: Any, keys: Any) -> Any:
    """Of nested dictionaries what stands under keys that the other has."""
    if not isinstance(keys, dict):
        return values
    return {key: shared(values[key], keys[key]) for key in keys}


STOCK_FUNCTION_SCRIPT = """
    import sys
    from MMSA import MMSA_run, get_config_regression  # bound before the registration

    from MMSA_ext import mmsa_bridge
    from mmsa_toys import ToyPackage

    mmsa_bridge.unregister()  # the package's own registration, if importing it registered
    mmsa_bridge.register(ToyPackage().extension())
    assert get_config_regression("toy", "mosi").batch_size == 4
    import MMSA
    assert MMSA.MMSA_run is not MMSA_run
    result = MMSA_run(
        "toy", "mosi", seeds=[1], config={"featurePath": sys.argv[1]}, num_workers=0,
        model_save_dir=sys.argv[2], res_save_dir=sys.argv[2], log_dir=sys.argv[2],
    )
    assert result is None
"""


@pytest.mark.slow
def test_stock_function_bound_before_the_import_runs_an_added_model(
    features: Callable[[str], Path], tmp_path: Path
) -> None:
    run_python(STOCK_FUNCTION_SCRIPT, features("mosi"), tmp_path)
    assert (tmp_path / "normal" / "mosi.csv").read_text().splitlines()[1].startswith("toy,")


def test_replaced_attributes_come_back_in_reverse_order() -> None:
    from contextlib import ExitStack

    class Owner:
        kept = "first"

    with ExitStack() as undo:
        replace_attribute(undo, Owner, "kept", "second")
        replace_attribute(undo, Owner, "kept", "third")
        replace_attribute(undo, Owner, "added", 1)
        assert (Owner.kept, vars(Owner)["added"]) == ("third", 1)
    assert Owner.kept == "first"
    assert not hasattr(Owner, "added")


def test_module_proxy_replaces_only_what_it_is_told() -> None:
    proxy = ModuleProxy(json, load="ours")
    assert proxy.load == "ours"
    assert proxy.dumps is json.dumps
    assert json.load != "ours"
