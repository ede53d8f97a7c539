"""What each part and each term has to be, held against what a remedy hands back, at every pass.

Shapes that fit by chance would make a wrong number in silence: `[B, K]` in place of `[B]` adds up
where K is B or 1. A look at a shape costs microseconds beside a pass of milliseconds.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from collapse_bench.errors import UserError
from collapse_bench.model.distributions import base, shape_of


class ContractError(UserError):
    """A remedy handed back something that the contract does not allow."""


def told(value: Any) -> str:
    """What came, in words for a message."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Distribution):
        shapes = f"batch shape {list(value.batch_shape)} and event shape {list(value.event_shape)}"
        return f"{_article(type(value).__name__)} of {shapes}"
    return _article(type(value).__name__)


def check_tensor(owner: str, what: str, value: Any, shape: Sequence[int | str]) -> Tensor:
    """Return the value if it is a floating tensor of that shape; a letter stands for any size.

    Args:
        owner: the remedy, or the architecture, as the message shall call it.
        what: slot or term.
        value: what came.
        shape: sizes, such as (5, "T", "H").

    Raises:
        ContractError: it is not.
    """
    if (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() == len(shape)
        and all(
            isinstance(want, str) or have == want
            for have, want in zip(value.shape, shape, strict=True)
        )
    ):
        return value
    expected = f"[{', '.join(map(str, shape))}]"
    raise ContractError(
        f"{owner}: {what} must be a floating-point tensor {expected}, not {told(value)}"
    )


def check_features(owner: str, value: Any, sentences: int) -> Tensor:
    """Features [B, H], or [B, n, H] for a latent sequence.

    Raises:
        ContractError: they are not.
    """
    several = isinstance(value, Tensor) and value.dim() == 3
    return check_tensor(
        owner, "pool", value, (sentences, "n", "H") if several else (sentences, "H")
    )


def check_posterior(owner: str, value: Any, sentences: int) -> Distribution:
    """A distribution with one event a sentence that can be drawn from with given noise.

    Raises:
        ContractError: it is not.
    """
    if not isinstance(value, Distribution):
        raise ContractError(
            f"{owner}: head must return a torch.distributions.Distribution, not {told(value)}"
        )
    if value.batch_shape != (sentences,) or len(value.event_shape) not in (1, 2):
        raise ContractError(
            f"{owner}: head must return one event a sentence, batch shape [{sentences}] and event"
            f" shape [D] or [n, d], not {told(value)}; collapse_bench.model.diagonal_normal(mean,"
            f" scale) makes one of a mean and a scale"
        )
    _check_draws(owner, "head", value)
    return value


def check_prior(owner: str, value: Any, q: Distribution) -> Distribution:
    """A distribution over the same z as the posterior.

    Raises:
        ContractError: it is not.
    """
    if not isinstance(value, Distribution) or shape_of(value) != shape_of(q):
        raise ContractError(
            f"{owner}: prior must return a distribution over the posterior's z, {told(q)}, not"
            f" {told(value)}"
        )
    _check_draws(owner, "prior", value)
    return value


def check_owner(owner: str, slots: Sequence[str]) -> None:
    """A remedy's name, under which a part of its own is kept.

    Raises:
        ContractError: a slot is called so, or what every module has.
    """
    if owner in slots or hasattr(nn.ModuleDict, owner):
        raise ContractError(
            f"{owner}: a remedy cannot be called so, since a part is kept under its name; rename"
            f" its file"
        )


def check_parts(owner: str, parts: Any, slots: Sequence[str]) -> dict[str, nn.Module]:
    """What a remedy's `build` may return: modules by slot, and one more under its own name.

    Raises:
        ContractError: a name is neither, or a part is no module.
    """
    check_owner(owner, slots)
    legal = (*slots, owner)
    if not hasattr(parts, "items"):
        raise ContractError(f"{owner}: build must return a mapping of parts, not {told(parts)}")
    for name, part in parts.items():
        if name not in legal:
            raise ContractError(
                f"{owner}: build returned a part called {name!r}; legal: {', '.join(slots)}, and"
                f" {owner} for a part of its own that fills no slot"
            )
        if not isinstance(part, nn.Module):
            raise ContractError(f"{owner}: {name} must be a torch.nn.Module, not {told(part)}")
        if name == "readout" and not callable(getattr(part, "by_position", None)):
            raise ContractError(
                f"{owner}: a readout needs a further method, by_position(states, batch), log p of"
                f" each token [B, T]; {told(part)} has none"
            )
    return dict(parts)


def check_callable(owner: str, what: str, value: Any) -> Callable[..., Any]:
    """A function, as `step` has to return one.

    Raises:
        ContractError: it is not.
    """
    if not callable(value):
        raise ContractError(f"{owner}: {what} must return a function, not {told(value)}")
    return value  # type: ignore[no-any-return]


def _check_draws(owner: str, what: str, value: Distribution) -> None:
    part = base(value)
    if not (isinstance(part, Normal) or hasattr(part, "from_noise")):
        raise ContractError(
            f"{owner}: {what} returned {_article(type(part).__name__)}, which is neither a diagonal"
            f" normal nor offers from_noise(noise), a draw of z from standard normal noise"
        )


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
