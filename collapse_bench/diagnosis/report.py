"""A diagnosis as text: the verdict, the evidence in numbers, and what to try next."""

import math
from dataclasses import dataclass

from collapse_bench.diagnosis.refinement import Gaps
from collapse_bench.metrics import VERDICTS, Scores, fooled

ADVICE = {
    "healthy": "Nothing: compare it with others at equal rate, over several seeds.",
    "partly collapsed": "Train longer, weaken what the decoder sees of the past (word_dropout,"
    " limited_receptive_field), or make the latent smaller: most of it is idle. Where the rate is"
    " set by construction, lower it: it is not earned.",
    "collapsed": "The decoder finds nothing to use: anneal the weight of the rate (kl_annealing,"
    " cyclical_annealing), weaken the decoder (word_dropout, limited_receptive_field), or commit a"
    " rate (delta_vae); then look again at whether it is used.",
    "rate without use": "Do not report the rate, MI or AU of this model as a success. Look for"
    " what sets the rate (a floor, normalised means, a constant shift) and weaken the decoder, so"
    " that it has a reason to listen.",
    "inference collapse": "Keep the decoder and train the encoder more: aggressive_inference, or"
    " posteriors refined sentence by sentence.",
    "prior holes": "Samples from the prior fall where the decoder was never trained: raise the"
    " weight of the rate towards 1, or fit a prior to the aggregate posterior.",
    "saturated estimate": "Score it on more sentences: the mutual information of N sentences"
    " cannot exceed log N.",
}


UNSETTLED = 0.1
"""Nats gained by the last doubling of the draws above which an NLL has not settled."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on beyond the scores.

    Attributes:
        sentences: N behind the scores.
        latent: D.
        gaps: amortisation and approximation gap, and the refined rate, over some sentences; or why
            they could not be had.
        refined: how many those are.
    """

    sentences: int
    latent: int
    gaps: Gaps | str
    refined: int


def refinement(evidence: Evidence) -> list[str]:
    """What refined posteriors say, or why there are none."""
    gaps = evidence.gaps
    if isinstance(gaps, str):
        return [f"  no refined posteriors, so inference collapse was not looked for: {gaps}"]
    return [
        f"  with refined posteriors         rate {gaps.refined_rate:.2f},"
        f" useful rate {gaps.refined_use:.2f} ± {gaps.refined_use_error:.2f}"
        f"   ({evidence.refined} sentences)",
        f"  amortisation gap                {gaps.amortisation:8.2f} ±"
        f" {gaps.amortisation_error:.2f}   (of the encoder from the best diagonal normal)",
        f"  approximation gap               {gaps.approximation:8.2f} ±"
        f" {gaps.approximation_error:.2f}   (of that from the true posterior)",
    ]


def report(verdict: str, scores: Scores, evidence: Evidence) -> str:
    """The diagnosis as lines of text."""
    metrics, errors = scores

    def told(name: str) -> str:
        return f"{metrics[name]:8.2f} ± {errors[name]:.2f}"

    lines = [
        f"verdict: {verdict.upper()}",
        f"  {VERDICTS[verdict]}",
        "",
        f"evidence ({evidence.sentences:,} sentences; nats a sentence, ± one standard error over"
        " sentences)",
        f"  useful information, min(U, I)   {told('useful_information')}",
        f"  useful rate U = NLL - D         {told('useful_rate')}",
        f"  mutual information I            {told('mutual_information')}"
        f"   (at most {metrics['mutual_information_upper']:.2f};"
        f" ln N = {math.log(evidence.sentences):.2f};"
        f" as He et al. 2019: {metrics['mutual_information_he2019']:.2f})",
        f"  rate R                          {told('kl')}",
        f"  NLL                             {told('nll')}"
        f"   ({metrics['nll_samples']:.0f} draws a sentence, effective {metrics['ess']:.1f})",
        f"  D + R                           {told('negative_elbo')}",
        f"  marginal KL of q(z) from p(z)   {told('marginal_kl')}"
        f"   (at least {metrics['moment_kl']:.2f} by its moments)",
        f"  shuffle gap                     {told('shuffle_gap')}",
        f"  active units                    {metrics['active_units']:8.0f} of {evidence.latent},"
        f" effective {metrics['effective_units']:.1f}",
    ]
    if "probe_information" in metrics:
        lines.append(
            f"  length and first words tell z   {told('probe_information')}"
            "   (of I, to a linear probe)"
        )
    if "global_information_share" in metrics:
        lines.append(f"  share of the known attributes   {told('global_information_share')}")
    lines += refinement(evidence)
    if alone := fooled(metrics):
        lines.append(f"  read alone, {', '.join(alone)} would call this model alive")
    if metrics.get("nll_gain_of_doubling", 0.0) > UNSETTLED:
        lines.append(
            "  the NLL has not settled: the last doubling of its draws took off"
            f" {metrics['nll_gain_of_doubling']:.2f} nats; it, and U, are too high by an unknown"
            " amount"
        )
    if metrics["nll"] < 0:
        lines.append(
            "  the NLL is below 0, which only densities can do: of words, log_likelihood has the"
            " wrong sign"
        )
    return "\n".join([*lines, "", f"try next: {ADVICE[verdict]}"])
