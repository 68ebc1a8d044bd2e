"""The commands on all records of a store, as a user types them."""

import pytest
import typer
from typer.testing import CliRunner

from MMSA_ext.cli.report import records, report, verify
from MMSA_ext.data.features import fingerprint
from MMSA_ext.records.store import RunStore, StoreError
from tests.explain.test_verification import predictions, scored
from tests.records.conftest import features_of
from tests.reporting.conftest import make_finished

app = typer.Typer()
app.command("report")(report)
stores = typer.Typer()
stores.command("verify")(verify)
stores.add_typer(records, name="records")


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


def test_published_verified_and_restored(tmp_path):
    table = predictions()
    file = features_of(table, tmp_path / "features.pkl")
    own, public, back = (tmp_path / name for name in ("own", "public", "back"))
    metrics = scored(table, "mosi", "mse")
    run = make_finished(model="text_only", dataset_fingerprint=fingerprint(file), metrics=metrics)
    RunStore(own / "runs").write(run, table)

    def call(*arguments, code=0):
        done = CliRunner().invoke(stores, list(map(str, arguments)))
        assert done.exit_code == code, done.output
        return done.output

    publish = ("records", "publish", public, "--res-save-dir", own)
    assert f"{public / 'runs'}: 1 written, 0 there already" in call(*publish)
    assert "0 written, 1 there already" in call(*publish)
    assert "1 have their labels withheld" in call("verify", "--res-save-dir", public)
    given = ("-f", file, "--res-save-dir", public)
    assert "1 record: 1 give their metrics back" in call("verify", *given)
    call("records", "restore", back, "--res-save-dir", public, code=2)  # without -f
    assert "1 written" in call("records", "restore", back, *given)
    assert [p.read_bytes() for p in sorted(back.rglob("*.*"))] == [
        p.read_bytes() for p in sorted(own.rglob("*.*"))
    ]
