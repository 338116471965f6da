"""What the program reads from elsewhere runs no code and leads nowhere (reliability.md)."""

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from genie.classify.backbone import load_backbone, load_oracle
from genie.classify.clip import load_clip
from genie.cli.main import main as genie
from genie.core.errors import GenieError
from genie.data.augmented_set import read_set
from genie.data.images import encode_png
from genie.data.readers import read_pools
from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from genie.settings import read_yaml
from tests.fuzzing import png_of_size

ROOT = Path(__file__).parent.parent
CODE = [path for room in ("genie", "stages", "protocols") for path in (ROOT / room).rglob("*.py")]


def calls(name: str) -> Iterator[tuple[str, set[str]]]:
    """Where a method or function of a name is called, and with which keywords."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == name:
                where = f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(called)}"
                keywords = {k.arg or ast.unparse(k.value) for k in node.keywords}
                yield where, keywords


def test_every_model_is_loaded_from_local_safetensors_without_code_of_its_own():
    found = dict(calls("from_pretrained"))
    assert len(found) > 5
    for where, keywords in found.items():
        if "options" in keywords or where.endswith("GeNIe.from_pretrained"):
            continue  # checked by the tests below
        assert "local_files_only" in keywords, where
        if not where.endswith(("AutoTokenizer.from_pretrained", "AutoProcessor.from_pretrained")):
            assert keywords & {"use_safetensors", "trust_remote_code"}, where
        if " Auto" in where:
            assert "trust_remote_code" in keywords, where


def test_checkpoints_are_read_as_tensors_alone():
    for where, keywords in calls("load"):
        if "torch.load" in where:
            assert "weights_only" in keywords, where


def test_yaml_is_read_as_data():
    assert [where for where, _ in calls("load") if "yaml.load" in where] == []
    assert [where for where, _ in calls("unsafe_load")] == []


BOMB = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("kind", ["backbone", "oracle", "clip"])
def test_code_that_a_model_brings_along_does_not_run(kind, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "zoo" / kind, folder)
    (folder / "bomb.py").write_text(BOMB + "class Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForImageClassification")
    config |= {"model_type": "bomb", "auto_map": {name: "bomb.Model" for name in names}}
    (folder / "config.json").write_text(json.dumps(config))
    load = {
        "backbone": load_backbone,
        "oracle": load_oracle,
        "clip": lambda path: load_clip(path, argument="clip"),
    }[kind]
    with pytest.raises(GenieError, match="model"):
        load(folder)
    assert not (folder / "ran").exists()


def test_code_that_a_generator_brings_along_does_not_run(tiny_sd_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd_folder, folder)
    (folder / "bomb.py").write_text(BOMB + "class Model: pass\n")
    (folder / "unet/bomb.py").write_text(BOMB + "class Model: pass\n")
    index = json.loads((folder / "model_index.json").read_text())
    for change in ({"_class_name": ["bomb", "Model"]}, {"unet": ["bomb", "Model"]}):
        (folder / "model_index.json").write_text(json.dumps(index | change))
        with pytest.raises(GenieError):
            load_generator(folder, RenderSettings(compile=False), device="cpu")
    assert not list(folder.rglob("ran"))


def test_yaml_that_would_run_code_is_an_error(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(GenieError, match="not valid YAML"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()


def test_yaml_that_grows_without_end_is_named_at_once(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([*levels, "seed: *a11"]) + "\n")
    code = "import sys; from pathlib import Path; from genie.settings import read_params; "
    code += "read_params(Path(sys.argv[1]))"
    done = subprocess.run(
        ["python", "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "InvalidValueError" in done.stderr.splitlines()[-1]
    assert len(done.stderr) < 10_000


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "bag/../../secret.png"])
def test_table_cannot_name_an_image_outside_the_set(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(encode_png(Image.new("RGB", (8, 8))))
    (tmp_path / "set/bag").mkdir(parents=True)
    with pytest.raises(GenieError, match="must name files inside"):
        read_set(tmp_path / "set", pd.DataFrame({"file_name": [name]}))[1][0]


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png"])
def test_parquet_file_cannot_name_an_image_outside_its_folder(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(encode_png(Image.new("RGB", (8, 8))))
    (tmp_path / "data").mkdir()
    rows = [{"image": {"bytes": None, "path": name}, "label": label} for label in "ab"]
    pd.DataFrame(rows).to_parquet(tmp_path / "data/images.parquet")
    with pytest.raises(GenieError, match="must name files inside"):
        read_pools(tmp_path / "data/images.parquet")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_image_with_too_many_pixels_is_named_and_not_decoded(side, tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(encode_png(Image.new("RGB", (8, 8))))
    (tmp_path / "a/bomb.png").write_bytes(png_of_size(side, side))
    with pytest.raises(GenieError, match=r"a/bomb.png \(too many pixels, make it smaller\)"):
        read_pools(tmp_path)


def test_damaged_image_of_the_set_is_named_with_the_remedy(tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/a.png").write_bytes(b"broken")
    with pytest.raises(GenieError, match=r"bag/a.png must be an image .* `genie verify --repair`"):
        read_set(tmp_path, pd.DataFrame({"file_name": ["bag/a.png"]}))[1][0]


def test_token_is_not_told_when_a_download_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(genie, ["fetch", "someone/model", "models/new"])
    assert result.exit_code == 1
    assert "someone/model could not be fetched" in result.stderr
    assert "hf_secret" not in result.output + result.stderr
    assert not any(b"hf_secret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_packages_are_audited_and_each_exception_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if line.startswith("EXCEPTIONS"))
    for exception in line.partition(":=")[2].partition("#")[0].split():
        assert exception in (ROOT / "docs/reference/reliability.md").read_text()
