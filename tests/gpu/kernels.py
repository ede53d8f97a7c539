"""In which dtype and by which kernels the LSTM runs, by input width; how attention begins."""

import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Tell
from setting import Setting, kernels_of, seconds_of, synchronize
from torch import nn
from torch.nn import functional as F

from collapse_bench.model.lstm import LSTM, lstm_dtype

WIDTHS = (256, 288, 384)
"""Embedding; embedding and latent; that filled up to a multiple of 128, which cuDNN's persistent
kernels ask for, and torch takes these for float16 only."""
HIDDEN, BATCH, TOKENS, HEADS = 256, 32, 22, 4


def run(setting: Setting, tell: Tell) -> None:
    device, repeats = setting.device, setting.of_size(50, 1)
    dtypes = [torch.float32]
    if device == "cuda":
        dtypes += [torch.bfloat16, torch.float16]
    tell.fact("bfloat16 asked for, the LSTM computes in", str(lstm_dtype(torch.bfloat16)))
    torchs, ours = nn.LSTM(256, HIDDEN, batch_first=True).to(device), LSTM(256, HIDDEN).to(device)
    x = torch.randn(BATCH, TOKENS, 256, device=device)
    for whose, lstm in (("torch's", torchs), ("this project's", ours)):
        try:
            with torch.autocast(device, torch.bfloat16):
                states = lstm(x)
            given = str((states if lstm is ours else states[0]).dtype)
        except RuntimeError as error:
            given = str(error).splitlines()[0]
        tell.fact(f"under bfloat16 autocast {whose} LSTM gives", given)
    for width in WIDTHS:
        for dtype in dtypes:
            cells = {"part": "lstm", "width": width, "dtype": name_of(dtype)}
            try:
                tell.row(**cells, **_lstm(width, dtype, setting, repeats))
            except RuntimeError as error:
                tell.row(**cells, kernel=str(error).splitlines()[0])
    narrow = dtypes[:2][-1]
    for cudnn in (False, True):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        for masked in (False, True):
            tell.row(part=f"attention, {'mask' if masked else 'causal'}",
                     dtype=f"{name_of(narrow)}, cuDNN {'allowed' if cudnn else 'not'}",
                     **_attention(narrow, masked, setting, repeats))  # fmt: skip


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _lstm(width: int, dtype: torch.dtype, setting: Setting, repeats: int) -> dict[str, Any]:
    lstm = LSTM(width, HIDDEN).to(setting.device)
    x = torch.randn(BATCH, TOKENS, width, device=setting.device, requires_grad=True)

    def forward_and_backward() -> None:
        lstm.in_dtype(dtype, x).float().sum().backward()

    return _timed(forward_and_backward, setting, repeats)


def _attention(dtype: torch.dtype, masked: bool, setting: Setting, repeats: int) -> dict[str, Any]:
    """Of 20 lengths, as an epoch has them: a back end may build a plan for each."""
    width = HIDDEN // HEADS
    inputs = [
        torch.randn(
            3, BATCH, HEADS, tokens, width,
            device=setting.device, dtype=dtype, requires_grad=True,
        )
        for tokens in range(TOKENS, TOKENS + setting.of_size(20, 2))
    ]  # fmt: skip

    def forward_and_backward(given: torch.Tensor = inputs[0]) -> None:
        tokens = given.shape[3]
        mask = torch.ones(BATCH, 1, tokens, tokens, dtype=torch.bool, device=setting.device)
        F.scaled_dot_product_attention(
            *given, attn_mask=mask if masked else None, is_causal=not masked
        ).float().sum().backward()

    began = time.perf_counter()
    for each in inputs:
        forward_and_backward(each)
    synchronize(setting.device)
    first = (time.perf_counter() - began) / len(inputs)
    return {"first ms of a length": 1000 * first} | _timed(forward_and_backward, setting, repeats)


def _timed(do: Callable[[], None], setting: Setting, repeats: int) -> dict[str, Any]:
    seconds = seconds_of(do, setting, repeats)
    kernels = kernels_of(do, setting)
    longest = max(kernels, key=lambda kernel: kernel[1], default=("none", 0.0))
    return {
        "ms": 1000 * seconds,
        "kernels": len(kernels),
        "busy ms": sum(ms for _, ms in kernels),
        "kernel": longest[0][:60],
    }
