"""A trained model as one file for programs that have none of this package: `.pt2` or ONNX.

The file takes features as they are in a feature file: scaling and masks are inside of it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.errors import ConfigError, first_line
from MMSA_ext.extras import import_extra
from MMSA_ext.files import write_atomically
from MMSA_ext.models.contract import Inputs, MSAModel, core_model
from MMSA_ext.names import FRAMES, MODALITIES
from MMSA_ext.paths import check_output, expand
from MMSA_ext.registry import unread_modalities
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.version import __version__

__all__ = ["ExportedModel", "export_model"]

FACTS = "mmsa_ext.json"  # in the file: what it is, and what it takes
_FORMATS = (".pt2", ".onnx")
_TOLERANCE = 1e-5
# What torch raises for a graph that cannot be traced, or not for other lengths.
_FAILURES = (RuntimeError, ValueError, AssertionError, torch._dynamo.exc.UserError)
Run = Callable[[dict[str, Tensor]], Tensor]
Write = Callable[[ExportedProgram, str], tuple[bytes, Run]]
_STEPS = {"text": 2, "audio": 1, "vision": 1}  # which dimension is time


@dataclass(frozen=True)
class ExportedModel:
    """What was exported.

    Attributes:
        path: The file.
        inputs: By name `dtype`, `shape` (numbers, and names of what may vary) and, of names, their
            `range` where it is bounded. `text` are token ids, mask and segments, `audio` and
            `vision` frames as in a feature file; behind their lengths nothing is read.
        difference: The largest difference between its predictions and the model's own, on random
            features of several shapes.
    """

    path: Path
    inputs: dict[str, dict[str, Any]]
    difference: float


def export_model(
    checkpoint: str | Path, output: str | Path, overrides: dict[str, Any] | None = None
) -> ExportedModel:
    """Write a model of this package, in evaluation mode, as a file of `torch.export` or ONNX.

    The number of samples may vary, and so may lengths, up to those of training. Of a model that
    reads padding, or whose graph depends on the length, they are those of training: pad to them.
    What is written has been compared with the model.

    Args:
        checkpoint: As for `predict_file`.
        output: The file, ending with `.pt2` or `.onnx`.
        overrides: As for `predict_file`.

    Raises:
        CheckpointError: As `predict_file`.
        ConfigError: The ending is another, a package is missing, or the model cannot be exported.
        WriteError: The disk refuses.
    """
    path = Path(expand(output))
    if path.suffix not in _FORMATS:
        raise ConfigError(f"{path}: name a file that ends with {' or '.join(_FORMATS)}.")
    check_output(path, Path(expand(checkpoint)))
    if path.suffix == ".onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(module, "export", "the format ONNX")
    scorer = Scorer(checkpoint, overrides, gpu_ids="cpu")
    if scorer.is_stock:
        raise ConfigError(
            f"{scorer.path}: {scorer.args.model_name} is MMSA's model, whose code looks at numbers "
            "while it computes and so cannot be exported; export one of this package's models."
        )
    facts = {
        "mmsa_ext": __version__,
        "model": scorer.args.model_name,
        "dataset": scorer.args.dataset_name,
        "pretrained": scorer.args.get("pretrained"),
        "outputs": {"prediction": {"dtype": "float32", "shape": ["batch"]}},
    }
    write = _onnx if path.suffix == ".onnx" else _pt2
    with _explained(scorer):
        predictor = _Predictor(core_model(scorer.model), scorer.args, scorer.scaling)
        predictor.eval().requires_grad_(False)
        try:
            content, inputs, difference = _made(predictor, write, facts)
        except _FAILURES:
            if not predictor.lengths_vary:
                raise
            predictor.lengths_vary = False  # its graph depends on them
            content, inputs, difference = _made(predictor, write, facts)
    if not difference <= _TOLERANCE:
        raise ConfigError(
            f"{scorer.path}: what was exported predicts up to {difference:.1e} otherwise than the "
            f"model, so {path} is not written."
        )
    write_atomically(path, content)
    return ExportedModel(path, inputs, difference)


def _made(
    predictor: _Predictor, write: Write, facts: Mapping[str, Any]
) -> tuple[bytes, dict[str, dict[str, Any]], float]:
    """The file's content, what it takes, and how far its predictions are from the model's."""
    program = _program(predictor)
    inputs = _described(program, predictor)
    content, run = write(program, json.dumps({**facts, "inputs": inputs}))
    return content, inputs, _largest_difference(predictor, run)


class _Predictor(nn.Module):
    """From features as a file has them to predictions."""

    def __init__(
        self, model: MSAModel, args: Mapping[str, Any], scaling: FeatureScaling | None
    ) -> None:
        super().__init__()
        self.model = model
        self.reads = [m for m in MODALITIES if m not in unread_modalities(args)]
        self.widths = dict(zip(MODALITIES, args["feature_dims"], strict=True))
        self.longest = dict(zip(MODALITIES, args["seq_lens"], strict=True))
        self.lengths_vary = not model.reads_padding
        # So that the graph is the same for texts that are shorter than what is read by position.
        self.padding = 0 if model.reads_padding else model.text_rows_read
        self.scaled = scaling is not None
        for m in (m for m in FRAMES if self.scaled and m in self.reads):
            part = getattr(scaling, m)
            deviation = torch.from_numpy(part.deviation)
            factor = torch.where(deviation > 0, 1 / deviation, 0.0)
            self.register_buffer(f"{m}_mean", torch.from_numpy(part.mean))
            self.register_buffer(f"{m}_factor", factor)

    def forward(
        self,
        text: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        vision: Tensor | None = None,
        vision_lengths: Tensor | None = None,
    ) -> Tensor:
        """Predictions `(B,)`; what the model does not read is not given."""
        text = torch.zeros(1, 3, 1) if text is None else F.pad(text, (0, self.padding))
        heard, heard_mask = self._frames("audio", audio, audio_lengths)
        seen, seen_mask = self._frames("vision", vision, vision_lengths)
        outputs = self.model(Inputs(text, heard, seen, heard_mask, seen_mask))
        prediction: Tensor = outputs["M"].reshape(-1)
        return prediction

    def _frames(
        self, modality: str, frames: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scaled frames and their mask; one masked step of nothing for what is not read."""
        if frames is None or lengths is None:
            return torch.zeros(1, 1, 0), torch.zeros(1, 1, dtype=torch.bool)
        mask = torch.arange(frames.shape[1]) < lengths.unsqueeze(1)
        return self._scale(modality, frames, mask), mask

    def _scale(self, modality: str, frames: Tensor, mask: Tensor) -> Tensor:
        """As `ModalityScaling.apply`, in float64."""
        if not self.scaled:
            return frames
        mean, factor = (getattr(self, f"{modality}_{part}") for part in ("mean", "factor"))
        scaled = ((frames.double() - mean) * factor).float()
        return torch.where(mask.unsqueeze(-1), scaled, 0.0)

    def example(self, batch: int, cut: int) -> dict[str, Tensor]:
        """Random features, so much shorter than the longest of training; one step is left."""
        generator = torch.Generator().manual_seed(batch)
        made: dict[str, Tensor] = {}
        for m in self.reads:
            longest = max(1, self.longest[m] - cut)
            lengths = torch.randint(1, longest + 1, (batch,), generator=generator)
            lengths[0] = longest
            valid = torch.arange(longest) < lengths[:, None]
            if m == "text":
                ids = torch.randint(1, 60, valid.shape, generator=generator) * valid
                made[m] = torch.stack([ids, valid.long(), torch.zeros_like(ids)], dim=1)
            else:
                frames = torch.randn(*valid.shape, self.widths[m], generator=generator)
                made |= {m: frames * valid.unsqueeze(-1), f"{m}_lengths": lengths}
        return made


