"""In which precision the products of a model are computed; likelihoods are summed in float32."""

import torch

from collapse_bench.errors import UserError

NATIVE = ("avx512_bf16", "amx_bf16", "bf16")
"""What `torch.cpu.get_capabilities` calls processors' instructions for bfloat16."""


def resolve_precision(wanted: str, device: str) -> str:
    """What is really computed in: `auto` is bfloat16 where the device has instructions for it.

    Args:
        wanted: `auto`, `float32` or `bfloat16`.
        device: `cpu` or `cuda`.

    Raises:
        UserError: bfloat16 is wanted, and the device can neither compute in it nor emulate it.
    """
    if wanted == "auto":
        return "bfloat16" if _has_bfloat16(device) else "float32"
    if wanted == "bfloat16" and not _has_bfloat16(device) and not _emulates_bfloat16(device):
        raise UserError(
            f"bfloat16: this {'GPU' if device == 'cuda' else 'processor'} cannot compute in it;"
            f" write auto, which is float32 here, or float32"
        )
    return wanted


def _has_bfloat16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in NATIVE)


def _emulates_bfloat16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=True))
    # oneDNN, which runs the LSTM, has no kernel on a processor without AVX-512.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def products_in(precision: str, device: str) -> torch.autocast:
    """A context in which a model's products are computed in this precision."""
    reduced = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=reduced)
