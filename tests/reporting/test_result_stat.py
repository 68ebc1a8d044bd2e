from datetime import UTC, datetime

from MMSA_ext.reporting.result_stat import result_stat


def runs(make_record, model="self_mm", seeds=(1, 2), **changes):
    return [
        make_record(
            model=model,
            seed=seed,
            metrics={"test": {"MAE": 0.7 + seed / 100, "Corr": 0.75, "Loss": 0.5}},
            epochs=1,
            **changes,
        )
        for seed in seeds
    ]


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ") and ":--:" not in line]


def test_tables_are_mmsas(make_record):
    text = result_stat(
        [
            *runs(make_record, dataset="sims"),
            *runs(make_record),
            *runs(make_record, "mult", configuration={"need_data_aligned": True}),
        ]
    )
    assert text.index("### Regression") < text.index("- MOSI") < text.index("- SIMS")
    assert rows(text)[:3] == [
        "| Model | MAE | Corr | Data Setting |",
        "| mult | 71.50 | 75.00 | Aligned |",
        r"| self\_mm | 71.50 | 75.00 | Unaligned |",
    ]
    assert "| :--: | :--: | :--: | :--: |" in text


def test_numbers_have_n_selection_and_environment_below(make_record, make_diverged_record):
    text = result_stat([*runs(make_record), make_diverged_record(model="self_mm", seed=3)])
    for fact in (
        "  - seeds: n = 2 of 3 planned: 1, 2",
        "  - diverged: self\\_mm: seed 3: the training loss became non-finite in epoch 3",
        "  - selection: lowest validation Loss, patience 8",
        "  - data: sha256 a3a3a3a3a3a3",
        "  - environment: cpu (Intel",
    ):
        assert fact in text


def test_the_newest_code_counts(make_record):
    old = runs(make_record, created=datetime(2024, 1, 1, tzinfo=UTC))
    new = runs(make_record, seeds=(1,), code_version="0.2.0")
    text = result_stat([*new, *old])
    assert rows(text)[1:] == [r"| self\_mm | 71.00 | 75.00 | Unaligned |"]
    assert "MMSA\\_ext 0.2.0" in text
    assert "0.1.0" not in text


def test_without_results(make_diverged_record):
    assert "No records yet." in result_stat([])
    assert "No run has a result." in result_stat([make_diverged_record()])


def test_words_of_a_record_stay_in_their_line(make_record):
    text = result_stat([make_record(notes=["a\n# Heading\r<script>x</script>"])])
    assert "# Heading" in text
    assert not any(line.startswith("# Heading") for line in text.splitlines())
    assert r"\<script>" in text
