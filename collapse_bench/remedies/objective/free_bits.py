"""Free bits (Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling 2016, appendix C.8)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch

from collapse_bench.model import Forward
from collapse_bench.remedy import Remedy
from collapse_bench.settings import AtLeast


@dataclass(frozen=True)
class FreeBits(Remedy):
    """Rate up to a floor is free: below it the rate has no gradient.

    It guarantees nothing: what is below the floor is not pushed up. First in a chain that weighs
    the rate: the floor on a weighed rate is target / weight. Four objects go by this name:

    - `sentence and dimension`: sum_j max(target / K, KL_j(x)), as in the code of Li et al. (2019)
    - `dimension`: sum_j max(target / K, mean over the batch of KL_j), Kingma et al. (2016)
    - `sentence`: max(target, KL(x)) of each sentence
    - `batch`: max(target, mean over the batch of KL)

    The batch forms see the lengths of one batch, which is mostly one length. Masks and maxima have
    the same gradient; here the loss that is reported is that of the maximum.

    Positive case (`suites/positive.yaml`): NLL 8.03, R 1.94, beyond 0.85.

    Attributes:
        target: the floor, nats a sentence over all K entries of the rate; 0 is the plain VAE.
        per: what each floor is for.
    """

    by_construction: ClassVar[tuple[str, ...]] = ("kl", "active_units")
    neutral: ClassVar[Mapping[str, Any] | None] = {"target": 0.0}
    signature: ClassVar[Mapping[str, str]] = {
        "nothing": "rate without use",
        "hard": "use",
        "easy": "use",
    }

    target: Annotated[float, AtLeast(0)] = 8.0
    per: Literal["sentence and dimension", "dimension", "sentence", "batch"] = (
        "sentence and dimension"
    )

    def objective(self, forward: Forward) -> Forward:
        """Replace what is below its floor by the floor."""
        if self.target == 0:
            return forward
        kl = forward.kl  # [B, K]
        floor = kl.new_tensor(self.target / kl.shape[1])
        level = kl.detach()
        if self.per in ("dimension", "batch"):
            level = level.mean(0, keepdim=True)
        if self.per in ("sentence", "batch"):
            level = level.mean(1, keepdim=True)
        return replace(forward, kl=torch.where((level > floor).expand_as(kl), kl, floor))
