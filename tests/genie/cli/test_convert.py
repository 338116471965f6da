"""Against a ResNet with torchvision's names, written from its published description."""

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from genie.classify.backbone import load_backbone, pooled
from genie.cli.convert import convert_resnet
from genie.cli.main import main
from genie.core.errors import GenieError, MissingFileError


class Block(nn.Module):
    """A basic (two 3x3) or bottleneck (1x1, strided 3x3, 1x1) block; names as in torchvision."""

    def __init__(self, width_in: int, width: int, stride: int, *, deep: bool) -> None:
        super().__init__()
        out = width * 4 if deep else width
        kernels = ((1, width, 1), (3, width, stride), (1, out, 1)) if deep else (
            (3, width, stride), (3, width, 1))  # fmt: skip
        last = width_in
        for i, (kernel, size, step) in enumerate(kernels, 1):
            setattr(self, f"conv{i}", nn.Conv2d(last, size, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(size))
            last = size
        self.count = len(kernels)
        self.downsample = None
        if stride != 1 or width_in != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.count:
                x = x.relu()
        return (x + identity).relu()


class Reference(nn.Module):
    def __init__(self, depths: tuple[int, ...], *, deep: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        last = 64
        for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Block(last, width, stride, deep=deep))
                last = width * 4 if deep else width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))


def reference(depths: tuple[int, ...], *, deep: bool) -> Reference:
    torch.manual_seed(0)
    model = Reference(depths, deep=deep)
    for module in model.modules():  # statistics as after training, so that they matter
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("depths", "deep"), [((2, 2, 2, 2), False), ((1, 2, 3, 1), False), ((1, 2, 3, 1), True)]
)
def test_converted_backbone_gives_the_same_features(tmp_path, depths, deep):
    model = reference(depths, deep=deep)
    state = {f"encoder.{k}": v for k, v in model.state_dict().items()}
    state["proj.0.weight"] = torch.zeros(3, 3)
    torch.save({"model": state, "epoch": 3}, tmp_path / "mini_r.pth")
    convert_resnet(tmp_path / "mini_r.pth", tmp_path / "backbone", size=64)
    images = torch.randn(2, 3, 64, 64)
    backbone = load_backbone(tmp_path / "backbone", device="cpu")
    assert backbone.size == (64, 64)
    assert list((tmp_path / "backbone").glob("*.safetensors"))
    with torch.inference_mode():
        assert torch.allclose(pooled(backbone.model(images)), model(images), atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.", "module.encoder_q."])
def test_prefixes_of_training_code_are_left_out(tmp_path, prefix):
    state = {prefix + k: v for k, v in reference((1, 1, 1, 1), deep=False).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert convert_resnet(tmp_path / "a.pth", tmp_path / "out").depths == [1, 1, 1, 1]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"must be a checkpoint file, got .*none\.pth"):
        convert_resnet(tmp_path / "none.pth", tmp_path / "out")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(GenieError, match=r"text\.pth cannot be loaded as tensors only"):
        convert_resnet(tmp_path / "text.pth", tmp_path / "out")
    torch.save({"model": {"vit.weight": torch.zeros(1)}}, tmp_path / "vit.pth")
    with pytest.raises(GenieError, match=r"must contain a ResNet .* vit\.weight"):
        convert_resnet(tmp_path / "vit.pth", tmp_path / "out")
    odd = reference((1, 1, 1, 1), deep=False).state_dict() | {"layer1.0.bn9.bias": torch.zeros(1)}
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(
        GenieError, match=r"must be a plain ResNet.*normalization\.bias has no counterpart"
    ):
        convert_resnet(tmp_path / "odd.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_says_what_it_wrote_and_fails_in_one_line(tmp_path):
    torch.save(reference((2, 2, 2, 2), deep=False).state_dict(), tmp_path / "a.pth")
    command = ["convert-resnet", str(tmp_path / "a.pth"), str(tmp_path / "out")]
    assert "basic ResNet with depths [2, 2, 2, 2]" in CliRunner().invoke(main, command).output
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "FOLDER must not exist yet, got" in again.stderr
