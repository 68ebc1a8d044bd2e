"""Shared models on the Hugging Face Hub: `push` uploads a folder, `pull` gets and checks one.

Tokens, endpoint, cache and offline mode are those of huggingface_hub: `hf auth login` or HF_TOKEN,
HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from MMSA_ext.errors import CheckpointError, ConfigError, HubError, MMSAExtError, first_line
from MMSA_ext.files import reason
from MMSA_ext.paths import expand, hub_name
from MMSA_ext.runs.model_card import PLACE
from MMSA_ext.runs.sharing import check_finished, save_pretrained
from MMSA_ext.training import model_folder
from MMSA_ext.version import __version__

__all__ = ["pull", "push"]

_SECONDS = 10.0  # for an answer to a question without content
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def push(
    model: str | Path,
    name: str,
    *,
    private: bool = False,
    results: str | Path | None = None,
    license: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    """Upload a trained model to the Hugging Face Hub, as one commit.

    Args:
        model: Folder of `save_pretrained`, whose card you have read; or a checkpoint, of which such
            a folder is made first.
        name: Repository, `owner/name`; made where it is missing.
        private: Whether it is to be seen by its owner alone.
        results: As for `save_pretrained`, as the next two; for a checkpoint.
        license: See `results`.
        overrides: See `results`.

    Returns:
        Its address.

    Raises:
        CheckpointError: There is no such model, or it is damaged.
        ConfigError: The name is none, an option has no effect on a folder, or as `save_pretrained`.
        HubError: The hub cannot be reached, or refuses.
    """
    repository, folder = _checked(name), Path(expand(model))
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{repository}: HF_HUB_OFFLINE is set, so nothing is uploaded; unset it.")
    if get_token() is None:
        raise HubError(f"{repository}: no token, without which nothing is uploaded; {_LOGIN}.")
    if folder.is_dir():
        check_finished(folder, results, license, overrides)
    with tempfile.TemporaryDirectory(prefix="mmsa-ext-push-") as scratch:
        if not folder.is_dir():
            made = Path(scratch, "model")
            options: dict[str, Any] = {"results": results, "license": license}
            folder = save_pretrained(folder, made, overrides=overrides, **options)
        model_folder.read(folder)
        with _as_sentences(repository):
            return _upload(folder, repository, private=private)


def pull(name: str, folder: str | Path | None = None, *, revision: str | None = None) -> Path:
    """Get a shared model from the Hugging Face Hub; nothing of it is run, and all is checked.

    Only files that belong to such a model are downloaded, and none of another repository's but its
    `config.json`, if it has one.

    Args:
        name: Repository, `owner/name` or `hf://owner/name`.
        folder: Where to put it, a folder that is new or empty; None leaves it in huggingface_hub's
            cache, from where it is taken without a network as well.
        revision: Branch, tag or commit; the main branch by default.

    Returns:
        Its folder, for `Scorer`, `load_model` and so on.

    Raises:
        CheckpointError: The repository holds no model of MMSA_ext, or a damaged one.
        ConfigError: The name is none, or the folder is there.
        HubError: The hub cannot be reached, or refuses; or it is not in the cache, in offline mode.
        WriteError: The disk refuses.
    """
    repository, target = _checked(name), None if folder is None else Path(expand(folder))
    if target is not None:
        model_folder.check_place(target)
    options: dict[str, Any] = {"etag_timeout": _SECONDS, "library_name": "MMSA_ext"}
    with _as_sentences(repository, revision):
        patterns = [model_folder.CONFIG]
        found = Path(
            snapshot_download(repository, revision=revision, allow_patterns=patterns, **options)
        )
    if not (found / model_folder.CONFIG).is_file():
        raise CheckpointError(
            f"{repository}: has no {model_folder.CONFIG}, so it is no model of MMSA_ext."
        )
    try:
        model_folder.read_facts(found)
        with _as_sentences(repository):  # all of one commit
            patterns = list(model_folder.PATTERNS)
            snapshot_download(repository, revision=found.name, allow_patterns=patterns, **options)
        model_folder.read(found)
    except CheckpointError as error:
        raise CheckpointError(
            f"{repository}: cannot be used: {error} This is the copy in the cache; delete its "
            "folder to have it downloaded anew."
        ) from error
    if target is None:
        return found
    model_folder.copy(found, target)
    return target


def _upload(folder: Path, repository: str, *, private: bool) -> str:
    api = HfApi(library_name="MMSA_ext")
    address = api.create_repo(repository, private=private or None, exist_ok=True)
    there = api.model_info(repository, timeout=_SECONDS)
    if private and not there.private:
        raise HubError(
            f"{repository}: is there already, and public; make it private on {address}, or choose "
            "another name."
        )
    names = model_folder.files(folder)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, folder / name) for name in names if name != model_folder.CARD
    ]
    if model_folder.CARD in names:
        text = (folder / model_folder.CARD).read_text(encoding="utf-8")
        content = text.replace(PLACE, repository).encode()
        operations.append(CommitOperationAdd(model_folder.CARD, content))
    # What an earlier model left there would be read with this one.
    operations += [
        CommitOperationDelete(name)
        for file in there.siblings or ()
        if (name := file.rfilename) not in names and name.startswith(f"{model_folder.ENCODER}/")
    ]
    api.create_commit(repository, operations, commit_message=f"A model of MMSA_ext {__version__}")
    return str(address)


def _checked(name: str) -> str:
    """`owner/name` of a repository."""
    repository = hub_name(name)
    try:
        if repository is not None:
            validate_repo_id(repository)
            return repository
    except HFValidationError:
        pass
    raise ConfigError(
        f"{name!r:.120} is no repository of the Hugging Face Hub; write owner/name, such as "
        "my-group/dashfusion-mosi."
    )


@contextmanager
def _as_sentences(repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence."""
    try:
        yield
    except MMSAExtError:
        raise
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise HubError(
                f"{repository}: HF_HUB_OFFLINE is set, and the local cache does not hold it; unset "
                "it once to download it."
            ) from error
        raise HubError(f"{repository}: {_unreachable(error)}") from error
    except GatedRepoError as error:
        raise HubError(
            f"{repository}: is gated; ask for access on {constants.ENDPOINT}/{repository}, and "
            f"{_LOGIN}."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repository}: has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repository}: {constants.ENDPOINT} has no such model, or it is private; look at the "
            f"name, and for a private one {_LOGIN}."
        ) from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise HubError(
                f"{repository}: {constants.ENDPOINT} refuses the token ({code}), or it may not do "
                f"this; {_LOGIN} with a token that may write to it."
            ) from error
        raise HubError(
            f"{repository}: {constants.ENDPOINT} answers {code}: {first_line(error)}"
        ) from error
    except Exception as error:  # of the network, the libraries below, the disk
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise HubError(f"{repository}: cannot be stored ({reason(error)}).") from error
        raise HubError(f"{repository}: {_unreachable(error)}") from error


def _unreachable(error: Exception) -> str:
    return f"{constants.ENDPOINT} cannot be reached, or broke off ({first_line(error)})."
