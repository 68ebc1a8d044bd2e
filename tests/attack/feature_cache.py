"""Damage to the cache of feature files: no reading may fail, or give anything else.

Of each try there are three readings: the one that fills the cache, the one that hashes it and notes
so, and, after the damage, the one that counts. It must be the same, to the last bit, as without a
cache. `DAMAGES` has their names; what changes bytes of a file and no more is left to the random
damage. Where a damage is forged, the manifest's digest is made to fit, so that what is behind it
meets nonsense; nonsense only, because whoever forges sound values in the user's own folder decides
what is read.
"""

import hashlib
import json
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from MMSA_ext.data import feature_cache
from MMSA_ext.data.features import FeatureSet, read_features, write_features
from tests.attack.operations import forked, watched
from tests.attack.tally import HangError, Tally, damaged_somewhere, limited
from tests.conftest import make_feature_data
from tests.data.comparing import assert_same_features as assert_same
from tests.data.comparing import is_mapped

TRIES = 500  # of random damage
READ = ("made anew", "read in full", "read from the cache, which is sound")
KILLED = ("the entry is complete", "there is no entry")
CROWDED = ("the same, mapped", "the same, read in full", "listed", "cleared", "source replaced")
_NOBODY = 65534


@dataclass(frozen=True)
class Target:
    """What is damaged.

    Attributes:
        source: feature file.
        entry: what the cache holds of it.
        note: when and with which stat the entry was hashed.
        lock: held while the entry is written.
        old: entry of the same file from before it changed.
        random: source of what is random.
    """

    source: Path
    entry: Path
    note: Path
    lock: Path
    old: Path
    random: random.Random

    @property
    def folder(self) -> Path:
        return self.entry.parent

    @cached_property
    def other(self) -> Path:
        """The entry of another feature file of the same size, which is hashed and noted as well."""
        for _ in range(2):
            read_features(self.source.with_name("other.pkl"))
        (other,) = set(self.folder.glob("*.arrays")) - {self.entry}
        return other


Damage = Callable[[Target], Any]

Damage = Callable[[Target], Any]


# --- What is written to a file in place ---------------------------------------------------------


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        file.write(content)


def flip(path: Path, place: int, bit: int = 3) -> None:
    """Change one bit; the place counts from the end if negative."""
    place %= path.stat().st_size
    overwrite(path, place, bytes([path.read_bytes()[place] ^ 1 << bit]))


@contextmanager
def times_kept(path: Path) -> Iterator[None]:
    """Afterwards a file has the times of content and access that it had before."""
    found = path.stat()
    yield
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def manifest(path: Path) -> tuple[dict[str, Any], list[list[Any]], int]:
    """Values, arrays and where the manifest begins."""
    content = path.read_bytes()
    size, _ = feature_cache._END.unpack(content[-feature_cache._END.size :])
    start = len(content) - feature_cache._END.size - size
    values, arrays = json.loads(content[start : start + size])
    return values, arrays, start


def labels(path: Path) -> int:
    """Where a small array of an entry begins."""
    (form,) = [form for form in manifest(path)[1] if form[:2] == ["train", "regression_labels"]]
    return int(form[4])


def forge(path: Path, text: str | Callable[[Any], Any]) -> None:
    """Write another manifest, with a digest that fits."""
    values, arrays, start = manifest(path)
    if not isinstance(text, str):
        parts = [values, arrays]
        text = json.dumps(text(parts) or parts)
    content = text.encode()
    end = feature_cache._END.pack(len(content), hashlib.sha256(content).digest())
    path.write_bytes(path.read_bytes()[:start] + content + end)


def in_manifest(path: Path, old: bytes, new: bytes) -> None:
    """Exchange text of the same length in a manifest, whose digest stays."""
    overwrite(path, path.read_bytes().index(old, manifest(path)[2]), new)


def through_a_map(path: Path) -> None:
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[1000] ^= 8
        shared.flush()


def through_another_name(path: Path) -> None:
    name = path.with_name("second-name")
    name.hardlink_to(path)
    flip(name, 1000)
    name.unlink()


def by_a_copy(path: Path) -> None:
    copy = Path(shutil.copy2(path, path.with_name("copy")))
    with times_kept(copy):
        flip(copy, 1000)
    copy.replace(path)


def cut_and_filled_up(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, 8192)
    os.truncate(path, size)


def unseen(act: Callable[[Path], Any]) -> Damage:
    """A damage to the entry after which its times are restored."""

    def damaged(t: Target) -> None:
        with times_kept(t.entry):
            act(t.entry)

    return damaged


