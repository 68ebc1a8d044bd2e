"""Checkpoints of small videos."""

from pathlib import Path

from MMSA_ext.video import extract
from tests.conftest import tiny_config, train
from tests.video.fakes import Brightness, Loudness, tone, write_pictures


def trained_on_videos(folder: Path, encoder: Path, count: int = 8) -> dict[str, Path]:
    """Checkpoints of dashfusion and text_only, trained on some small videos."""
    rows = ["id,path,text,label,split"]
    for i in range(count):
        share = i / count
        video = folder / f"v{i}.mp4"
        write_pictures(video, 0.6, int(160 * share) + 40, (0.02 + 0.32 * share) * tone(0.6))
        split = ("train", "train", "valid", "test")[i % 4]
        rows.append(f"v{i},v{i}.mp4,word{i} word{i + 1},{3.2 * share - 1:.1f},{split}")
    (folder / "corpus.csv").write_text("\n".join(rows))
    features = folder / "features.pkl"
    options = {"audio": Loudness(), "vision": Brightness(), "pretrained": str(encoder)}
    extract(folder / "corpus.csv", features, cache=False, progress=False, **options)
    return {
        model: train(
            model, features, folder, config=tiny_config(model, encoder, num_epochs=1)
        ).checkpoint
        for model in ("dashfusion", "text_only")
    }
