"""Versions, permissions, and what the chip reaches at its simplest work."""

import importlib.metadata
import os
import platform
import shutil
import subprocess

import torch
from harness import Tell
from setting import Setting, seconds_of

PACKAGES = (
    "torch", "numpy", "scipy", "tokenizers", "safetensors", "pyyaml", "matplotlib", "tqdm",
    "datasets",
)  # fmt: skip
STATED_BANDWIDTH, STATED_BFLOAT16 = 3.35e12, 989e12
"""Of an H100 SXM as its data sheet states them: bytes/s, and dense bfloat16 FLOP/s."""
QUERY = "driver_version,compute_mode,mig.mode.current,persistence_mode,clocks.sm,clocks.max.sm"


def run(setting: Setting, tell: Tell) -> None:
    tell.fact("python", platform.python_version())
    for package in PACKAGES:
        try:
            tell.fact(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            tell.fact(package, "not installed")
    tell.fact("cores", len(os.sched_getaffinity(0)))
    tell.fact("CUDA of torch", str(torch.version.cuda))
    tell.fact("cuDNN", str(torch.backends.cudnn.version()))
    tell.fact("MPS control", shutil.which("nvidia-cuda-mps-control") or "not installed")
    tell.fact("MPS pipe", os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "not set"))
    if setting.device == "cuda":
        _of_gpu(tell)
    size = setting.of_size(2**30, 2**20)
    source, target = (torch.ones(size, dtype=torch.uint8, device=setting.device) for _ in "ab")
    moved = 2 * size / seconds_of(lambda: target.copy_(source), setting, 10)
    tell.row(what="copy", reached=moved / 1e9, unit="GB/s", share=moved / STATED_BANDWIDTH)
    width = setting.of_size(8192, 64)
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.ones(width, width, dtype=dtype, device=setting.device)
        rate = 2 * width**3 / seconds_of(lambda a=a: a @ a, setting, 10)
        name = str(dtype).removeprefix("torch.")
        tell.row(what=f"{name} product", reached=rate / 1e12, unit="TFLOP/s",
                 share=rate / STATED_BFLOAT16)  # fmt: skip


def _of_gpu(tell: Tell) -> None:
    properties = torch.cuda.get_device_properties(0)
    tell.fact("GPU", properties.name)
    tell.fact("memory, GiB", properties.total_memory / 2**30)
    tell.fact("capability", f"{properties.major}.{properties.minor}")
    tell.fact("multiprocessors", properties.multi_processor_count)
    asked = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10)
        tell.fact(QUERY, (answer.stdout or answer.stderr).strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        tell.fact("nvidia-smi", str(error))
