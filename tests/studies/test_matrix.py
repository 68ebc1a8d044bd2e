"""The matrix of models and data sets: what a cell says, that it resumes, what it writes."""

import csv

import matrix
import pytest
import typer

from MMSA_ext.data import synthetic
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.registry import list_models

SIZES = (8, 4, 4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(synthetic.write_tiny_encoder(tmp_path_factory.mktemp("encoder"), hidden=16))


@pytest.fixture(scope="module")
def files(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("data")
    return matrix.generate(folder, lengths="short", sizes=SIZES, tokenizer=encoder)


def cell(model="lf_dnn", data="mosi", status="runs", **more):
    values = {"dataset": "mosi", "test_mae": None, "seconds": 1.0, "detail": ""} | more
    return matrix.MatrixCell(model=model, data=data, status=status, **values)


def test_every_model_is_in_it():
    models = matrix.all_models()
    assert len(models) == len(set(models)) == 17 + len(list_models())


def test_generated_files_are_made_once(files, encoder):
    assert [file.dataset for file in files] == ["mosi", "mosei", "sims"]
    before = [file.path.stat().st_mtime_ns for file in files]
    again = matrix.generate(files[0].path.parent, lengths="short", sizes=SIZES, tokenizer=encoder)
    assert [file.path.stat().st_mtime_ns for file in again] == before
    with pytest.raises(ConfigError, match="unknown lengths 'shrot'; did you mean short"):
        matrix.generate(files[0].path.parent, lengths="shrot", sizes=SIZES, tokenizer=encoder)


@pytest.mark.parametrize("model", matrix.all_models())
def test_one_epoch_is_asked_for_in_every_loop(model):
    overrides = matrix.one_epoch(model, "sims" if model != "mctn" else "mosi", "folder")
    assert overrides["num_epochs"] == 1
    assert overrides.get("first_selected_epoch", 1) == 1
    assert overrides.get("update_epochs", 1) == 1
    if model == "confede":
        assert overrides["stage_one"]["text"] == {"epochs": 1}


@pytest.mark.slow
def test_cells_in_processes_of_their_own_and_resumed(files, encoder, tmp_path):
    mosi = [file for file in files if file.dataset == "mosi"]
    models = ["lf_dnn", "mlf_dnn", "mctn"]
    seen = []
    options = {"encoder": encoder, "on_cell": lambda *given: seen.append(given)}
    cells = matrix.run_matrix(models, mosi, tmp_path, **options)
    assert [c.status for c in cells] == ["runs", "refused", "refused"]
    assert cells[0].test_mae > 0
    assert "only for sims" in cells[1].detail
    assert cells[2].detail.startswith("mctn cannot be run so: mosi-short-8-4-4-")
    assert str(tmp_path) not in cells[2].detail
    assert [(number, total) for _, number, total in seen] == [(1, 3), (2, 3), (3, 3)]
    (record,) = (tmp_path / "runs").rglob("*.json")
    made = record.stat().st_mtime_ns
    assert matrix.run_matrix(models[:1], mosi, tmp_path, encoder=encoder) == cells[:1]
    assert record.stat().st_mtime_ns == made
    assert not list(tmp_path.rglob("*.pth"))


def test_a_failure_is_the_tracebacks_last_line(files, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise ValueError(f"wrong shape in {files[0].path}")

    monkeypatch.setattr(matrix, "MMSA_run", fail)
    answer = matrix._outcome(tmp_path, "lf_dnn", files[0], tmp_path, "folder", "cpu")
    assert answer["status"] == "fails"
    assert answer["detail"] == (
        f"ValueError: wrong shape in {files[0].path.name} (test_matrix.py:{fail.__code__.co_firstlineno + 1})"  # noqa: E501
    )


@pytest.mark.slow
def test_a_cell_that_takes_too_long_or_dies(files, tmp_path, encoder, monkeypatch):
    (late,) = matrix.run_matrix(["lf_dnn"], files[:1], tmp_path, encoder=encoder, limit_s=0.001)
    assert (late.status, late.detail) == ("timeout", "after 0.001 s")
    monkeypatch.setattr(matrix, "_work", _die)
    dead = matrix._run_cell("lf_dnn", files[0], tmp_path, encoder, "cpu", 60)
    assert (dead.status, dead.detail) == ("fails", "ended with exit code 3")


def _die(*args):
    raise SystemExit(3)


def test_unknown_models_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="did you mean lf_dnn"):
        matrix.run_matrix(["lfdnn"], files, tmp_path)


def test_tables(tmp_path):
    cells = [
        cell(test_mae=1.23456),
        cell(data="sims", status="refused", detail="no | such file"),
        cell("mult", status="fails", detail="ValueError: <x>"),
        cell("mult", data="sims", status="refused", detail="no | such file"),
    ]
    paths = matrix.write_tables(cells, tmp_path, description="How it was made.")
    assert [path.name for path in paths] == ["matrix.csv", "matrix.md"]
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["runs", "refused", "fails", "refused"]
    assert rows[0]["test_mae"] == "1.23456"
    text = paths[1].read_text()
    assert "How it was made." in text
    assert "4 cells: 2 refused, 1 runs, 1 fails." in text
    assert r"| lf\_dnn | runs, 1.235, 1 s | refused (1) |" in text
    assert "| mult | fails (2) | refused (1) |" in text
    assert "1. no \\| such file\n2. ValueError: \\<x>" in text


class TestCommand:
    def test_writes_and_fails_where_a_cell_fails(
        self, tmp_path, encoder, files, monkeypatch, capsys
    ):
        arguments = {
            "models": ["lf_dnn", "mlf_dnn"],
            "real": files[0].path,
            "datasets": ["sims"],
            "lengths": "short",
            "sizes": SIZES,
            "encoder": encoder,
            "out": tmp_path / "out",
            "work_dir": tmp_path / "work",
        }
        statuses = iter(["runs", "runs", "refused", "runs"])
        monkeypatch.setattr(
            matrix,
            "_run_cell",
            lambda model, file, *rest: cell(model, file.name, next(statuses), detail="why"),
        )
        matrix.main(**arguments)
        assert "[3/4]" in capsys.readouterr().out
        with (tmp_path / "out" / "matrix.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["data"] for row in rows] == [files[0].path.stem] * 2 + ["generated sims"] * 2
        monkeypatch.setattr(
            matrix, "_run_cell", lambda model, file, *rest: cell(status="fails", detail="why")
        )
        with pytest.raises(typer.Exit) as stop:
            matrix.main(**arguments)
        assert stop.value.exit_code == 1

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(FeatureFileError, match="no such feature file; give one with --real"):
            matrix.main(real=tmp_path / "absent.pkl")

    def test_the_command_is_shown_without_folders(self, monkeypatch):
        monkeypatch.setattr(
            "sys.argv", ["studies/matrix.py", "--real", "/some/where/my data.pkl", "--out", "~/m"]
        )
        assert matrix._command() == "python studies/matrix.py --real 'my data.pkl' --out m"
