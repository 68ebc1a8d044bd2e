"""The version of the code that decides a run's numbers."""

import ast
import importlib.util
from functools import partial
from pathlib import Path

import pytest

import MMSA_ext
from MMSA_ext.records import code_version as sources
from MMSA_ext.records.code_version import NO_NUMBERS, code_version
from MMSA_ext.registry import get_model, list_models
from MMSA_ext.runs.identity import model_code_version

PACKAGE = Path(MMSA_ext.__file__).parent
# A model of each kind: on this package's trainer, in MMSA's loop, MMSA's own.
KINDS = ("dashfusion", "misa_infoenh", "lf_dnn")
EVERY = set(KINDS)


@pytest.fixture
def changed(monkeypatch):
    """Versions as if a source file had another content."""
    digest = sources._digest

    def versions(name, models=KINDS):
        def other(path):
            return "changed" if path == PACKAGE / name else digest(path)

        monkeypatch.setattr(sources, "_digest", other)
        sources._read_once.cache_clear()
        found = {model: model_code_version(model) for model in models}
        monkeypatch.setattr(sources, "_digest", digest)
        sources._read_once.cache_clear()
        return found

    return versions


@pytest.mark.parametrize(
    ("file", "of"),
    [
        ("models/dbf.py", set()),
        ("models/parts/attention.py", {"dashfusion", "misa_infoenh"}),
        ("models/dashfusion.py", {"dashfusion"}),
        ("models/hosts/misa.py", {"misa_infoenh"}),
        ("models/hosts/common.py", {"misa_infoenh"}),
        ("models/infoenh/module.py", {"misa_infoenh"}),
        ("training/trainer.py", {"dashfusion"}),
        ("training/stage_one.py", set()),
        ("runs/own_seed.py", {"dashfusion"}),
        ("mmsa_bridge/shims.py", EVERY),
        ("data/features.py", EVERY),
        ("data/pickles/interpreter.py", EVERY),
        ("data/scaling.py", EVERY),
        ("data/corruption.py", EVERY),
        ("text_encoders.py", EVERY),
        ("runs/inputs.py", EVERY),
        ("runs/one_seed.py", EVERY),
        ("models/__init__.py", set()),  # a new model makes no record old
        ("registry.py", set()),
        ("runs/seeds.py", set()),
        ("runs/api.py", set()),
        ("records/store.py", set()),
        ("reporting/tables.py", set()),
        ("cli/runs.py", set()),
        ("__init__.py", set()),
    ],
)
def test_a_change_of_a_file_is_one_of_the_models_that_import_it(changed, file, of):
    assert (PACKAGE / file).is_file()
    before = {model: model_code_version(model) for model in KINDS}
    after = changed(file)
    assert {model for model in KINDS if before[model] != after[model]} == of


def test_stage_one_is_code_of_the_models_that_have_it(changed):
    assert changed("training/stage_one.py", ["confede"])["confede"] != model_code_version("confede")


@pytest.mark.parametrize("file", sorted(NO_NUMBERS))
def test_what_is_left_out_does_no_arithmetic(file):
    """Nothing there can change a number: no library of arrays, not even imported in a function."""
    tree = ast.parse((PACKAGE / file).read_bytes())
    imported = {name.split(".")[0] for (name, *_), _ in sources._imported(tree, ("MMSA_ext",))}
    assert not imported & {"torch", "numpy", "scipy", "pandas", "sklearn", "transformers", "random"}


def test_models_that_are_all_MMSAs_share_their_code():
    assert model_code_version("lf_dnn") == model_code_version("self_mm")


@pytest.fixture
def written(tmp_path):
    """The version of a function in a file outside of the package."""

    def version(text, name="mine.py"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        spec = importlib.util.spec_from_file_location("mine", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return code_version(module.build)

    return version


def test_an_edited_model_is_never_taken_for_the_old_one(written):
    first = written("def build(args):\n    return 1\n")
    assert first != written("def build(args):\n    return 2\n")
    assert first == written("def build(args):\r\n    return 1\r\n")


def test_what_lies_beside_a_users_model_is_its_code_too(written, tmp_path):
    model = "def build(args):\n    from {} import value\n    return value\n"
    other = tmp_path / "blocks" / "__init__.py"
    other.parent.mkdir()
    for source in (tmp_path / "block.py", other):
        source.write_text("value = 1")
        first = written(model.format(source.stem.replace("__init__", "blocks")))
        source.write_text("value = 2")
        assert written(model.format(source.stem.replace("__init__", "blocks"))) != first


@pytest.mark.parametrize(
    "line",
    [
        "from MMSA_ext import InfoEnh",  # imported late, from its home
        "from MMSA_ext.models.infoenh import module",
        "import MMSA_ext.models.infoenh.module",
        "import MMSA_ext",  # whatever is taken from it
    ],
)
def test_what_a_users_model_takes_from_this_package_is_its_code(written, monkeypatch, line):
    """At whatever place of the file."""
    text = f"def build(args):\n    if args:\n        {line}\n"
    files = sources.closure([_written(written, text)])
    assert {PACKAGE / "models/infoenh/module.py", PACKAGE / "models/losses.py"} <= files


def _written(written, text):
    written(text)
    (folder,) = {cell.cell_contents for cell in written.__closure__}
    return folder / "mine.py"


def test_names_for_annotations_are_no_code(written):
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from MMSA_ext import InfoEnh\n"
        "else:\n    from MMSA_ext.models import losses\ndef build(args): ...\n"
    )
    files = sources.closure([_written(written, text)])
    assert PACKAGE / "models/losses.py" in files
    assert PACKAGE / "models/infoenh/module.py" not in files


def test_a_model_without_a_source_file_is_never_looked_up():
    namespace: dict = {}
    exec("def build(args):\n    return 1\n", namespace)
    assert "unknown" in code_version(namespace["build"])
    assert "unknown" in code_version(partial(namespace["build"], 1))
    assert "unknown" in code_version(partial(MMSA_ext.MMSA_run, build=namespace["build"]))


def test_a_partial_function_has_the_version_of_what_it_calls():
    assert code_version(partial(MMSA_ext.MMSA_run, "mult")) == code_version(MMSA_ext.MMSA_run)


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_this_package_has_a_version_that_lasts(name):
    entry = get_model(name)
    assert "unknown" not in code_version(entry.build, entry.config, entry.trainer)
    assert len(model_code_version(name)) == 12
