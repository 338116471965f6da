"""A repository whose pipeline has run, with a git server, and an S3 server on loopback."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.scratch import call, commit, make_scratch, with_lock_of_another_processor


@pytest.fixture(scope="session")
def base(photos: Path, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch repository after `dvc repro`, whose results are committed."""
    place = tmp_path_factory.mktemp("base") / "genie"
    make_scratch(place, photos, tiny_sd_folder, {})
    call(place, "dvc", "repro")
    commit(place)
    return place


@pytest.fixture
def cloned(base: Path, tmp_path: Path) -> Path:
    """A copy of `base` as the folder `genie`, with its cache and store, and with a git server.

    Its lock was committed on another kind of processor, so the results here differ from it.
    """
    call(tmp_path, "git", "clone", "--quiet", "--bare", str(base), "origin.git")
    shutil.copytree(base, tmp_path / "genie", symlinks=True)
    with_lock_of_another_processor(tmp_path / "genie")
    call(tmp_path / "genie", "git", "remote", "add", "origin", "../origin.git")
    call(tmp_path / "genie", "git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
    return tmp_path / "genie"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """The bucket `s3://bucket` of an S3 server; called, it lists what it holds."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="bucket")

    def keys() -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    yield keys
    server.stop()
