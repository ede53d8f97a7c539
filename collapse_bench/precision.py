"""In which precision the products of a model are computed; likelihoods are summed in float32."""

import torch

NATIVE = ("avx512_bf16", "amx_bf16", "bf16")
"""What `torch.cpu.get_capabilities` calls processors' instructions for bfloat16."""


def resolve_precision(wanted: str, device: str) -> str:
    """What is really computed in: `auto` is bfloat16 where the device has instructions for it.

    Args:
        wanted: `auto`, `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
    """
    if wanted != "auto":
        return wanted
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in NATIVE)
    return "bfloat16" if native else "float32"


def products_in(precision: str, device: str) -> torch.autocast:
    """A context in which a model's products are computed in this precision."""
    reduced = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=reduced)
