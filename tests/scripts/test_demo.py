"""scripts/demo.py: one table, and a sentence that can say no."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            (0.8, 0.6, 0.7, 0.1, 1.4),
            "As expected: audio and vision take 25% off the error of text alone, to less than",
        ),
        (
            (0.8, 0.72, 0.7, 0.1, 1.4),
            "As expected: audio and vision take 10% off the error of text alone, which one seed",
        ),
        ((0.8, 0.8, 0.7, 0.1, 1.4), "Not as expected: audio and vision do not make"),
        ((0.6, 0.5, 0.7, 0.1, 1.4), "Not as expected: an error is below the best possible"),
        ((0.8, 0.05, 0.7, 0.1, 1.4), "Not as expected: an error is below the best possible"),
        ((1.4, 1.3, 0.7, 0.1, 1.4), "Not as expected: text alone is no better than the best const"),
    ],
)
def test_the_verdict(demo, errors, said):
    assert demo.verdict(*errors).startswith(said)


def test_it_ends_with_one_table(demo, monkeypatch, tmp_path, capsys):
    metrics = {"text_only": (0.8, 0.7), "dashfusion": (0.6, 0.875)}
    asked = []

    def run(model, dataset, *, seeds, **options):
        asked.append((model, dataset, options["custom_feature"], options["res_save_dir"]))
        values = dict(zip(("MAE", "Corr"), metrics[model], strict=True))
        return SimpleNamespace(seeds=[SimpleNamespace(diverged=False, metrics=values)])

    monkeypatch.setattr(demo, "MMSA_run", run)
    monkeypatch.setattr(demo, "demo_features", lambda dataset, folder: folder / "made.pkl")
    demo.main(tmp_path)
    results = tmp_path / "results"
    assert asked == [(model, "mosi", results / "made.pkl", results) for model in metrics]
    lines = capsys.readouterr().out.splitlines()
    (head,) = (number for number, line in enumerate(lines) if line.split() == ["MAE", "Corr"])
    (said,) = (number for number, line in enumerate(lines) if line.startswith("As expected: "))
    table = [line.rsplit(None, 2) for line in lines[head:said] if line[-1:].isdigit()]
    optimum = demo.demo_optimum("mosi").loc[["text", "text+audio+vision"]]
    assert [tuple(map(float, line[1:])) for line in table] == [
        *metrics.values(),
        *map(tuple, optimum.round(3).to_numpy()),
    ]
    assert "take 25% off" in lines[said]


def test_a_run_that_diverges_ends_it(demo, monkeypatch, tmp_path):
    seed = SimpleNamespace(diverged=True, record=SimpleNamespace(reason="The loss is not finite."))
    monkeypatch.setattr(demo, "MMSA_run", lambda *args, **options: SimpleNamespace(seeds=[seed]))
    monkeypatch.setattr(demo, "demo_features", lambda dataset, folder: folder / "made.pkl")
    with pytest.raises(SystemExit, match=r"text_only diverged\. The loss is not finite"):
        demo.main(tmp_path)
