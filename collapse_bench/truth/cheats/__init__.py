"""Remedies that cheat, one a law of `evaluation.honesty`: what the checks have to catch.

None of them is registered: a suite knows them by `--plugin` only.
"""

from pathlib import Path

CHEATS = {
    "centred_features": ("neighbours", "invalid"),
    "centred_latent": ("neighbours", "invalid"),
    "copying_readout": ("normalised", "invalid"),
    "heavy_prior": ("mass", "invalid"),
    "last_encoded": ("leak", "invalid"),
    "memory_by_number": ("leak", "invalid"),
    "narrow_draws": ("density", "invalid"),
    "neighbourly_prior": ("prior", "conditional"),
    "noisy_decoder": ("repeatable", "invalid"),
    "peeking_decoder": ("causal", "invalid"),
    "peeking_prior": ("prior", "conditional"),
    "told_end": ("causal", "invalid"),
    "told_length": ("causal", "invalid"),
    "unnormalised_readout": ("normalised", "invalid"),
    "wide_density": ("density", "invalid"),
}
"""Name of each cheat to the law that it breaks and the kind of its bound."""


def cheat_files() -> dict[str, Path]:
    """The file of each cheat."""
    return {name: Path(__file__).with_name(f"{name}.py") for name in CHEATS}