DAMAGES: dict[str, Damage] = {
    "a bit of a mapped array": lambda t: flip(t.entry, 1000),
    "a bit of a small array": lambda t: flip(t.entry, labels(t.entry)),
    "a bit of the manifest": lambda t: flip(t.entry, -300),
    "two splits' ids exchanged in the manifest": lambda t: in_manifest(
        t.entry, b"valid$_$0", b"tests$_$0"
    ),
    "another length in the manifest": lambda t: in_manifest(
        t.entry, b'"audio_lengths": [12', b'"audio_lengths": [11'
    ),
    "another finding in the manifest": lambda t: in_manifest(
        t.entry, b'"not_numbers": 1', b'"not_numbers": 0'
    ),
    "the highest bit of the manifest's size": lambda t: flip(t.entry, -33, 7),
    "a bit of the manifest's digest": lambda t: flip(t.entry, -1),
    "a bit of the note": lambda t: flip(t.note, 5),
    "nothing is left": lambda t: os.truncate(t.entry, 0),
    "a terabyte, of which nothing is on the disk": lambda t: os.truncate(t.entry, 1 << 40),
    "a bit, mtime restored": unseen(lambda path: flip(path, 1000)),
    "a bit through a shared map, mtime restored": unseen(through_a_map),
    "a bit through another name of the file, mtime restored": unseen(through_another_name),
    "a damaged copy renamed into place, times as the original's": lambda t: by_a_copy(t.entry),
    "truncated and filled up with zeros, mtime restored": unseen(cut_and_filled_up),
}


# --- Nonsense behind a digest that fits ---------------------------------------------------------


def of_audio(place: int, value: Any) -> Callable[[Any], Any]:
    """Another dtype (2), shape (3), start (4) or digest (5) of an array."""

    def change(parts: Any) -> None:
        (form,) = [form for form in parts[1] if form[:2] == ["train", "audio"]]
        form[place] = value

    return change


