"""Fixtures shared by all tests: tiny, deterministic and offline."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from easydict import EasyDict
from hypothesis import HealthCheck, settings

from MMSA_ext.on_import import after_import

if TYPE_CHECKING:
    from MMSA_ext.runs.results import SeedResult

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MMSA_EXT_CACHE"] = "off"  # tests never write into the user's cache

if not hasattr(os, "mkfifo"):
    os.mkfifo = lambda path: pytest.skip("there are no FIFOs on Windows")

# A busy machine must not fail a test, and a failure must be there again at the next run.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def _draw_nothing() -> None:
    """A run's pictures take three times as long as a tiny run."""
    from MMSA_ext.runs.seeds import Run

    DRAW["as it is"] = Run._draw
    Run._draw = lambda run, results: ()


DRAW: dict = {}
after_import("MMSA_ext.runs.seeds", _draw_nothing)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process draw their pictures, as they do for users."""
    from MMSA_ext.runs.seeds import Run

    monkeypatch.setattr(Run, "_draw", DRAW["as it is"])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real research data, which is not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MMSA_EXT_DATA", default)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set MMSA_EXT_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder with inputs that once failed, which is not part of the project."""
    folder = Path(__file__).parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no inputs that once failed at {folder}")
    return folder


# A model of a user's own, as a module: the label from the means of audio.
OWN_MODEL = """
from torch import nn

from MMSA_ext.config.schema import RunConfig
from MMSA_ext.models.contract import MSAModel
from MMSA_ext.registry import register_model


class Means(MSAModel):
    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 1)

    def forward(self, inputs):
        means = inputs.audio.mean(dim=1)
        return {"M": self.head(means), "Feature_a": means, "Feature_f": means}


@register_model("means", config=RunConfig, paper="Mine")
def build(args):
    return Means(args.feature_dims[1])
"""


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a randomly initialised 2-layer BERT (hidden 16) and a 64-word tokenizer."""
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny_encoder"))


def write_tiny_encoder(folder: Path) -> Path:
    """The encoder of the fixture `tiny_encoder`."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(59))]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
            )
        )
    model.save_pretrained(folder)
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Carries a command line out in this process, which has imported what one of its own would.

    Patterns of files are filled in, as a shell does. What comes back is the exit code, and what
    was said. MMSA's loaders start no processes, which take longer than the tiny runs.
    """
    from MMSA_ext import cli

    def command(line: str) -> tuple[int, str]:
        words = shlex.split(line, comments=True)
        words += ["-n", "0"] if words[1:2] == ["run"] else []
        found = (sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in words)
        monkeypatch.setattr("sys.argv", list(chain.from_iterable(found)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def make_feature_data(
    counts: tuple[int, int, int] = (12, 6, 6), dataset: str = "mosi", seed: int = 0
) -> dict:
    """Random ragged data in MMSA's layout: text 10 tokens, audio 12 x 5, vision 8 x 4."""
    import numpy as np

    generator = np.random.default_rng(seed)
    data = {}
    for split, n in zip(("train", "valid", "test"), counts, strict=True):
        lengths = {
            "text": generator.integers(4, 11, n),
            "audio": generator.integers(3, 13, n),
            "vision": generator.integers(2, 9, n),
        }
        for values, longest in zip(lengths.values(), (10, 12, 8), strict=True):
            values[0] = longest
        mask = np.arange(10)[None] < lengths["text"][:, None]
        ids = generator.integers(5, 64, (n, 10)) * mask
        ids[:, 0] = 2
        ids[np.arange(n), lengths["text"] - 1] = 3
        frames = {}
        for name, longest, width in (("audio", 12, 5), ("vision", 8, 4)):
            valid = np.arange(longest)[None] < lengths[name][:, None]
            frames[name] = generator.normal(size=(n, longest, width)) * valid[..., None]
        scale = 1.0 if dataset == "sims" else 3.0
        # Mostly positive, so that any training beats the untrained model.
        labels = np.round(generator.uniform(-0.4, 1, n) * 5) / 5 * scale
        data[split] = {
            "raw_text": np.array([f"word{i} word{i + 1}" for i in range(n)]),
            "id": [f"{split}$_${i}" for i in range(n)],
            "text_bert": np.stack([ids, mask, np.zeros_like(ids)], axis=1).astype(np.float32),
            "text": generator.normal(size=(n, 10, 16)).astype(np.float32) * mask[..., None],
            "audio": frames["audio"].astype(np.float32),
            "vision": frames["vision"].astype(np.float32),
            "audio_lengths": lengths["audio"].tolist(),
            "vision_lengths": lengths["vision"].tolist(),
            "annotations": ["Positive" if y > 0 else "Negative" for y in labels],
            "regression_labels": labels.astype(np.float32),
            "classification_labels": (np.sign(labels) + 1).astype(np.int64),
        }
        if dataset == "sims":
            for name in "TAV":
                data[split][f"regression_labels_{name}"] = labels.astype(np.float32)
    return data


