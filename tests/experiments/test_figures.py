"""The figures of an experiment; how they look is tested in tests/reporting/figures."""

import pytest
from matplotlib.figure import Figure

from MMSA_ext.errors import ConfigError
from MMSA_ext.experiments import draw, run
from MMSA_ext.reporting import figures

KINDS = ["comparison", "sweep", "robustness", "curves", "confusion"]


@pytest.fixture
def experiment(make, options, tiny):
    rows = [
        {"label": "slow", "model": "text_only", "config": {"learning_rate": 0.0005},
         "series": "rates", "x": 5},
        {"label": "fast", "model": "text_only", "published": "Fast", "series": "rates", "x": 10},
        {"label": "never run", "model": "lf_dnn", "role": "control"},
        {"label": "theirs", "published": "Fast"},
    ]  # fmt: skip
    made = make(rows=rows, figure={"kind": "sweep", "x_label": "rate", "reference": "fast"})
    made = made.narrowed(config={f"text_only:{key}": value for key, value in tiny.items()})
    run(made.model_copy(update={"rows": made.rows[:2]}), **options)
    return made


def test_every_kind_is_drawn_as_picture_and_vector(experiment, store, tmp_path):
    for kind in KINDS:
        paths = draw(experiment, store, tmp_path / kind, kind=kind)
        assert {path.suffix for path in paths} == {".png", ".pdf"}, kind
        assert all(path.stat().st_size > 1000 for path in paths)
        assert all(path.name.startswith(f"rates-mosi-{kind}") for path in paths)
    assert sorted(path.name for path in (tmp_path / "curves").glob("*.png")) == [
        "rates-mosi-curves-01-slow.png", "rates-mosi-curves-02-fast.png"
    ]  # fmt: skip


def test_the_files_own_kind_is_the_default(experiment, store, tmp_path):
    assert any("rates-mosi-sweep" in path.name for path in draw(experiment, store, tmp_path))


def test_a_comparison_has_the_figures_metrics_alone(experiment, store, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(figures, "comparison_figure", lambda c: given.append(c) or Figure())
    figure = experiment.figure.model_copy(update={"metrics": ("Corr",)})
    for shown in (experiment, experiment.model_copy(update={"figure": figure})):
        draw(shown, store, tmp_path, kind="comparison")
    assert [c.metrics for c in given] == [("MAE", "Corr"), ("Corr",)]
    assert set(given[1].numbers["metric"]) == {"Corr"}
    monkeypatch.undo()
    narrowed = experiment.model_copy(update={"figure": figure})
    assert draw(narrowed, store, tmp_path, kind="comparison")


def test_mistakes_are_named(experiment, make, store, tmp_path):
    with pytest.raises(ConfigError, match="did you mean sweep"):
        draw(experiment, store, tmp_path, kind="swep")
    with pytest.raises(ConfigError, match="no finished runs to draw"):
        draw(experiment.narrowed(seeds=[9]), store, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    flat = [row.model_copy(update={"series": None, "x": None}) for row in experiment.rows]
    with pytest.raises(ConfigError, match="no rows with series and x"):
        draw(experiment.model_copy(update={"rows": tuple(flat)}), store, tmp_path, kind="sweep")
