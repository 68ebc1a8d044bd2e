"""The card of a model that is shared: what it is, how good, what for; a function of its facts.

Its first lines are the metadata that the Hugging Face Hub reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from MMSA_ext import mmsa_files
from MMSA_ext.catalogue import MODELS
from MMSA_ext.data import synthetic
from MMSA_ext.data.recipes import described
from MMSA_ext.datasets import DEFINITION, Dataset, dataset_of
from MMSA_ext.names import MODALITIES
from MMSA_ext.registry import host_of, paper_of, unread_modalities
from MMSA_ext.reporting.metric_names import ordered_metrics, paper_name
from MMSA_ext.reporting.render import Cell, Column, Row, Table, number, to_markdown
from MMSA_ext.reporting.statistics import summarise

__all__ = ["PLACE", "UNDECIDED", "citations", "model_card"]

UNDECIDED = "unknown"  # the hub's word for a licence that nobody has named
PLACE = "OWNER/NAME"  # of the model on the hub, as long as nobody knows it
_LANGUAGES = {"en": ("English", "en"), "cn": ("Chinese", "zh")}
_TITLES = {"mosi": "CMU-MOSI", "mosei": "CMU-MOSEI", "sims": "CH-SIMS", "simsv2": "CH-SIMS v2"}
# The hub's names of metrics, by how ours begin or end.
_HUB_METRICS = {"MAE": "mae", "Loss": "loss", "Corr": "pearsonr"}
_PAPER = re.compile(r"(.+) \(([^()]*)\)")  # title and place
_NOT_BIBTEX = re.compile(r"[{}\\%#&$~^]")


def model_card(facts: Mapping[str, Any]) -> str:
    """The card, Markdown, of the content of a shared model's `config.json`."""
    config, run = facts["config"], facts["run"]
    dataset = dataset_of(config["dataset_name"], config.get(DEFINITION))
    model, data_name = config["model_name"], _TITLES.get(dataset.name, dataset.name)
    generated = any(made["name"] == synthetic.__name__ for made in facts["recipe"].values())
    title = f"generated data in the form of {data_name}" if generated else data_name
    language, code = _LANGUAGES[dataset.language]
    read = [modality for modality in MODALITIES if modality not in unread_modalities(config)]
    low, high = dataset.label_range
    seeds = run["seeds"] if run else {}
    encoder = facts["text_encoder"]
    name = f"{model} on {title}"
    task = "text-classification" if read == ["text"] else "video-classification"
    metadata = ModelCardData(
        language=code,
        license=facts["license"],
        library_name="MMSA_ext",
        pipeline_tag=task,
        base_model=encoder["hub"] if encoder else None,
        tags=["multimodal-sentiment-analysis", "sentiment-analysis", "mmsa", model, dataset.name],
        model_name=name,
        eval_results=_eval_results(facts, title, dataset, task),
    )
    environment = Environment(
        loader=PackageLoader("MMSA_ext.runs"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md").render(
        metadata=metadata.to_yaml(),
        name=name,
        model=model,
        place=PLACE,
        dataset=title,
        data_name=data_name,
        generated=generated,
        language=language,
        low=f"{low:g}",
        high=f"{high:g}",
        seed=facts["seed"],
        version=facts["library_version"],
        paper=_paper(model),
        parameters=f"{facts['parameters']:,}",
        shipped=model in MODELS or mmsa_files.is_model(model),
        text_alone=read == ["text"] and encoder is not None,
        reads=_listed(read),
        encoder=encoder and _encoder_said(encoder),
        encoder_name=encoder and encoder["name"],
        recipe=[
            {
                "modality": modality,
                "made": described(facts["recipe"].get(modality)),
                "width": "token ids" if modality == "text" and config.get("use_bert") else width,
            }
            for modality, width in zip(MODALITIES, config["feature_dims"], strict=True)
            if modality in read
        ],
        scaled=facts["scaling"] is not None and read != ["text"],
        run=run,
        samples=_samples(facts),
        notes=run["notes"] if run else [],
        results=to_markdown(_results(facts)).rstrip(),
        seeds=len(seeds),
        diverged=", ".join(map(str, run["diverged"])) if run else "",
        license=facts["license"],
        citations="\n\n".join(citations(model, facts["library_version"])),
    )


def _eval_results(
    facts: Mapping[str, Any], title: str, dataset: Dataset, task: str
) -> list[EvalResult]:
    """The metrics of the test split, as the hub lists them."""
    run = facts["run"]
    n = f"n = {run['samples']['test']:,}, " if run and "test" in run["samples"] else ""
    return [
        EvalResult(
            task_type=task,
            task_name="Multimodal sentiment analysis",
            dataset_type=dataset.name,
            dataset_name=title,
            dataset_split="test",
            metric_type=_hub_metric(metric),
            metric_name=f"{paper_name(metric)} ({n}one seed)",
            metric_value=value,
        )
        for metric, value in facts["metrics"].get("test", {}).items()
        if value is not None
    ]


def _hub_metric(metric: str) -> str:
    if metric in _HUB_METRICS:
        return _HUB_METRICS[metric]
    return "f1" if "F1" in metric else "accuracy" if "acc" in metric else metric.lower()


def _results(facts: Mapping[str, Any]) -> Table:
    """Metrics of this seed on validation and test, and over the seeds on test."""
    run, metrics = facts["run"], facts["metrics"]
    seeds = run["seeds"] if run else {}
    counts = run["samples"] if run else {}
    splits = [split for split in ("valid", "test") if split in metrics]

    def head(split: str) -> str:
        n = f", n = {counts[split]:,}" if split in counts else ""
        return f"{split}{n}, seed {facts['seed']}"

    columns = [Column("Metric", "left"), *(Column(head(split)) for split in splits)]
    if len(seeds) > 1:
        columns += [Column(f"test, {len(seeds)} seeds"), Column("95% interval of the mean")]
    rows = []
    for metric in ordered_metrics(name for split in splits for name in metrics[split]):
        cells: list[str | Cell] = [
            paper_name(metric),
            *(Cell(number(metrics[s].get(metric), ".4f")) for s in splits),
        ]
        if len(seeds) > 1:
            values = [found for seed in seeds.values() if (found := seed.get(metric)) is not None]
            over = summarise(values)
            cells += [Cell(), Cell()]
            if not math.isnan(over.std):
                n = "" if over.n == len(seeds) else f" (n = {over.n})"
                cells[-2:] = [
                    Cell(f"{over.mean:.4f} ± {over.std:.4f}{n}"),
                    Cell(f"{over.ci_low:.4f} to {over.ci_high:.4f}"),
                ]
        rows.append(Row(tuple(cells)))
    return Table(tuple(columns), tuple(rows), legend=None)


def _encoder_said(encoder: Mapping[str, Any]) -> str:
    said = f"{encoder['name']} {encoder['version']}".strip()
    return f"{said} ({encoder['architecture']})"


def _samples(facts: Mapping[str, Any]) -> str:
    """How many samples there were, as the end of a sentence."""
    counts = facts["run"] and facts["run"]["samples"]
    if not counts and (train := facts["config"].get("train_samples")):
        counts = {"train": train}
    said = _listed([f"{n:,} {split}" for split, n in counts.items()]) if counts else ""
    return f"; {said} samples" if said else ""


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _paper(model: str) -> str:
    """The paper of a model; of one of MMSA's what MMSA says."""
    if own := paper_of(model):
        host = host_of(model)
        return f"{own}; in {_paper(host)}" if host and host != model else own
    found = _mmsa_citation(model)
    return f"{found['title']} ({found['paper_url']})" if found else ""


def _mmsa_citation(model: str) -> dict[str, str] | None:
    path = mmsa_files.folder() / "citations.json"
    listed = json.loads(path.read_text(encoding="utf-8"))["models"]
    return next((found for name, found in listed.items() if name.lower() == model), None)


def citations(model: str, version: str) -> list[str]:
    """BibTeX of the papers, this package and MMSA."""
    ours = [model]
    if model.endswith("_infoenh"):
        ours = [model.removesuffix("_infoenh"), "misa_infoenh"]  # the host, and InfoEnh's paper
    entries = [
        _bibtex("misc", name.removeprefix("misa_"), title=found[1], note=found[2])
        for name in ours
        if (found := _PAPER.fullmatch(paper_of(name)))
    ]
    host = host_of(model)
    if host is not None and (cited := _mmsa_citation(host)):
        entries.append(_bibtex("misc", host, title=cited["title"], url=cited["paper_url"]))
    return [
        *entries,
        _bibtex("software", "MMSA_ext", title="MMSA_ext", version=version),
        _bibtex("software", "MMSA", title="MMSA", url="https://github.com/thuiar/MMSA"),
    ]


def _bibtex(kind: str, key: str, **fields: str) -> str:
    lines = [
        f"  {name} = {{{{{value}}}}}" if name == "title" else f"  {name} = {{{value}}}"
        for name, given in fields.items()
        if (value := given if name == "url" else _NOT_BIBTEX.sub("", given))
    ]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"
