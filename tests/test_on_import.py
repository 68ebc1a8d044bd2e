"""Actions after an import, each in the importing process itself, on modules made for it."""

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from MMSA_ext.on_import import after_import


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a package that has not been imported."""
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "__init__.py").write_text("from late_package.part import value\n")
    (tmp_path / "late_package" / "part.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield "late_package"
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.startswith("late_package")]:
        del sys.modules[name]


def test_the_action_follows_the_import_once(module: str) -> None:
    seen: list[int] = []
    after_import(module, lambda: seen.append(sys.modules[module].value))
    assert seen == []
    importlib.import_module(f"{module}.part")
    importlib.import_module(module)
    assert seen == [1]


def test_of_an_imported_module_it_comes_at_once(module: str) -> None:
    importlib.import_module(module)
    seen: list[str] = []
    after_import(module, lambda: seen.append("now"))
    assert seen == ["now"]


def test_nothing_stays_behind(module: str) -> None:
    before = list(sys.meta_path)
    after_import(module, lambda: None)
    found = importlib.import_module(module)
    assert sys.meta_path == before
    assert found.__spec__ is not None
    assert found.__loader__ is found.__spec__.loader
    assert type(found.__loader__).__module__ == "_frozen_importlib_external"


def test_several_actions_on_one_module(module: str) -> None:
    seen: list[str] = []
    after_import(module, lambda: seen.append("first"))
    after_import(module, lambda: seen.append("second"))
    importlib.import_module(module)
    assert sorted(seen) == ["first", "second"]


def test_an_error_of_the_action_reaches_the_import_and_is_not_the_last_word(module: str) -> None:
    calls: list[str] = []

    def action() -> None:
        calls.append("tried")
        if len(calls) == 1:
            raise RuntimeError("not yet")

    after_import(module, action)
    with pytest.raises(RuntimeError, match="not yet"):
        importlib.import_module(module)
    importlib.import_module(module)
    assert calls == ["tried", "tried"]


def test_what_comes_before_can_refuse_and_the_next_attempt_asks_again(module: str) -> None:
    calls: list[str] = []

    def before() -> None:
        calls.append("before")
        if len(calls) == 1:
            raise RuntimeError("no home")

    after_import(module, lambda: calls.append("after"), before=before)
    with pytest.raises(RuntimeError, match="no home"):
        importlib.import_module(module)
    assert module not in sys.modules
    importlib.import_module(module)
    assert calls == ["before", "before", "after"]


def test_a_module_that_does_not_exist_is_not_found_as_before() -> None:
    finders = list(sys.meta_path)
    after_import("no_such_module_anywhere", lambda: None)
    try:
        assert importlib.util.find_spec("no_such_module_anywhere") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_anywhere")
    finally:
        sys.meta_path[:] = finders


def test_threads_that_import_at_once_all_see_it_done(module: str) -> None:
    done: list[str] = []
    seen: list[list[str]] = []
    after_import(module, lambda: done.append("done"))

    def use() -> None:
        importlib.import_module(module)
        seen.append(list(done))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["done"]] * 8
