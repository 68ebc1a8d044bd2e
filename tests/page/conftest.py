"""A page with two tiny models: one reads words, sound and pictures, the other words alone."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from MMSA_ext import Scorer
from MMSA_ext.page.checkpoints import Checkpoints
from MMSA_ext.page.desk import Desk
from MMSA_ext.page.server import application
from MMSA_ext.video import extract
from MMSA_ext.video.extractors import register_extractor, unregister_extractor
from tests.conftest import tiny_config, train
from tests.video.fakes import Brightness, Loudness, write_pictures


def tone(seconds: float) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * 220 * np.arange(round(44_100 * seconds)) / 44_100)


@pytest.fixture(autouse=True)
def extractors() -> Iterator[None]:
    register_extractor("loudness")(Loudness)
    register_extractor("brightness")(Brightness)
    yield
    for name in ("loudness", "brightness"):
        unregister_extractor(name)


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_encoder) -> Path:
    """Folder with `dashfusion.pth` and `text_only.pth`, trained on 16 small videos."""
    folder, made = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("models")
    rows = ["id,path,text,label,split"]
    for i in range(16):
        write_pictures(folder / f"v{i}.mp4", 0.6, 10 * i + 40, (0.02 + 0.02 * i) * tone(0.6))
        split = ("train", "train", "valid", "test")[i % 4]
        rows.append(f"v{i},v{i}.mp4,word{i} word{i + 1},{0.2 * i - 1:.1f},{split}")
    (folder / "corpus.csv").write_text("\n".join(rows))
    features = folder / "features.pkl"
    options = {"audio": Loudness(), "vision": Brightness(), "pretrained": str(tiny_encoder)}
    extract(folder / "corpus.csv", features, cache=False, progress=False, **options)
    for model in ("dashfusion", "text_only"):
        config = tiny_config(model, tiny_encoder, num_epochs=1)
        trained = train(model, features, folder, config=config).checkpoint
        shutil.copy(trained, made / f"{model}.pth")
    return made


@pytest.fixture(scope="session")
def scorer(models) -> Callable[[str], Scorer]:
    return lambda name: Scorer(models / f"{name}.pth", gpu_ids="cpu", too_long="pool")


@pytest.fixture(scope="session")
def desk(models) -> Desk:
    return Desk(Checkpoints([models / "text_only.pth"], models))


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def app(desk, uploads) -> Iterator[FastAPI]:
    with pytest.MonkeyPatch.context() as given_back:
        given_back.setenv("GRADIO_TEMP_DIR", "")
        yield application(desk, uploads)


@pytest.fixture(scope="session")
def client(app) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture
def video(tmp_path) -> Path:
    """0.6 s with a sound."""
    return write_pictures(tmp_path / "new.mp4", 0.6, 90, tone(0.6))
