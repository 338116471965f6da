"""The denoiser as a function, compiled with OpenVINO on a CPU or with torch on a GPU.

On two x86 cores, OpenVINO runs 1.5 times as many steps per second as PyTorch. Conversion takes two
seconds, and compilation half a second per batch shape. Pixel values from OpenVINO and PyTorch
differ by at most 1 (of 255).
"""

import math
import platform
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from genie.core.errors import FailedError, one_line

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def uses_openvino(device: str, compile: bool | None) -> bool:
    """Return whether OpenVINO runs the denoiser.

    OpenVINO is used on a CPU if `compile` is True, and on an x86 CPU if `compile` is None.
    """
    if compile is None:
        compile = platform.machine() in ("x86_64", "AMD64")
    return compile and device == "cpu"


def load_denoiser(
    unet: Any, *, device: str, compile: bool | None, dtype: torch.dtype = torch.float32
) -> Denoiser:
    """Return the denoiser as a function of latents, timesteps and prompt embeddings.

    The function maps (B, 4, h, w), (B,) and (B, tokens, d) to predictions (B, 4, h, w). If
    `compile` is None, the denoiser is compiled on x86 CPUs only. On a GPU, compilation delays the
    first batch by a minute. OpenVINO reads float32 weights and computes in `dtype` if the processor
    supports this dtype. PyTorch computes in the dtype of the weights.
    """
    if uses_openvino(device, compile):
        return _by_openvino(unet, "bf16" if dtype == torch.bfloat16 else "f32")
    unet.to(memory_format=torch.channels_last)
    if compile:
        unet.compile(dynamic=False, options={"freezing": True})

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        (predicted,) = unet(latents, timesteps, encoder_hidden_states=embeddings, return_dict=False)
        return predicted

    return denoise


def _by_openvino(unet: Any, precision: str) -> Denoiser:
    """Return a denoiser that converts the model on its first batch and compiles it for each shape.

    A run with nothing to render therefore skips conversion and compilation.
    """
    model: Any = None

    @lru_cache(maxsize=3)
    def compiled(latents: tuple[int, ...], embeddings: tuple[int, ...]) -> list[Any]:
        nonlocal model
        streams = math.gcd(latents[0], torch.get_num_threads())
        count = latents[0] // streams
        inputs = (
            torch.zeros(count, *latents[1:]),
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, *embeddings[1:]),
        )
        model = model or _convert(unet, inputs)
        shapes = [list(value.shape) for value in inputs]
        return _compile(model, shapes, streams=streams, precision=precision)

    def denoise(
        latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        requests = compiled(tuple(latents.shape), tuple(embeddings.shape))
        inputs = [x.contiguous().numpy() for x in (latents, timesteps, embeddings)]
        parts = list(zip(*(np.split(x, len(requests)) for x in inputs), strict=True))
        for request, part in zip(requests, parts, strict=True):
            request.start_async(part, share_inputs=True)
        for request in requests:
            request.wait()
        return torch.cat([torch.from_numpy(r.get_output_tensor(0).data) for r in requests])

    return denoise


def _convert(unet: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Convert the denoiser to an OpenVINO model that accepts inputs of any shape.

    This uses OpenVINO's front end because `convert_model` sends usage statistics over the network.
    """
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Predicted(torch.nn.Module):
        """The U-Net with positional arguments, because a traced graph has no argument names."""

        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, latents: Any, timesteps: Any, embeddings: Any) -> Any:
            return self.unet(latents, timesteps, embeddings, return_dict=False)[0]

    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns about fixed shapes, which are intended
            traced = torch.jit.trace(Predicted().eval(), inputs, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
            return _without_crash(frontend.convert(frontend.load(decoder)))
    except RuntimeError as error:
        raise FailedError(
            f"OpenVINO must be able to convert the denoiser, but: {one_line(error)}",
            remedy="set `compile` to false",
        ) from error


def _without_crash(model: Any) -> Any:
    """Rewrite norm * scale as norm + norm * (scale - 1) where the scale is not constant.

    OpenVINO 2026.4 fuses a group norm with a multiplication that follows it, and crashes if the
    factor is computed, as in models with `resnet_time_scale_shift` "scale_shift". It does not fuse
    a norm that is used twice.
    """
    from openvino import opset13 as ops

    for product in model.get_ordered_ops():
        if product.get_type_name() != "Multiply":
            continue
        norm, scale = (product.input_value(i) for i in (0, 1))
        if norm.get_node().get_type_name() != "GroupNormalization":
            norm, scale = scale, norm
        if norm.get_node().get_type_name() != "GroupNormalization":
            continue
        unit = ops.constant(1, scale.get_element_type())
        readers = product.output(0).get_target_inputs()
        twice = ops.add(norm, ops.multiply(norm, ops.subtract(scale, unit)))
        for reader in readers:
            reader.replace_source_output(twice.output(0))
    return model


def _compile(model: Any, shapes: Sequence[list[int]], *, streams: int, precision: str) -> list[Any]:
    """Compile the model for inputs of the given shapes and return its inference requests.

    Fixed shapes are 1.5 times as fast as dynamic shapes. The requests run in parallel, each on a
    part of the batch. This saves a sixth of the time compared with splitting every operation across
    the cores, which then wait for each other. On x86, results are bitwise identical for all batch
    sizes.
    """
    import openvino

    model = model.clone()  # the original is needed for other shapes
    model.reshape(dict(enumerate(shapes)))
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return [compiled.create_infer_request() for _ in range(streams)]
