"""A page with two tiny models: one reads words, sound and pictures, the other words alone."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from MMSA_ext import Scorer
from MMSA_ext.page.checkpoints import Checkpoints
from MMSA_ext.page.desk import Desk
from MMSA_ext.page.server import application
from tests.video.fakes import registered, tone, write_pictures
from tests.video.trained import trained_on_videos


@pytest.fixture(autouse=True)
def extractors() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_encoder) -> Path:
    """Folder with `dashfusion.pth` and `text_only.pth`, trained on 16 small videos."""
    made = tmp_path_factory.mktemp("models")
    trained = trained_on_videos(tmp_path_factory.mktemp("videos"), tiny_encoder, 16)
    for model, checkpoint in trained.items():
        shutil.copy(checkpoint, made / f"{model}.pth")
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
