"""Write configs/experiments/published/*.csv from the papers' tables in results/paper/.

    python scripts/published_numbers.py

The papers' tables are one line a method with a column a metric, as printed; experiments read one
line a row, data set and metric (docs/experiments.md). A row has the method's name in the paper's
table; where a table has the same name twice (but for case), the copied one is followed by its mark.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRINTED = ROOT / "results" / "paper"
PUBLISHED = ROOT / "configs" / "experiments" / "published"

# Number of a paper in another's list of references, such as "[44] ".
REFERENCE = r"^\[\d+\] "

ENGLISH = {
    "mae": "MAE",
    "corr": "Corr",
    "acc7": "Mult_acc_7",
    "acc2_nn": "Has0_acc_2",
    "acc2_np": "Non0_acc_2",
    "f1_nn": "Has0_F1_score",
    "f1_np": "Non0_F1_score",
}
MOSI_AND_MOSEI = {
    f"{dataset}_{column}": (dataset, metric)
    for dataset in ("mosi", "mosei")
    for column, metric in ENGLISH.items()
}
SIMS = {
    "acc2": ("sims", "Mult_acc_2"),
    "f1": ("sims", "F1_score"),
    "acc3": ("sims", "Mult_acc_3"),
    "acc5": ("sims", "Mult_acc_5"),
    "mae": ("sims", "MAE"),
    "corr": ("sims", "Corr"),
}

Line = Mapping[str, str]
LongLine = dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        stem: Name of both files.
        columns: Column of the paper's table to data set and MMSA's metric.
        row: Name of a line's row.
        source: Where its numbers stand, and what the paper says of them.
    """

    stem: str
    columns: Mapping[str, tuple[str, str]]
    row: Callable[[Line], str]
    source: Callable[[Line], str]

    def lines(self) -> Iterator[LongLine]:
        """Read the paper's table; cells without a number are left out."""
        lines = printed_lines(self.stem)
        names = [self.row(line).lower() for line in lines]
        for line in lines:
            name, mark = self.row(line), line.get("mark", "")
            unique = f"{name} {mark}".strip() if names.count(name.lower()) > 1 else name
            for column, (dataset, metric) in self.columns.items():
                if value := line.get(column):
                    yield long_line(unique, dataset, metric, value, mark, self.source(line))


def printed_lines(stem: str) -> list[dict[str, str]]:
    """Read a paper's table; cells stay the text they are."""
    with (PRINTED / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def long_line(row: str, dataset: str, metric: str, value: str, mark: str, source: str) -> LongLine:
    """Give one line of a published table its columns."""
    return {
        "row": row,
        "dataset": dataset,
        "metric": metric,
        "value": value,
        "mark": mark,
        "source": source,
    }


def dashfusion_source(table: str, encoder: str) -> Callable[[Line], str]:
    """Say what DashFusion's paper says of a row; it names no selection rule."""

    def source(line: Line) -> str:
        said = line["source"]
        if said.startswith("this paper"):
            setting = f"its own model, five seeds, {encoder}, unaligned features"
        elif said.startswith("reproduced"):
            setting = "re-run by DashFusion's authors with the original hyper-parameters"
        else:
            setting = f"from {re.sub(REFERENCE, '', said)}"
        extra = {
            "aligned": "; aligned data",
            "multimodal+unimodal labels": "; multimodal and unimodal labels",
        }
        mark = line.get("features_mark") or line.get("labels_used", "")
        return f"DashFusion, Table {table} ({setting}{extra.get(mark, '')})"

    return source


def infoenh_source(line: Line) -> str:
    """Say what a mark of InfoEnh's Table 1 means."""
    said = {"†": " (marked: code not released)", "‡": " (marked: re-implemented)", "": ""}
    return f"InfoEnh, Table 1{said[line['mark']]}"


def infoenh_variant(line: Line) -> str:
    """Name a line of InfoEnh's Table 2 with the host it stands under."""
    method, host = line["method"], line["group"]
    return method if method == host else f"{host}: {method}"


def infoenh_table2_source(line: Line) -> str:
    """Say which rows of InfoEnh's Table 2 stand in its Table 1 already."""
    host = line["method"] == "w/o InfoEnh"
    equal = " (equal to the re-implemented row of Table 1)" if host else ""
    return f"InfoEnh, Table 2{equal}"


def infoenh_table3() -> Iterator[LongLine]:
    """Read InfoEnh's Table 3, which has two systems in one line."""
    for line in printed_lines("infoenh_table3"):
        complete = line["setting"] == "ConFEDE"
        reading = (
            "equal to negative/non-negative of Table 1"
            if complete
            else "read as negative/non-negative, as in its complete rows"
        )
        for prefix, system in (("wo_infoenh", "w/o InfoEnh"), ("w_infoenh", "w/ InfoEnh")):
            row = f"{line['setting']}, {system}"
            for column, metric in (("acc2", "Has0_acc_2"), ("f1", "Has0_F1_score")):
                value = line[f"{prefix}_{column}"]
                yield long_line(row, "mosei", metric, value, "", f"InfoEnh, Table 3 ({reading})")


TABLES = (
    Table(
        "dashfusion_table2",
        MOSI_AND_MOSEI,
        lambda line: line["method"],
        dashfusion_source("II", "bert-base-uncased"),
    ),
    Table(
        "dashfusion_table3",
        SIMS,
        lambda line: line["method"],
        dashfusion_source("III", "bert-base-chinese"),
    ),
    Table(
        "dashfusion_table4",
        SIMS,
        lambda line: line["variant"],
        dashfusion_source("IV", "bert-base-chinese"),
    ),
    Table(
        "dashfusion_table5",
        SIMS,
        lambda line: line["fusion"],
        dashfusion_source("V", "bert-base-chinese"),
    ),
    Table("infoenh_table1", MOSI_AND_MOSEI, lambda line: line["method"], infoenh_source),
    Table("infoenh_table2", MOSI_AND_MOSEI, infoenh_variant, infoenh_table2_source),
)


def published() -> dict[str, str]:
    """Make every file's content, by file name."""
    lines = {table.stem: list(table.lines()) for table in TABLES}
    lines["infoenh_table3"] = list(infoenh_table3())
    return {f"{stem}.csv": _csv(found) for stem, found in lines.items()}


def _csv(lines: list[LongLine]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


if __name__ == "__main__":
    for name, content in published().items():
        (PUBLISHED / name).write_text(content, encoding="utf-8", newline="\n")
        print(f"{PUBLISHED.relative_to(ROOT) / name}: {content.count(chr(10)) - 1} numbers")