def under(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda parts: parts[0].__setitem__(key, value)


FORGED: dict[str, str | Callable[[Any], Any]] = {
    "no JSON": "{",
    "an empty manifest": "",
    "a manifest nested 200,000 deep": "[" * 200_000 + "]" * 200_000,
    "a number of 10,000 digits": "9" * 10_000,
    "the manifest is null": "null",
    "the manifest is a list of lists": "[[], []]",
    "two empty objects": "[{}, {}]",
    "no data": lambda parts: parts[0].pop("data") and None,
    "data is a list": under("data", []),
    "splits are numbers": under("data", {"train": 1, "valid": 2, "test": 3}),
    "findings are a text": under("known", "none"),
    "a finding that is not known": under("known", {"train": {"audio": {"no_such_field": 1}}}),
    "another version": under("version", "0"),
    "another source": under("source", ["/elsewhere.pkl", 1, 2, 3, 4]),
    "arrays are a number": lambda parts: [parts[0], 7],
    "dtype object": of_audio(2, "|O8"),
    "dtype void": of_audio(2, "|V4"),
    "dtype with fields": of_audio(2, "i4,(1000000,)i8"),
    "dtype of a gigabyte": of_audio(2, "<U268435456"),
    "dtype is a number": of_audio(2, 5),
    "a negative shape": of_audio(3, [-12, -12, 5]),
    "a shape of 2^80": of_audio(3, [1 << 40, 1 << 40]),
    "a shape of texts": of_audio(3, ["12", "12", "5"]),
    "a shape of fractions": of_audio(3, [1.5, 2.0]),
    "no shape": of_audio(3, None),
    "a start behind the end": of_audio(4, 1 << 50),
    "a negative start": of_audio(4, -64),
    "a start off by one": of_audio(4, 1),
    "no digest": of_audio(5, None),
}
DAMAGES |= {
    f"forged: {name}": lambda t, text=text: forge(t.entry, text) for name, text in FORGED.items()
}


# --- Other things in the place of a file --------------------------------------------------------


def instead(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened, chdir(path.parent):  # its name must be short
        opened.bind(path.name)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 34)


THINGS: dict[str, Callable[[Path], Any]] = {
    "absent": lambda path: None,
    "a folder": Path.mkdir,
    "a folder with files": lambda path: (path.mkdir(), (path / "file").touch()),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to a folder": lambda path: path.symlink_to("/"),
    "16 GiB of nothing": _sparse,
    "a text": lambda path: path.write_text("(1, 2, 3, 4)\n"),
}


def exchange(t: Target) -> None:
    t.entry.rename(t.entry.with_name("third"))
    t.other.rename(t.entry)
    t.entry.with_name("third").rename(t.other)


def leave_over(t: Target) -> None:
    flip(t.entry, 1000)
    (t.folder / ".unfinished-file").touch()
    os.mkfifo(t.folder / ".unfinished-pipe")
    (t.folder / ".unfinished-folder").mkdir()


for name, make in THINGS.items():
    DAMAGES |= {
        f"the entry is {name}": lambda t, make=make: instead(t.entry, make),
        f"the note is {name}": lambda t, make=make: instead(t.note, make),
    }
    if name in ("a folder", "a pipe", "a link to nothing"):
        DAMAGES[f"the lock is {name}, the entry is damaged"] = lambda t, make=make: (
            flip(t.entry, 1000),
            instead(t.lock, make),
        )
DAMAGES |= {
    "the entry is another file's": lambda t: shutil.copyfile(t.other, t.entry),
    "the entry is another file's, with its note": lambda t: [
        shutil.copy2(t.other.with_suffix(suffix), t.entry.with_suffix(suffix))
        for suffix in (t.entry.suffix, t.note.suffix)
    ],
    "the entry is a link to another file's": lambda t: instead(
        t.entry, lambda path: path.symlink_to(t.other)
    ),
    "the entry is from before the file changed": lambda t: shutil.copy2(t.old, t.entry),
    "the note is another file's": lambda t: shutil.copyfile(
        t.other.with_suffix(t.note.suffix), t.note
    ),
    "two entries exchanged": exchange,
    "the folder is removed": lambda t: shutil.rmtree(t.folder),
    "the folder is a link to itself": lambda t: (
        shutil.rmtree(t.folder),
        t.folder.symlink_to(t.folder.name),
    ),
    "leftovers of all kinds, the entry is damaged": leave_over,
    "the source is a link to another file": lambda t: instead(
        t.source, lambda path: path.symlink_to("other.pkl")
    ),
    "the source's time is changed, its content is not": lambda t: os.utime(t.source, (1, 1)),
}


# --- What goes on while the entry is read -------------------------------------------------------


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def modes(wanted: dict[Path, int]) -> Iterator[None]:
    """As nobody, with files that have other modes."""
    before = {path: path.stat().st_mode for path in wanted}
    for path, mode in wanted.items():
        path.chmod(mode)
    try:
        with nobody():
            yield
    finally:
        for path, mode in before.items():
            if path.exists():
                path.chmod(mode)


@contextmanager
def before(module: Any, name: str, act: Callable[[], Any]) -> Iterator[None]:
    """Act once, just before a function is called for the first time."""
    original, todo = getattr(module, name), [act]

    def called(*args: Any, **options: Any) -> Any:
        if todo:
            todo.pop()()
        return original(*args, **options)

    with mock.patch.object(module, name, called):
        yield


@contextmanager
def below_the_file_system(t: Target, place: int, seconds: float) -> Iterator[None]:
    """A bit that changes no stat, some seconds after the entry was hashed."""
    status, original = feature_cache._status(t.entry), feature_cache._status
    flip(t.entry, place)
    then = time.time() - seconds
    os.utime(t.note, (then, then))

    def unchanged(file: Path | int) -> tuple[int, ...]:
        found = original(file)
        return status if found[3:] == status[3:] else found

    with mock.patch.object(feature_cache, "_status", unchanged):
        yield


def failing(module: Any, name: str, error: BaseException) -> Any:
    return mock.patch.object(module, name, side_effect=error)


def damaged(t: Target, circumstance: Any) -> Any:
    flip(t.entry, 1000)
    return circumstance


def unnoted(t: Target, circumstance: Any) -> Any:
    t.note.unlink()
    return circumstance


CIRCUMSTANCES: dict[str, Damage] = {
    "the entry may not be read": lambda t: modes({t.entry: 0, t.lock: 0o666, t.folder: 0o777}),
    "the note may not be read": lambda t: modes({t.note: 0, t.folder: 0o777}),
    "nothing may be read or written": lambda t: modes({t.entry: 0, t.note: 0, t.folder: 0o555}),
    "the folder may not be entered": lambda t: modes({t.folder: 0}),
    "the folder may not be written to, a bit": lambda t: damaged(t, modes({t.folder: 0o555})),
    "the folder may not be written to, no note": lambda t: unnoted(t, modes({t.folder: 0o555})),
    "another user's lock, a bit": lambda t: damaged(t, modes({t.lock: 0o600, t.folder: 0o777})),
    "the entry vanishes before it is opened": lambda t: before(
        feature_cache, "_open_file", t.entry.unlink
    ),
    "the folder vanishes before the entry is opened": lambda t: before(
        feature_cache, "_open_file", lambda: shutil.rmtree(t.folder)
    ),
    "the entry vanishes once it is open": lambda t: before(
        feature_cache, "_manifest", t.entry.unlink
    ),
    "another entry takes its place once it is open": lambda t: before(
        feature_cache, "_manifest", partial(t.other.replace, t.entry)
    ),
    "truncated before it is mapped": lambda t: before(
        np, "memmap", lambda: os.truncate(t.entry, 100)
    ),
    "emptied before it is mapped": lambda t: before(np, "memmap", lambda: os.truncate(t.entry, 0)),
    "truncated while it is hashed": lambda t: unnoted(
        t, before(feature_cache, "_digest", lambda: os.truncate(t.entry, 100))
    ),
    "the disk cannot read it": lambda t: unnoted(
        t, failing(feature_cache, "_digest", OSError(5, "Input/output error"))
    ),
    "files cannot be mapped": lambda t: failing(np, "memmap", OSError(19, "No such device")),
    "no memory for the manifest": lambda t: failing(json, "loads", MemoryError()),
    "a bit of the manifest, below the file system": lambda t: below_the_file_system(t, -300, 60),
    "a bit of the labels, below the file system": lambda t: below_the_file_system(
        t, labels(t.entry), 60
    ),
    "a bit of a mapped array, below the file system, a day later": lambda t: below_the_file_system(
        t, 1000, 86_401
    ),
}


# --- Running them -------------------------------------------------------------------------------


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder with a cache that takes small files and hashes them without waiting."""
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    folder.chmod(0o755)
    try:
        features(folder / "copy.pkl", 0)
        with (
            mock.patch.dict(os.environ, {feature_cache.VARIABLE: str(folder / "cache")}),
            mock.patch.object(feature_cache, "_SMALLEST_BYTES", 1),
            mock.patch.object(feature_cache, "_SMALL_BYTES", 512),
            mock.patch.object(feature_cache, "_TICK_NS", 0),
            mock.patch.object(os, "fsync"),  # no machine stops here
        ):
            yield folder
    finally:
        shutil.rmtree(folder)


def features(path: Path, seed: int, counts: tuple[int, int, int] = (12, 6, 6)) -> Path:
    """A feature file with something to mend, and lengths to derive."""
    data = make_feature_data(counts, seed=seed)
    data["train"]["audio"][4, 2, 1] = np.nan
    for split in data.values():
        del split["vision_lengths"]
    return write_features(path, data)


def prepared(folder: Path, seed: int = 0) -> Target:
    """A file that is kept, and whose entry is hashed."""
    source, old, maps = folder / "base.pkl", folder / "old.arrays", folder / "cache/feature_maps"
    if not old.exists():
        features(folder / "other.pkl", 1)
        read_features(features(source, 2))
        next(maps.glob("*.arrays")).rename(old)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    if source.is_symlink() or source.read_bytes() != (folder / "copy.pkl").read_bytes():
        source.unlink()
        shutil.copy(folder / "copy.pkl", source)
    for _ in range(2):
        read_features(source)
    (entry,) = maps.glob("*.arrays")
    note = entry.with_suffix(".checked")
    assert note.exists()
    return Target(source, entry, note, entry.with_suffix(".lock"), old, random.Random(seed))


def outcome(target: Target, circumstances: Any = None) -> str:
    """How a reading ends."""
    expected = read_features(target.source, cache=False)
    spied = mock.patch.object(feature_cache, "load_file", wraps=feature_cache.load_file)
    try:
        with limited(30), circumstances or nullcontext(), spied as spy:
            assert_same(read_features(target.source), expected)
            if not spy.called:
                return "read from the cache, which is sound"
            spy.reset_mock()
            assert_same(read_features(target.source), expected)
            return "read in full" if spy.called else "made anew"
    except AssertionError:
        return "silent difference"
    except HangError:
        return "hang"
    except Exception as error:
        return f"exception {type(error).__name__}"


def named() -> Tally:
    """Every damage and circumstance that has a name."""
    tally = Tally("named damage to the cache of feature files", READ)
    with workshop() as folder:
        for name, act in (DAMAGES | CIRCUMSTANCES).items():
            target = prepared(folder, 0)
            found = act(target)
            tally.add(outcome(target, found if name in CIRCUMSTANCES else None), name)
    return tally


def randomly(tries: int, seed: int = 0) -> Tally:
    """Random damage to the entry or its note, times restored or not."""
    tally = Tally("random damage to the cache of feature files", READ)
    rng = random.Random(seed)
    with workshop() as folder:
        target = prepared(folder, seed)
        for number in range(tries):
            for path in rng.choice(((target.entry,), (target.note,), (target.entry, target.note))):
                with times_kept(path) if rng.random() < 0.5 else nullcontext():
                    path.write_bytes(damaged_somewhere(path.read_bytes(), rng))
            tally.add(outcome(target), f"try {number}")
            read_features(target.source)  # hashed and noted again
    return tally


# --- Killed writers, and many processes ---------------------------------------------------------


def _after_a_kill(source: Path, expected: FeatureSet, folder: Path) -> str:
    """What a killed writer left, and whether the next one tidies."""
    kept = list(folder.glob("*.arrays"))
    try:
        assert_same(read_features(source), expected)
        for path in kept:
            path.unlink()
        assert_same(read_features(source), expected)
    except AssertionError:
        return "silent difference"
    except Exception as error:
        return f"exception {type(error).__name__}"
    if not {path.suffix for path in folder.iterdir()} <= {".arrays", ".checked", ".lock"}:
        return "leftovers stay"
    return "the entry is complete" if kept else "there is no entry"


def kills(tries: int, seed: int = 0) -> Tally:
    """Writers that are killed: first at each of their file operations, then at random moments."""
    tally = Tally("killed while the cache is filled", KILLED)
    counts, rng = (2000, 500, 500), random.Random(seed)
    with workshop() as folder:
        source, maps = features(folder / "base.pkl", 0, counts), folder / "cache" / "feature_maps"
        expected = read_features(source, cache=False)
        _, operations = watched(lambda: read_features(source))
        for due in range(1, operations + 1):
            shutil.rmtree(maps)
            watched(lambda: read_features(source), due)
            tally.add(_after_a_kill(source, expected, maps), f"file operation {due}")
        began = time.perf_counter()
        shutil.rmtree(maps)
        os.waitpid(forked(lambda: read_features(source)), 0)
        seconds = time.perf_counter() - began
        for number in range(tries):
            shutil.rmtree(maps, ignore_errors=True)
            child = forked(lambda: read_features(source))
            time.sleep(rng.uniform(0, 1.1) * seconds)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            tally.add(_after_a_kill(source, expected, maps), f"random kill {number}")
    return tally


def _busy(folder: Path, worker: int, steps: int, results: Any) -> None:
    rng = random.Random(worker)
    sources = [folder / name for name in ("base.pkl", "other.pkl", "changing.pkl")]
    expected = {
        found.fingerprint: found
        for path in folder.glob("version*.pkl")
        for found in [read_features(path, cache=False)]
    }
    for _ in range(steps):
        act = rng.random()
        try:
            if act < 0.1:
                feature_cache.clear()
                found = "cleared"
            elif act < 0.2:
                feature_cache.entries()
                found = "listed"
            elif act < 0.3 and worker == 0:
                copy = folder / "next.pkl"
                shutil.copy(folder / f"version{rng.randrange(3)}.pkl", copy)
                copy.replace(sources[2])
                found = "source replaced"
            else:
                read = read_features(rng.choice(sources))
                _same_content(read, expected[read.fingerprint])
                mapped = is_mapped(read.splits["train"].audio)
                found = f"the same, {'mapped' if mapped else 'read in full'}"
        except AssertionError:
            found = "silent difference"
        except Exception as error:
            found = f"exception {error!r}"
        results.put(found)


def _same_content(found: FeatureSet, expected: FeatureSet) -> None:
    found.report.path = expected.report.path
    assert_same(replace(found, path=expected.path), expected)


def crowd(processes: int = 8, steps: int = 60) -> Tally:
    """Processes that read three files, one of which changes, list the cache and clear it."""
    tally = Tally(f"{processes} processes at once", CROWDED)
    context = multiprocessing.get_context("fork")
    with workshop() as folder:
        for number in range(3):
            features(folder / f"version{number}.pkl", number, (200, 50, 50))
        for name, number in (("base.pkl", 0), ("other.pkl", 1), ("changing.pkl", 2)):
            shutil.copy(folder / f"version{number}.pkl", folder / name)
        results = context.SimpleQueue()
        workers = [
            context.Process(target=_busy, args=(folder, worker, steps, results))
            for worker in range(processes)
        ]
        for worker in workers:
            worker.start()
        for _ in range(processes * steps):
            found = results.get()
            tally.add(found, found)
        for worker in workers:
            worker.join()
    return tally


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """All tables."""
    yield named()
    yield randomly(tries)
    yield kills(tries // 10)
    yield crowd()
