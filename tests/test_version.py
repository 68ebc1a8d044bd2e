"""The version of the code that decides numbers."""

import importlib.util
from functools import partial

import pytest

import MMSA_ext
from MMSA_ext.registry import get_model, list_models
from MMSA_ext.version import code_version


def test_an_edited_model_is_never_taken_for_the_old_one(tmp_path):
    def version(text, name="mine.py"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        spec = importlib.util.spec_from_file_location("mine", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return code_version(module.build)

    first = version("def build(args):\n    return 1\n")
    assert first != version("def build(args):\n    return 2\n")
    assert first == version("def build(args):\r\n    return 1\r\n")
    assert code_version(MMSA_ext.MMSA_run) == code_version()


def test_a_model_without_a_source_file_is_never_looked_up():
    namespace: dict = {}
    exec("def build(args):\n    return 1\n", namespace)
    assert "unknown" in code_version(namespace["build"])


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_this_package_has_a_version_that_lasts(name):
    entry = get_model(name)
    assert "unknown" not in code_version(entry.build, entry.config, entry.trainer)


def test_a_partial_function_has_the_version_of_what_it_calls():
    namespace: dict = {}
    exec("def build(args):\n    return 1\n", namespace)
    assert code_version(partial(MMSA_ext.MMSA_run, "mult")) == code_version()
    assert "unknown" in code_version(partial(namespace["build"], 1))
    assert "unknown" in code_version(partial(MMSA_ext.MMSA_run, build=namespace["build"]))


def test_it_begins_with_the_version():
    assert code_version().startswith(f"{MMSA_ext.__version__}+")
