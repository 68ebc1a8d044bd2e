"""What the documentation site has beside docs/: a hook of mkdocs (mkdocs.yml names it).

- The reference of the command line, of every configuration key and of the Python API is written
  from the code, as pages that exist while the site is built.
- Pages that stand beside what they describe (results/, benchmarks/) are shown too.
- A link to a file that the site does not have leads to the repository, where `repo_url` is given;
  without one, the file's path stands in place of the link.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_log = logging.getLogger("mkdocs.hooks.site_pages")

# Pages of the repository, by where they lie on the site.
ELSEWHERE = {
    "project/measured.md": "results/README.md",
    "project/papers.md": "results/paper/README.md",
    "project/matrix.md": "results/matrix/README.md",
    "project/infoenh_hosts.md": "results/infoenh_hosts/README.md",
    "project/mosi_text_audio.md": "results/mosi_text_audio/README.md",
    "project/mosi_frozen_text.md": "results/mosi_frozen_text/README.md",
    "project/mmmo_audio_vision.md": "results/mmmo_audio_vision/README.md",
    "project/benchmarks.md": "benchmarks/README.md",
    "project/studies.md": "studies/README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
}
# Modules that the reference shows, by page; what is inside of the package alone is read in its code.
MODULES = {
    "models": ("Models and layers", [
        "models.contract", "registry", "models.dashfusion", "models.infoenh", "models.losses",
        "models.optimal_transport", "models.parts.attention", "models.parts.encoders",
        "models.parts.fusion", "models.parts.unimodal",
    ]),
    "data": ("Data", [
        "data.features", "data.feature_set", "data.convert", "data.synthetic", "data.corruption",
        "data.retrieval", "data.shards", "datasets", "metrics",
    ]),
    "training": ("Training", [
        "runs.options", "runs.tracking", "training.callbacks", "training.trainer",
        "training.checkpoint", "config.schema", "config.resolve", "config.described",
    ]),
    "results": ("Records, tables, figures", [
        "records.record", "records.store", "reporting.comparison", "reporting.comparison_table",
        "reporting.render", "reporting.statistics", "reporting.figures", "reporting.report",
    ]),
    "experiments": ("Experiments", ["experiments", "experiments.ray_engine"]),
    "explain": ("Looking into models", [
        "explain.trained_model", "explain.embeddings", "explain.attention_maps",
        "explain.attribution", "explain.cases", "explain.complexity", "explain.verification",
    ]),
}  # fmt: skip
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for uri, path in ELSEWHERE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for uri, content in _reference():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links, which are right in the repository, right on the site."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    here = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    on_site = {path: uri for uri, path in ELSEWHERE.items()}
    on_site |= {f"docs/{f.src_uri}": f.src_uri for f in files} | {"README.md": "index.md"}

    def link(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups(default="")
        if "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if path in on_site:
            leads = posixpath.relpath(on_site[path], posixpath.dirname(page.file.src_uri) or ".")
            return f"{image}[{text}]({leads}{anchor})"
        if config.repo_url:
            return f"{image}[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{path}`" if text.strip("`/") in path else f"{text} (`{path}`)"

    parts = FENCE.split(markdown)
    code = [*FENCE.findall(markdown), ""]
    return "".join(LINK.sub(link, part) + block for part, block in zip(parts, code, strict=True))


def _reference() -> Iterator[tuple[str, str]]:
    yield "reference/commands.md", _commands()
    yield "reference/configuration.md", _configuration()
    yield "reference/api.md", _api()
    for uri, (title, modules) in MODULES.items():
        blocks = "\n\n".join(f"::: MMSA_ext.{module}" for module in modules)
        yield f"reference/{uri}.md", f"# {title}\n\n{blocks}\n"


def _commands() -> str:
    import typer.main
    from typer.cli import get_docs_for_click

    from MMSA_ext.cli import app

    group = typer.main.get_command(app)
    waiting: list[Any] = [group]
    while waiting:
        for command in getattr(waiting.pop(), "commands", {}).values():
            command.short_help = (command.help or "").split("\n")[0]  # whole, not cut at a width
            waiting.append(command)
    context = typer.Context(group, info_name="mmsa-ext")
    return get_docs_for_click(obj=group, ctx=context, name="mmsa-ext", title="Command line")


def _configuration() -> str:
    """Every key of every model of this package; the values of MMSA's own are in MMSA's files."""
    from MMSA_ext.config.described import described
    from MMSA_ext.config.schema import MMSAKeys
    from MMSA_ext.registry import get_model, list_models

    datasets = ("mosi", "mosei", "sims")
    lines = [
        "# Configuration keys",
        "Keys are given by `--set KEY=VALUE`, `config={...}` or a file; nested ones have a dot, or are nested."
        " Values are those of a run without overrides; where they differ, by data set."
        " `mmsa-ext config MODEL DATASET` says where each is from, and has the keys of MMSA's own models.",
        "## Every model",
        "| Key | Meaning |\n|---|---|",
    ]
    shared = {key.key: key.meaning for key in described("dashfusion", "mosi")}
    lines[-1] += "".join(
        f"\n| `{key}` | {_cell(shared[key])} |"
        for key in MMSAKeys.model_fields
        if shared.get(key)
    )
    for name in list_models():
        model = get_model(name)
        by_key: dict[str, dict[str, Any]] = {}
        meaning: dict[str, str] = {}
        for dataset in datasets:
            for key in described(name, dataset):
                by_key.setdefault(key.key, {})[dataset] = key.value
                meaning[key.key] = key.meaning
        rows = [
            f"| `{key}` | {_values(values)} | {_cell(meaning[key])} |"
            for key, values in by_key.items()
            if key.split(".")[0] not in MMSAKeys.model_fields
        ]
        lines += [f"## `{name}`", f"{model.paper}", "\n".join(["| Key | Value | Meaning |", "|---|---|---|", *rows])]
    return "\n\n".join(lines) + "\n"


def _values(by_dataset: dict[str, Any]) -> str:
    import json

    written = {d: f"`{json.dumps(v, ensure_ascii=False, default=str)}`" for d, v in by_dataset.items()}
    if len(set(written.values())) == 1:
        return _cell(next(iter(written.values())))
    return _cell(", ".join(f"{dataset} {value}" for dataset, value in written.items()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _api() -> str:
    import MMSA_ext

    names = [name for name in MMSA_ext.__all__ if not name.startswith("__")]
    names = [name for name in names if name not in ("models", "optimal_transport")]
    head = "# Python: what `MMSA_ext` offers\n\nAll of it is imported from `MMSA_ext` itself.\n\n"
    return head + "\n\n".join(f"::: MMSA_ext.{name}" for name in names) + "\n"
