"""Command `cache`: feature files that are kept as memory-mapped arrays, and extracted clips."""

import time
from typing import Annotated

import typer

from MMSA_ext.errors import ConfigError


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
) -> None:
    """List what the cache of feature files and extracted clips holds, or clear it."""
    from MMSA_ext.data import feature_cache
    from MMSA_ext.video.clip_cache import user_cache

    folder, clips = feature_cache.cache_folder(), user_cache()
    if folder is None or clips is None:
        typer.echo(f"The cache is off ({feature_cache.VARIABLE}).")
        return
    try:
        freed = feature_cache.clear() + clips.clear() if clear else 0
        kept = feature_cache.entries()
        tracks, size = len(clips.entries()), clips.size()
    except OSError as error:
        done = "removed" if clear else "read"
        raise ConfigError(
            f"{folder}: not everything could be {done} ({error}); end the runs that use it, or "
            "remove the folder by hand."
        ) from error
    if clear:
        typer.echo(f"{folder}: {freed / 2**20:.0f} MiB removed")
        return
    for entry in kept:
        day = time.strftime("%Y-%m-%d", time.localtime(entry.last_used))
        source = repr(entry.source) if entry.source else "damaged: made anew with its file"
        typer.echo(f"{entry.size / 2**20:8.0f} MiB  last used {day}  {source}")
    if tracks:
        typer.echo(f"{size / 2**20:8.0f} MiB  {tracks} modalities of clips, for `extract`")
    total = sum(entry.size for entry in kept) + size
    typer.echo(f"{folder}: {len(kept)} files, {total / 2**20:.0f} MiB")