def _program(predictor: _Predictor) -> ExportedProgram:
    length = Dim.AUTO if predictor.lengths_vary else Dim.STATIC
    given = predictor.example(3, 1 if predictor.lengths_vary else 0)
    shapes = {
        name: {0: Dim.DYNAMIC, **({_STEPS[name]: length} if name in _STEPS else {})}
        for name in given
    }
    with torch.no_grad():
        return torch.export.export(predictor, (), given, dynamic_shapes=shapes, strict=False)


def _described(program: ExportedProgram, predictor: _Predictor) -> dict[str, dict[str, Any]]:
    """What the program takes, by the name of the input."""
    found = {}
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in inputs}
    for name, value in nodes.items():
        shape: list[int | str] = []
        ranges = {}
        for position, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            called = "batch" if position == 0 else f"{name}_steps"
            shape.append(called)
            bounds = program.range_constraints.get(size.node.expr)
            if position and bounds is not None:
                least, most = int(bounds.lower), predictor.longest[name]
                # torch says 2 of what it has not taken for 1.
                ranges[called] = [
                    1 if least <= 2 else least,
                    most if bounds.upper >= most else int(bounds.upper),
                ]
        dtype = str(value.dtype).removeprefix("torch.")
        found[name] = {"dtype": dtype, "shape": shape} | ({"range": ranges} if ranges else {})
    return found


def _pt2(program: ExportedProgram, facts: str) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={FACTS: facts})
    file.seek(0)
    loaded = torch.export.load(file).module()
    return file.getvalue(), lambda given: loaded(**given)


def _onnx(program: ExportedProgram, facts: str) -> tuple[bytes, Run]:
    import onnxruntime

    names = list(program.graph_signature.user_inputs)
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=names, output_names=["prediction"]
    )
    assert made is not None
    made.model.metadata_props[FACTS] = facts
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(given: dict[str, Tensor]) -> Tensor:
        (found,) = session.run(None, {name: given[name].numpy() for name in names})
        return torch.from_numpy(found)

    return content, run


def _largest_difference(predictor: _Predictor, run: Run) -> float:
    """Between the model's predictions and the file's, of one sample and of several."""
    cuts = [0, 1, 2] if predictor.lengths_vary else [0]
    largest = 0.0
    for batch, cut in ((batch, cut) for batch in (1, 5) for cut in cuts):
        given = predictor.example(batch, cut)
        with torch.no_grad():
            difference = (run(given) - predictor(**given)).abs().max()
        largest = max(largest, float(difference))
    return largest


@contextmanager
def _explained(scorer: Scorer) -> Iterator[None]:
    """Inside, what torch says of a model that it cannot export is one sentence."""
    noisy = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _FAILURES as error:
        raise ConfigError(
            f"{scorer.path}: {scorer.args.model_name} with this configuration cannot be exported "
            f"({first_line(error)})."
        ) from error
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
