"""What `import MMSA_ext` does and leaves for later, each time in a new process."""

import subprocess
import sys
import textwrap

import pytest

import MMSA_ext
from MMSA_ext import catalogue, registry

LISTED = "assert {'dashfusion', 'tfn_infoenh'} <= {*MMSA.SUPPORTED_MODELS}"


def run_python(script: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_import_alone_loads_nothing_heavy() -> None:
    run_python("""
        import sys
        import MMSA_ext
        assert set(MMSA_ext.__all__) <= set(dir(MMSA_ext))
        assert MMSA_ext.__version__ and MMSA_ext.models
        heavy = {"torch", "numpy", "pandas", "matplotlib", "transformers", "MMSA", "typer"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
    """)


@pytest.mark.parametrize(
    "first",
    [
        "import MMSA_ext, MMSA",
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in (
                "import MMSA, MMSA_ext",
                "from MMSA_ext.training.trainer import Trainer",
                "import MMSA_ext; from MMSA.run import MMSA_run",
                "from MMSA_ext import MMSA_run",
                "from MMSA_ext.models.hosts import misa",
                "from MMSA_ext.records.store import RunStore",
            )
        ),
    ],
)
def test_mmsa_knows_the_models_whichever_part_is_imported_first(first: str) -> None:
    run_python(f"""
        {first}
        import MMSA
        {LISTED}
        assert MMSA.MMSA_run.__wrapped__.__module__ == "MMSA.run"
        assert MMSA.get_config_regression("confede_infoenh", "mosi").batch_size
    """)


@pytest.mark.slow
def test_unregister_before_mmsa_was_imported_leaves_it_alone() -> None:
    run_python("""
        import MMSA_ext
        MMSA_ext.unregister()
        import MMSA
        assert "dashfusion" not in MMSA.SUPPORTED_MODELS
        MMSA_ext.register()
        assert "dashfusion" in MMSA.SUPPORTED_MODELS
    """)


@pytest.mark.slow
def test_threads_may_import_both_at_once() -> None:
    run_python(f"""
        import threading
        import MMSA_ext

        errors = []

        def load(statement):
            try:
                exec(statement, {{}})
            except BaseException as error:
                errors.append(error)

        resolve = "from MMSA_ext.config.resolve import resolve"
        statements = ["import MMSA", resolve, "import MMSA.run"]
        threads = [threading.Thread(target=load, args=(s,)) for s in statements]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not errors, errors
        import MMSA
        {LISTED}
    """)


def test_every_public_name_is_there() -> None:
    assert all(getattr(MMSA_ext, name) is not None for name in MMSA_ext.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MMSA_runs'"):
        _ = MMSA_ext.MMSA_runs


def test_the_table_of_models_is_what_their_modules_register() -> None:
    for name, shipped in catalogue.MODELS.items():
        entry = registry.get_model(name)
        home = getattr(entry.build, "func", entry.build).__module__
        assert home == f"MMSA_ext.models.{shipped.module}", name
        assert (entry.paper, entry.host) == (shipped.paper, shipped.host)
        assert callable(entry.trainer)
    ours = {name for name in registry.list_models() if name not in catalogue.MODELS}
    assert not {n for n in ours if registry.get_model(n).build.__module__.startswith("MMSA_ext")}
