import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from genie.cli import fetch
from genie.cli.fetch import fetch_dataset, fetch_model, model_files
from genie.cli.main import main
from genie.core.errors import GenieError
from genie.data.readers import read_pools

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "model.fp16.safetensors": b"half",
    "pytorch_model.bin": b"pickle",
    "sub/merges.txt": b"a b",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    broken: str | None = None
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        match self.path.strip("/").split("/"):
            case ["api", "models" | "datasets", "me", name, "revision", revision]:
                self.info(name, revision)
            case ["me", name, "resolve", revision, *file] if revision == COMMIT:
                self.file(name, "/".join(file))
            case _:
                self.fail(404, "EntryNotFound")

    def info(self, name: str, revision: str) -> None:
        if self.refused(name):
            return
        if revision not in ("main", "v1", COMMIT):
            self.fail(404, "RevisionNotFound")
            return
        files = ["pytorch_model.bin"] if name == "pickled" else list(FILES)
        body = {"id": f"me/{name}", "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
        self.answer(json.dumps(body).encode())

    def refused(self, name: str) -> bool:
        token = self.headers.get("Authorization") == "Bearer secret"
        if name == "gated" and not token:
            self.fail(401, "GatedRepo")
        elif name == "forbidden":
            self.fail(403, "GatedRepo")
        elif name == "missing":
            self.fail(404, "RepoNotFound")
        else:
            return False
        return True

    def file(self, name: str, file: str) -> None:
        if file == type(self).broken:
            self.fail(410, "Broken")
        elif not self.refused(name):
            self.answer(FILES[file], ETag=f'"{len(file):064x}"', **{"X-Repo-Commit": COMMIT})

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[str]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(Hub, "asked", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_model_is_fetched_pinned_and_without_pickles(hub, tmp_path):
    folder = tmp_path / "models" / "tiny"
    assert fetch_model("me/tiny", folder, revision="v1", endpoint=hub) == COMMIT
    assert files_in(folder) == [
        *("config.json", "genie-fetch.json", "model.safetensors", "sub/merges.txt")
    ]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    record = json.loads((folder / "genie-fetch.json").read_text())
    assert record == {"id": "me/tiny", "kind": "model", "revision": "v1", "commit": COMMIT}
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_gated_model_is_fetched_with_the_token_of_the_environment(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch_model("me/gated", tmp_path / "x", endpoint=hub)
    assert (tmp_path / "x" / "model.safetensors").is_file()
    assert "secret" not in (tmp_path / "x" / "genie-fetch.json").read_text()


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("gated", "main", "me/gated is gated; accept its licence .* set HF_TOKEN"),
        ("forbidden", "main", "me/forbidden is gated"),
        ("missing", "main", "me/missing was not found on the hub"),
        ("tiny", "v2", "--revision must be a revision of me/tiny, got 'v2'"),
        ("pickled", "main", "me/pickled at main has no safetensors"),
    ],
)
def test_refusals_of_the_hub_are_one_line_and_leave_nothing(hub, tmp_path, name, revision, message):
    with pytest.raises(GenieError, match=message) as caught:
        fetch_model(f"me/{name}", tmp_path / "x", revision=revision, endpoint=hub)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_id_is_named(tmp_path):
    with pytest.raises(GenieError, match="a b was not found"):
        fetch_model("a b", tmp_path / "x", endpoint="http://127.0.0.1:9")


def test_no_network_is_one_line(tmp_path):
    with pytest.raises(GenieError, match=r"me/tiny could not be fetched \(.*check the network"):
        fetch_model("me/tiny", tmp_path / "x", endpoint="http://127.0.0.1:9")


def test_interrupted_download_leaves_no_folder_and_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "broken", "sub/merges.txt")
    with pytest.raises(GenieError, match=r"could not be fetched .* run the same command again"):
        fetch_model("me/tiny", tmp_path / "x", endpoint=hub)
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(Hub, "broken", None)
    fetch_model("me/tiny", tmp_path / "x", endpoint=hub)
    assert (tmp_path / "x" / "sub" / "merges.txt").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    with pytest.raises(GenieError, match="FOLDER must be a new or empty folder, got"):
        fetch_model("me/tiny", tmp_path / "x")


def test_local_folder_is_no_model_id(tmp_path):
    with pytest.raises(GenieError, match="ID must not be a local folder, got"):
        fetch_model(str(tmp_path), tmp_path / "x")


def test_single_file_checkpoints_beside_a_diffusers_folder_are_left_out():
    names = ["model_index.json", "v1-5-pruned.safetensors", "unet/x.safetensors", "LICENSE.md"]
    assert model_files(names) == ["LICENSE.md", "model_index.json", "unet/x.safetensors"]


def test_variant_is_taken_only_where_there_is_no_plain_file():
    names = ["unet/a.fp16.safetensors", "vae/b.safetensors", "vae/b.fp16.safetensors"]
    assert model_files(names) == ["unet/a.fp16.safetensors", "vae/b.safetensors"]


def test_sharded_variant_gives_way_to_plain_shards():
    shards = [f"m-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert model_files([*shards, "m.fp16-00001-of-00001.safetensors"]) == shards


def image_folder(root: Path) -> Path:
    for split in ("train", "test"):
        for i, label in enumerate(("cat", "dog")):
            file = root / split / label / f"{split}.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (100 * i, len(split), 0)).save(file)
    return root


def test_local_data_set_is_saved_and_read_back(tmp_path):
    pytest.importorskip("datasets")
    source = image_folder(tmp_path / "source")
    assert fetch_dataset(str(source), tmp_path / "saved") is None
    expected = read_pools(source)
    for table, other in zip(read_pools(tmp_path / "saved"), expected, strict=True):
        assert table.equals(other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved", "source"]


def test_folder_that_is_no_data_set_is_named(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "source").mkdir()
    with pytest.raises(GenieError, match="source"):
        fetch_dataset(str(tmp_path / "source"), tmp_path / "saved")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_hub_data_set_is_loaded_at_the_resolved_commit(hub, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*arguments, cache_dir, revision):
        asked.append((*arguments, revision))
        return datasets.Dataset.from_dict({"label": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert fetch_dataset("me/tiny", tmp_path / "x", config="small", endpoint=hub) == COMMIT
    assert asked == [("me/tiny", "small", COMMIT)]
    assert json.loads((tmp_path / "x" / fetch.RECORD).read_text())["commit"] == COMMIT


def test_command_says_what_was_made(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    result = CliRunner().invoke(main, ["fetch", "me/tiny", str(tmp_path / "x")])
    assert result.exit_code == 0
    assert f"model me/tiny ({COMMIT}) saved to {tmp_path / 'x'}" in result.stdout


def test_command_fails_with_one_line_on_stderr(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    result = CliRunner().invoke(
        main, ["fetch", "me/missing", str(tmp_path / "x"), "--kind", "dataset"]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: me/missing was not found")
