"""The command `report`, as a user types it."""

import pytest
import typer
from typer.testing import CliRunner

from MMSA_ext.cli.report import report
from MMSA_ext.records.store import RunStore, StoreError
from tests.reporting.conftest import make_finished

app = typer.Typer()
app.command("report")(report)


@pytest.fixture
def results(tmp_path):
    store = RunStore(tmp_path / "runs")
    for dataset in ("mosi", "sims"):
        store.write(make_finished(dataset=dataset))
    return tmp_path


def test_writes_into_the_results_folder(results):
    done = CliRunner().invoke(app, ["--res-save-dir", str(results), "--no-figures"])
    assert done.exit_code == 0, done.output
    assert f"report: {results / 'report.html'} (runs: 2, 0.0 MB)" in done.output
    assert (results / "report.html").is_file()


def test_one_data_set_elsewhere_and_a_damaged_record(results, tmp_path):
    next(results.glob("runs/sims/*/*.json")).write_text("{")
    target = tmp_path / "there" / "page.html"
    arguments = ["--res-save-dir", str(results), "-o", str(target), "-d", "mosi"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "passed over: sims/dashfusion/" in done.output
    assert "(runs: 1, " in done.output
    assert "data:image/" in target.read_text(encoding="utf-8")


def test_an_absent_folder_is_an_error_and_stays_absent(tmp_path):
    folder = tmp_path / "absent"
    done = CliRunner().invoke(app, ["--res-save-dir", str(folder)])
    assert isinstance(done.exception, StoreError)
    assert not folder.exists()
