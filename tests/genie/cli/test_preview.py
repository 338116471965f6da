"""`genie preview` with a tiny generator, as a user calls it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genie.classify.backbone import embed, load_backbone
from genie.cli.main import main
from genie.cli.preview import summary
from genie.core.tables import write_images
from genie.data.images import decode_image
from genie.pipeline import HardNegative

ROOT = Path(__file__).parents[3]
BACKBONE = ROOT / "zoo/backbone"


@pytest.fixture
def project(tmp_path, tiny_sd_folder, source_images, monkeypatch) -> Path:
    """A folder with params.yaml, a photograph, and no data."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["noise"] |= {"M": 3, "low": 0.5, "high": 1.0}
    params["prompt"]["folder"] = str(ROOT / "prompts")
    params["generator"] |= {"model": str(tiny_sd_folder), "steps": 4, "compile": False}
    params["classifier"]["backbone"] = str(BACKBONE)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    photo = decode_image(next(iter(source_images.values())))
    photo.resize((60, 40)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def preview(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["preview", *arguments])


def rendered(project: Path) -> int:
    return len(list((project / ".genie/store").rglob("*.png")))


def levels_in(output: str) -> list[tuple[float, float, bool]]:
    """The r, position and mark of each line of the table."""
    rows = [line.split() for line in output.splitlines() if line.lstrip()[:2] in ("0.", "1 ")]
    return [(float(row[0]), float(row[1]), row[-1] == "r*") for row in rows]


def test_without_support_images_the_target_is_drawn_eight_times(project):
    result = preview("photo.jpg", "coat")
    assert result.exit_code == 0, result.output
    assert "Z_T is the mean embedding of 8 Txt2Img images of coat" in result.stdout
    assert rendered(project) == 3 + 8
    assert decode_image((project / "preview.png").read_bytes()).width > 400
    table = levels_in(result.stdout)
    assert [r for r, _, _ in table] == [0.5, 0.75, 1]
    shifts = np.abs(np.diff([d for _, d, _ in table]))
    assert [marked for _, _, marked in table].index(True) == 1 + shifts.argmax()


def test_support_images_of_the_class_are_the_target(project, source_images):
    labels = ["coat"] * 4 + ["bag"] * 8
    images = pd.DataFrame(
        {"image_id": list(source_images), "label": labels, "png": list(source_images.values())}
    )
    write_images(images, project / "data/prepared/support")
    result = preview("photo.jpg", "coat", "--out", "deep/strip.png")
    assert "Z_T is the mean embedding of 4 support images of coat" in result.stdout
    assert rendered(project) == 3
    assert (project / "deep/strip.png").is_file()
    # by hand, from the rendered images
    backbone = load_backbone(BACKBONE)
    photo = decode_image((project / "photo.jpg").read_bytes()).crop((10, 0, 50, 40))
    (z_source,) = embed([photo], model=backbone)
    coats = embed([decode_image(png) for png in images["png"][:4]], model=backbone)
    axis = coats.mean(0) - z_source
    files = [decode_image(f.read_bytes()) for f in (project / ".genie/store").rglob("*.png")]
    positions = (embed(files, model=backbone) - z_source) @ axis / (axis @ axis)
    shown = [d for _, d, _ in levels_in(result.stdout)]
    assert sorted(shown) == pytest.approx(sorted(positions), abs=0.006)


def test_class_without_support_images_is_drawn(project, source_images):
    images = pd.DataFrame(
        {"image_id": ["a"], "label": "bag", "png": list(source_images.values())[:1]}
    )
    write_images(images, project / "data/prepared/support")
    assert "8 Txt2Img images of coat" in preview("photo.jpg", "coat").stdout


def test_another_generator_takes_the_place_of_the_parameters(project, tiny_turbo_folder):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["generator"]["model"] = "nowhere"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    result = preview("photo.jpg", "coat", "--generator", str(tiny_turbo_folder))
    assert result.exit_code == 0, result.output
    assert "nowhere does not exist" in preview("photo.jpg", "coat").stderr


def test_what_cannot_be_read_is_named_in_one_line(project):
    (project / "text.png").write_text("no image")
    for arguments, words in (
        (("nowhere.jpg", "coat"), "nowhere.jpg does not exist; name an image file"),
        (("text.png", "coat"), "text.png cannot be read as an image"),
        (("photo.jpg", "coat", "--params", "p.yaml"), "p.yaml does not exist"),
    ):
        result = preview(*arguments)
        assert result.exit_code == 1
        assert words in result.stderr.splitlines()[-1]
    assert not (project / "preview.png").exists()


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "webp", "pdf", "svg"])
def test_preview_has_the_format_of_its_ending(project, ending):
    result = preview("photo.jpg", "coat", "--out", f"shown/a.{ending}")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"shown/a.{ending}"
    first = (project / f"shown/a.{ending}").read_bytes()[:16]
    start = {"webp": b"RIFF", "pdf": b"%PDF", "svg": b"<?xml"}.get(ending, b"\xff\xd8")
    assert first.startswith(start)


@pytest.mark.parametrize("out", ["preview.doc", "preview", "folder.png", "photo.jpg/a.png"])
def test_preview_that_cannot_be_written_stops_before_the_rendering(project, out):
    (project / "folder.png").mkdir()
    result = preview("photo.jpg", "coat", "--out", out)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: --out ")
    assert rendered(project) == 0


GREY = Image.new("RGB", (8, 8))


def made(**changes: object) -> HardNegative:
    """A hard negative whose second level of two was chosen."""
    values = {
        "image": GREY,
        "r": 0.75,
        "target": "coat",
        "source": "photo.jpg",
        "levels": [(0.5, GREY), (0.75, GREY)],
        "positions": np.array([0.1, 0.9]),
        "shift_ratio": 1.5,
        "landmark": "examples",
        "examples": (GREY,),
        "prompt": "a coat",
        "negative_prompt": "",
        "key": "abc",
    }
    return HardNegative(**(values | changes))


def test_table_has_a_line_per_level_with_its_shift_and_the_choice():
    lines = summary(made(), 3)
    assert [line.split() for line in lines[1:3]] == [
        ["0.5", "0.10"],
        ["0.75", "0.90", "+0.80", "<-", "r*"],
    ]
    assert lines[-1] == "Z_T is the mean embedding of 3 support images of coat"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.09, "unclear"), (1.1, "choice is clear"), (np.nan, "cannot be rated")],
)
def test_choice_is_called_clear_or_not(ratio, words):
    lines = summary(made(shift_ratio=ratio, landmark="txt2img"), 8)
    assert words in lines[-2]
    assert "8 Txt2Img images" in lines[-1]
