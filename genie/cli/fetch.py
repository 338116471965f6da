"""Downloads of models and data sets from the Hugging Face hub, pinned to a commit.

After the download, the folder is an ordinary local input, and no run needs the network.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from genie.core.errors import FailedError, InvalidValueError, MissingFileError, one_line

RECORD = "genie-fetch.json"
DOWNLOADED = re.compile(r"(\.(safetensors|json|txt|model|md)|(^|/)LICENSE[^/]*)$", re.IGNORECASE)
VARIANT = re.compile(r"[._-](fp16|fp32|bf16|non_ema|ema_only)(?=[.-])")


def fetch_model(
    repo_id: str, folder: Path, *, revision: str = "main", endpoint: str | None = None
) -> str:
    """Download a model's safetensors, configuration and licence to `folder`; return the commit.

    `revision` is a branch, tag or commit. The id, the revision and the commit (hex) that it pointed
    to are recorded in `folder/genie-fetch.json`. The token is read from the environment (HF_TOKEN).
    The folder is created when the download is complete; an interrupted download is resumed by the
    next call.
    """
    if Path(repo_id).is_dir():
        raise InvalidValueError(
            "must not be a local folder",
            argument="ID",
            value=repo_id,
            remedy="use its path in params.yaml",
        )
    _check_new(folder)
    with _hub_errors(repo_id, revision):
        info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision)
    commit = str(info.sha)
    names = model_files([file.rfilename for file in info.siblings or []])
    if not any(name.endswith(".safetensors") for name in names):
        raise InvalidValueError(
            f"{repo_id} at {revision} has no safetensors weights; other formats can execute code",
            remedy="choose another model or revision",
        )
    part = folder.parent / f".{folder.name}-{commit[:12]}.part"
    with _hub_errors(repo_id, revision):
        for name in names:
            hf_hub_download(repo_id, name, revision=commit, local_dir=part, endpoint=endpoint)
    shutil.rmtree(part / ".cache", ignore_errors=True)
    _finish(part, folder, id=repo_id, kind="model", revision=revision, commit=commit)
    return commit


def fetch_dataset(
    repo_id: str,
    folder: Path,
    *,
    revision: str = "main",
    config: str | None = None,
    endpoint: str | None = None,
) -> str | None:
    """Save a data set from the hub or a local folder to `folder`; return its commit.

    For a local data set, the commit is None. The data set is saved with `Dataset.save_to_disk`, and
    the folder can be used as `data.path`.
    """
    datasets = _import_datasets()
    _check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    commit = None
    if not Path(repo_id).is_dir():
        with _hub_errors(repo_id, revision):
            commit = HfApi(endpoint=endpoint).dataset_info(repo_id, revision=revision).sha
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        part = Path(made) / "part"
        with _hub_errors(repo_id, revision), _dataset_errors(repo_id, datasets):
            source = {} if commit is None else {"revision": commit}
            dataset = datasets.load_dataset(repo_id, config, cache_dir=f"{made}/cache", **source)
            dataset.save_to_disk(part)
        noted = None if commit is None else revision
        _finish(part, folder, id=repo_id, kind="dataset", revision=noted, commit=commit)
    return commit


def model_files(names: list[str]) -> list[str]:
    """Return the files to download from a model repository, sorted.

    These are safetensors, configuration, vocabulary and licence files. Two kinds of files are left
    out: single-file checkpoints next to the model_index.json of a diffusers folder, and variants
    (such as fp16) of files that also exist without a variant.
    """
    found = sorted(name for name in names if DOWNLOADED.search(name))
    if "model_index.json" in found:
        found = [n for n in found if "/" in n or not n.endswith(".safetensors")]
    plain = {_plain(n) for n in found if not VARIANT.search(n)}
    return [n for n in found if not VARIANT.search(n) or _plain(n) not in plain]


def _plain(name: str) -> str:
    """Return a file name without its variant and shard number."""
    return re.sub(r"-\d{5}-of-\d{5}", "", VARIANT.sub("", name))


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValueError(
            "must be a new or empty folder",
            argument="FOLDER",
            value=str(folder),
            remedy="remove it or choose another folder",
        )


def _finish(part: Path, folder: Path, **record: str | None) -> None:
    (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if folder.is_dir():
        folder.rmdir()
    part.rename(folder)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FailedError(
            "fetching a data set needs the package datasets",
            remedy="install it with `pip install .[hub]`",
        ) from error
    return datasets


@contextmanager
def _hub_errors(repo_id: str, revision: str) -> Iterator[None]:
    """Convert the hub's errors to a GenieError with a remedy."""
    try:
        yield
    except GatedRepoError as error:
        raise FailedError(
            f"{repo_id} is gated",
            remedy="accept its licence on the hub, then set HF_TOKEN to a token of that account",
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidValueError(
            f"must be a revision of {repo_id}",
            argument="--revision",
            value=revision,
            remedy="give a branch, tag or full commit",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise MissingFileError(
            f"{repo_id} was not found on the hub",
            remedy="check the id and --kind, or set HF_TOKEN if it is private",
        ) from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        raise FailedError(
            f"{repo_id} could not be fetched ({one_line(error)})",
            remedy="check the network and HF_HUB_OFFLINE, then run the same command again",
        ) from error


@contextmanager
def _dataset_errors(repo_id: str, datasets: Any) -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        RuntimeError,
        FileNotFoundError,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise InvalidValueError(
            f"{repo_id} cannot be read as a data set: {one_line(error)}"
        ) from error