def train(
    model: str, features: Path, folder: Path, dataset: str = "mosi", *, config: dict, **more: object
) -> "SeedResult":
    """Train with one seed on the CPU, into one folder."""
    from MMSA_ext import MMSA_run

    options = {"seeds": [1], "gpu_ids": "cpu", "num_workers": 0, "verbose_level": 0} | more
    options |= dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), folder)
    (seed,) = MMSA_run(model, dataset, config=config, custom_feature=features, **options).seeds
    return seed


def loader_args(path: Path, **more: object) -> EasyDict:
    """What MMSA's own loader reads a feature file by."""
    args = EasyDict(dataset_name="mosi", featurePath=str(path), custom_feature=None, use_bert=True)
    args.update(feature_T=None, feature_A=None, feature_V=None, feature_dims=[0, 0, 0])
    args.update(need_data_aligned=False, batch_size=4)
    args.update(more)
    return args


@pytest.fixture
def feature_data() -> dict:
    """24 random samples in MMSA's layout, mosi."""
    return make_feature_data()


@pytest.fixture
def feature_file(tmp_path: Path, feature_data: dict) -> Path:
    """`feature_data` as a file."""
    import pickle

    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(feature_data, protocol=4))
    return path


# Small enough for seconds a test; every model of the package accepts these keys.
TINY_SHAPES = {"feature_dims": [16, 5, 4], "seq_lens": [10, 12, 8]}
TINY_TRAINING = {
    "num_epochs": 2,
    "warmup_ratio": 0.0,
    "batch_size": 4,
    "eval_batch_size": 4,
    "learning_rate": 1e-3,
    "dim": 16,
}
TINY_DASHFUSION = {"heads": 4, "feed_forward_dim": 32, "encoder_layers": 1, "candidates": 3}
# A random text encoder tells labels apart only after stage one, and by the mean of its tokens.
TINY_CONFEDE = {
    "dim": 32,
    "heads": 4,
    "audio_layers": 1,
    "vision_layers": 1,
    "candidates": 3,
    "text_pooling": "mean",
    "stage_one": {
        "text": {
            "epochs": 40,
            "batch_size": 6,
            "warmup_ratio": 0.0,
            "learning_rate": 5e-3,
            "frozen_share": 0.0,
        },
        "audio": {"epochs": 1, "batch_size": 6, "warmup_ratio": 0.0},
        "vision": {"epochs": 1, "batch_size": 6, "warmup_ratio": 0.0},
    },
}

TINY_ALMT = {"tokens": 4, "heads": 4, "head_dim": 8, "feed_forward_dim": 16}
# Of a mean absolute error the last bias gets no gradient where as many samples lie above as below.
TINY_DBF = {
    "heads": 4,
    "feed_forward_dim": 32,
    "fusion_layers": 2,
    "new_layers_learning_rate": None,
    "task_loss": "mse",
}
# Here the recurrent layers, too, follow `learning_rate`.
TINY_TETFN = {"heads": 4, "audio_kernel": 2, "vision_kernel": 3} | dict.fromkeys(
    ("new_layers_learning_rate", "audio_learning_rate", "vision_learning_rate")
)
TINY_FDMER = {"heads": 4, "feed_forward_dim": 32, "new_layers_learning_rate": None}


def tiny_config(model: str, encoder: Path, **more: object) -> dict:
    """Overrides that make `model` tiny."""
    shape: dict = TINY_DASHFUSION if model.startswith("dashfusion") else {}
    if model.startswith("confede"):
        shape = TINY_CONFEDE
    if model.startswith("almt"):
        shape = TINY_ALMT
    if model.startswith("dbf"):
        shape = TINY_DBF
    if model.startswith("fdmer"):
        shape = TINY_FDMER
    if model.startswith("cenet"):
        shape = {"task_loss": "mse"}  # as for DBF
    if model.startswith("tetfn"):
        shape = TINY_TETFN
    if model == "confede_infoenh":
        shape = shape | {"infoenh": {"k": 3, "d": 8}}
    if model == "dashfusion_released":
        shape = shape | {"reading.alignment_head_dim": 8}
    tiny = {"pretrained": str(encoder)} | TINY_TRAINING | shape | more
    if model.startswith("cenet"):  # as wide as its text encoder
        tiny.pop("dim")
    return tiny


CHROMIUM = (
    *("--headless", "--disable-gpu", "--no-first-run", "--window-size=1280,900"),
    # Chromium's own calls home; tests assert that pages make none.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-quic",
)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, driven by its WebDriver."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"not on the PATH: {', '.join(missing)}; Debian: chromium, chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in CHROMIUM:
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(programs["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
