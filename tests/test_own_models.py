"""Models of one's own: by the name or the file of their module, and from installed packages."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from MMSA_ext import experiments, own_models, registry
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs.identity import model_code_version
from tests.conftest import OWN_MODEL

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clean():
    """Python's path, modules and the registry as they were, afterwards."""
    path, modules, known = sys.path.copy(), set(sys.modules), set(registry.registered_models())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("MMSA", "torch", "transformers")):
            del sys.modules[name]
    for name in set(registry.registered_models()) - known:
        registry.unregister_model(name)


@pytest.fixture
def folder(tmp_path, monkeypatch, clean):
    """The current folder, with a model in a module and one in a package."""
    monkeypatch.chdir(tmp_path)
    Path("my_means.py").write_text(OWN_MODEL)
    package = tmp_path / "below" / "our_models"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text("WIDTH = 1\n")
    inside = "from .blocks import WIDTH\n" + OWN_MODEL.replace('"means"', '"packed"')
    (package / "packed.py").write_text(inside)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ("my_means", "means"),
        ("my_means.py", "means"),
        ("./my_means.py", "means"),
        ("below/our_models/packed.py", "packed"),
    ],
)
def test_a_module_is_imported_by_its_name_or_its_file(folder, given, model):
    own_models.import_modules([given, given])
    own_models.import_modules([given])
    assert registry.get_model(model).paper == "Mine"
    assert registry.own_modules([model, "text_only", "lf_dnn"]) == (
        "my_means" if model == "means" else "our_models.packed",
    )


@pytest.mark.parametrize(
    ("given", "content", "said"),
    [
        ("no_such", None, "--import no_such: there is no module 'no_such' on Python's path or in"),
        ("no_such.py", None, "--import no_such.py: no such module"),
        ("below/our_models", None, "is a folder; give a file in it"),
        ("", None, "Empty module name"),
        ("bad.py", "x = 1\nx.y\n", r"cannot be imported: AttributeError: .*bad.py, line 2\)\.$"),
        ("bad", "import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("bad", "def f(:\n", r"SyntaxError: .*\(bad.py, line 1\)\.$"),
        ("./json.py", "x = 1", r"another module has its name, json \(.*json/__init__.py\); rename"),
        ("bad", OWN_MODEL.replace("means", "lf_dnn"), "model 'lf_dnn' exists already"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(folder, given, content, said):
    if content is not None:
        Path(given).with_suffix(".py").write_text(content)
    with pytest.raises(ConfigError, match=said):
        own_models.import_modules([given])


def test_an_unknown_model_says_how_one_of_ones_own_is_known():
    with pytest.raises(ConfigError, match=r"unknown model 'means'.*--import MODULE"):
        registry.check_names("means")


@pytest.mark.parametrize("file", ["packed.py", "blocks.py"])
def test_a_change_of_a_users_file_makes_other_runs(folder, file):
    own_models.import_modules(["below/our_models/packed.py"])
    before = model_code_version("packed")
    assert model_code_version("packed") == before
    with (folder / "below" / "our_models" / file).open("a") as opened:
        opened.write("# changed\n")
    assert model_code_version("packed") != before


@pytest.fixture
def installed(tmp_path):
    """Two installed packages, of which one is broken; what a command says where they are."""
    site = tmp_path / "site"
    for name, content in (("plug", OWN_MODEL), ("broken", "import no_such_library\n")):
        about = site / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = f"[{own_models.ENTRY_POINTS}]\n{name}s = {name}_models\n"
        (about / "entry_points.txt").write_text(points)
        (site / f"{name}_models.py").write_text(content)
    paths = os.pathsep.join([str(site), str(ROOT)])

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONPATH": paths, "HOME": str(tmp_path)},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

    return python


@pytest.mark.slow
def test_models_of_installed_packages_are_known_and_a_broken_one_stops_no_other(
    installed, feature_file
):
    listed = installed("-m", "MMSA_ext", "list")
    assert listed.returncode == 0
    assert "means" in listed.stdout
    assert listed.stderr == (
        "warning: entry point brokens = broken_models of broken 1.0: cannot be imported: "
        f"ModuleNotFoundError: No module named 'no_such_library' "
        f"({feature_file.parent}/site/broken_models.py, line 1). Its models are not known; mend "
        "or uninstall it.\n"
    )
    line = ("run", "-m", "means", "-d", "mosi", "-f", str(feature_file), "-g", "cpu", "--smoke")
    ran = installed("-m", "MMSA_ext", *line)
    assert ran.returncode == 0, ran.stderr
    assert "\nmeans " in ran.stdout


@pytest.mark.slow
def test_installed_packages_are_imported_only_for_a_name_that_is_not_known_otherwise(installed):
    script = (
        "import sys, MMSA_ext.registry as r, MMSA\nfrom MMSA_ext.config.resolve import resolve\n"
        "for name in ('text_only', 'lf_dnn', 'misa_infoenh'): resolve(name, 'mosi')\n"
        "before = 'plug_models' in sys.modules\n"
        "print(before, r.is_registered('means'), 'plug_models' in sys.modules)"
    )
    assert installed("-W", "ignore", "-c", script).stdout == "False True True\n"


@pytest.mark.slow
def test_processes_of_an_experiment_know_what_was_imported(folder, feature_file, monkeypatch):
    """From Python, where nothing but `import` says that there is such a model."""
    experiment = {
        "title": "Mine", "source": {"paper": "none"}, "datasets": ["mosi"], "seeds": [1, 2],
        "columns": {"mosi": ["MAE"]}, "config": {"num_epochs": 1},
        "rows": [{"label": "mine", "model": "means"}],
    }  # fmt: skip
    Path("mine.json").write_text(json.dumps(experiment))
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("my_means")
    options = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), "out")
    options |= {"gpu_ids": "cpu", "verbose_level": 0, "custom_feature": feature_file}
    found = experiments.run(experiments.load("mine.json"), jobs=2, **options)
    assert [(each.state, each.error) for each in found] == [("finished", "")] * 2
