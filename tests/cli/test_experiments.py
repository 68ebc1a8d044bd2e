"""The commands of `mmsa-ext experiment`, as a user types them."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from MMSA_ext import experiments
from MMSA_ext.cli.experiments import app
from MMSA_ext.errors import ConfigError, MMSAExtError
from tests.conftest import tiny_config

runner = CliRunner()


@pytest.fixture
def file(tmp_path, tiny_encoder):
    """A file of one row, made tiny."""

    def write(**changes):
        content = {
            "title": "Small", "source": {"paper": "none"}, "datasets": ["mosi"], "seeds": [1, 2],
            "config": tiny_config("text_only", tiny_encoder), "columns": {"mosi": ["MAE", "Corr"]},
            "rows": [{"label": "text alone", "model": "text_only"}],
        }  # fmt: skip
        path = tmp_path / "small.json"
        path.write_text(json.dumps(content | changes))
        return str(path)

    return write


@pytest.fixture
def run(tmp_path, feature_file):
    def call(path, *arguments):
        return runner.invoke(
            app,
            [
                "run", path, "-f", str(feature_file), "-g", "cpu", "-n", "0", "-v", "0",
                "--model-save-dir", str(tmp_path / "m"), "--res-save-dir", str(tmp_path / "r"),
                "--log-dir", str(tmp_path / "l"), *arguments,
            ],
        )  # fmt: skip

    return call


def test_run_status_and_table(file, run, tmp_path, feature_file):
    path, results = file(), ["--res-save-dir", str(tmp_path / "r")]
    first = run(path, "-s", "1")
    assert first.exit_code == 0, first.output
    assert "text alone on mosi, seed 1: finished [1 of 1 done, 0 running]" in first.output
    status = runner.invoke(app, ["status", path, "-f", str(feature_file), *results])
    assert "1 done, 0 diverged, 0 running, 1 missing; left, one run" in status.output
    done = run(path)
    for part in ("[1 of 2 done, 0 running, 1 missing", "[2 of 2 done", "Small", "environment"):
        assert part in done.output, part
    table = runner.invoke(app, ["table", path, *results])
    shown = table.output.splitlines()
    assert shown == done.output.splitlines()[-len(shown) :]
    written = sorted(path.name for path in (tmp_path / "r" / "experiments").iterdir())
    assert written == [f"small-mosi.{ending}" for ending in ("csv", "html", "md", "tex")]
    for name in written:
        (tmp_path / "r" / "experiments" / name).unlink()
    one = runner.invoke(app, ["table", path, *results, "--format", "md"])
    assert one.exit_code == 0
    assert [path.name for path in (tmp_path / "r" / "experiments").iterdir()] == ["small-mosi.md"]


def test_some_rows_are_run_and_all_are_shown(file, run, tmp_path, feature_file):
    rows = [{"label": label, "model": "text_only", "config": {"learning_rate": rate}}
            for label, rate in (("slow", 1e-4), ("fast", 1e-3))]  # fmt: skip
    path = file(rows=rows, seeds=[1])
    only = run(path, "--row", "fast", "--model", "text_only")
    assert only.exit_code == 0, only.output
    assert "fast on mosi, seed 1: finished [1 of 1 done, 0 running]" in only.output
    assert "slow on mosi" not in only.output
    results = ["-f", str(feature_file), "--res-save-dir", str(tmp_path / "r")]
    status = runner.invoke(app, ["status", path, "--row", "slow", *results])
    assert "0 done, 0 diverged, 0 running, 1 missing" in status.output
    assert "slow on mosi, seed 1: finished [2 of 2 done" in run(path).output
    shown = run(path, "--row", "fast").output
    assert all(label in shown for label in ("slow", "fast"))


def test_a_refused_row_ends_with_an_error_that_is_said_once(file, run):
    rows = [
        {"label": "no encoder", "model": "text_only", "config": {"pretrained": "./none"}},
        {"label": "text alone", "model": "text_only"},
    ]
    result = run(file(rows=rows))
    assert result.exit_code == 1
    assert result.output.count("not run: no encoder on mosi, seed 1; no encoder on mosi, seed") == 1
    assert "./none" in result.output
    assert "[2 of 4 done, 0 running, 2 failed]" in result.output


def test_stopped_says_how_to_go_on(file, run, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "run", stopped)
    result = run(file())
    assert result.exit_code == 130
    assert "the same command goes on after what was finished" in result.output
    assert "the same command starts over" in run(file(), "--repeat").output


def test_the_engines_options_reach_it(file, run, monkeypatch):
    from MMSA_ext.experiments import ray_engine

    given = {}
    monkeypatch.setattr(ray_engine, "connect", lambda *a, **k: given.update(k, at=a) or "made")
    monkeypatch.setattr(experiments, "run", lambda chosen, **k: given.update(k) or [])
    given_to_it = shlex.split("--address auto --jobs 3 --cpus 2 --gpus 0.5 --checkpoints")
    result = run(file(), "--engine", "ray", *given_to_it)
    assert result.exit_code == 0, result.output
    assert (given["at"], given["slots"], given["engine"]) == (("auto",), 3, "made")
    assert (given["cpus"], given["gpus"], given["checkpoints"]) == (2, 0.5, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "robustnes"], "did you mean robustness"),
        (["run", "robustness", "--address", "auto"], "add --engine ray"),
        (["run", "infoenh_table1", "--row", "MSIA"], "did you mean MISA"),
        (["status", "infoenh_table1", "-m", "msia"], "did you mean misa"),
        (["run", "infoenh_table1", "--row", "MISA", "-m", "mmim"], "MISA: none of these rows runs"),
        (["table", "robustness", "-d", "sims"], "mosi"),
        (["table", "robustness", "--format", "pdf"], "no format 'pdf' of a table"),
        (["table", "robustness", "-f", "none.pkl", "-d", "mosi"], "none.pkl"),
        (["table", "robustness", "-f", "none.pkl"], "choose one of them with --dataset"),
        (["figure", "robustness", "-f", "none.pkl", "-d", "mosi"], "none.pkl"),
        (["table", "robustness"], "has no such runs of experiment 'robustness'; run it first"),
        (["table", "robustness", "-s", "-1"], "-1 is no seed"),
        (["table", "infoenh_table1", "--baseline", "MSIA"], "did you mean MISA"),
        (["status", "infoenh_table1", "-f", "none.pkl"], "none.pkl"),
        (["figure", "infoenh_table1"], "no finished runs to draw"),
        (["figure", "infoenh_table1", "--kind", "swep"], "did you mean sweep"),
    ],
)
def test_mistakes_are_named(arguments, said, tmp_path):
    results = tmp_path / "r"
    folder = [] if arguments[0] == "run" else ["--res-save-dir", str(results)]
    result = runner.invoke(app, [*arguments, *folder], env={"HOME": str(tmp_path)})
    assert isinstance(result.exception, MMSAExtError)
    assert said in str(result.exception)
    assert not result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["experiment", "status", "robustness"],
        ["experiment", "table", "robustness"],
        ["experiment", "figure", "robustness"],
        ["compare", "mult", "self_mm"],
        ["power", "mult", "self_mm"],
        ["result-stat"],
        ["verify"],
        ["report"],
    ],
)
def test_commands_that_read_make_no_folder(command, tmp_path, tmp_path_factory):
    from MMSA_ext.cli import app as whole

    matplotlib = str(tmp_path_factory.mktemp("matplotlib"))  # which makes one when it is imported
    runner.invoke(whole, command, env={"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib})
    assert not list(tmp_path.iterdir())


def test_tables_reach_other_code_and_other_data(file, run, tmp_path, feature_file):
    from MMSA_ext.records.store import RunStore

    path, results = file(), ["--res-save-dir", str(tmp_path / "r")]
    assert run(path).exit_code == 0
    store = RunStore(tmp_path / "r" / "runs")
    for record in list(store.records()):
        other = {"dataset_fingerprint": "0" * 64, "code_version": "0.0.0+other"}
        update = {
            "identity": record.identity.model_copy(update=other),
            "created": record.created.replace(year=2999),
            "predictions_sha256": None,
        }
        store.write(record.model_copy(update=update))
    newest = runner.invoke(app, ["table", path, *results]).output
    assert f"2 older run(s) on other data, sha256 {record.identity.dataset_fingerprint[:12]}" in (
        newest
    )
    for options in (
        ["-f", str(feature_file)],
        ["--code", f"MMSA_ext {record.identity.code_version}"],
    ):
        asked = runner.invoke(app, ["table", path, *results, *options]).output
        assert f"2 newer run(s) on other data, sha256 {'0' * 12}, not shown" in asked
    none = runner.invoke(app, ["table", path, *results, "--code", "none"])
    assert "has no such runs" in str(none.exception)


def test_a_results_folder_that_cannot_be_written_to_is_named(file, run, tmp_path):
    path = file()
    assert run(path, "-s", "1").exit_code == 0
    folder = tmp_path / "r" / "experiments"
    for written in folder.iterdir():
        written.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    for command in ("table", "figure"):
        result = runner.invoke(app, [command, path, "--res-save-dir", str(tmp_path / "r")])
        assert isinstance(result.exception, ConfigError)
        assert "cannot be written to" in str(result.exception)
