"""A diagnosis as text: the verdict, the evidence in numbers, and what to try next."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from collapse_bench.diagnosis.refinement import Gaps
from collapse_bench.evaluation import Bound
from collapse_bench.metrics import VERDICTS, Scores, absent, fooled

NO_VERDICT = "no verdict"
"""In place of a verdict where a model's numbers are no bound on log p(x)."""

UNJUDGED = "these numbers do not bound log p(x), so nothing is said of what z is used for:"

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
    "trivial use": "z tells the length or the first words and no more: compare the NLL with that of"
    " a language model that is told the length, weaken what the decoder sees of the past"
    " (word_dropout, limited_receptive_field) so that the rest is worth telling, and report neither"
    " rate nor MI as what was learnt.",
    "too few sentences": "Score it on more sentences: two at least, better a thousand.",
    NO_VERDICT: "Mend what is named above, then diagnose it again.",
    "saturated estimate": "Score it on more sentences: the mutual information of N sentences"
    " cannot exceed log N.",
}


ADVICE_BY_FAMILY = {
    ("collapsed", "codes"): "The decoder finds nothing to use: weaken it (word_dropout,"
    " limited_receptive_field). To anneal the weight of the rate helps codes that are drawn"
    " (gumbel_softmax) and no others, since the rate of a code that is certain gives the encoder no"
    " gradient. Where hardly any codes are in use, let those that are not begin anew (vq_vae,"
    " product_quantisation and residual_vq: restart), or keep them apart (binary_codes: entropy).",
    ("collapsed", "sphere"): "The decoder finds nothing to use: anneal the weight of the rate"
    " (kl_annealing, cyclical_annealing), weaken the decoder (word_dropout,"
    " limited_receptive_field), or give all sentences one concentration, whose rate cannot fall;"
    " then look again at whether it is used.",
}
"""What is said in its place of a verdict on a family for which that would be wrong."""

UNSETTLED = 0.1
"""Nats gained by the last doubling of the draws above which an NLL has not settled."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on beyond the scores.

    Attributes:
        sentences: N behind the scores.
        latent: D.
        family: of the posterior.
        bound: whether the numbers bound log p(x), and why not.
        gaps: amortisation and approximation gap, and the refined rate, over some sentences; or why
            they could not be had.
        refined: how many those are.
    """

    sentences: int
    latent: int
    family: str
    bound: Bound
    gaps: Gaps | str
    refined: int


def report(verdict: str, scores: Scores, evidence: Evidence) -> str:
    """The diagnosis as lines of text."""
    lines = [
        f"verdict: {verdict.upper()}",
        f"  {VERDICTS.get(verdict, UNJUDGED)}",
        *(f"  - {reason}" for reason in evidence.bound.reasons),
        "",
        f"evidence ({evidence.sentences:,} sentences; nats a sentence, ± one standard error over"
        " sentences)",
        *numbers(scores, evidence),
        *missing(scores, evidence.family),
        *refinement(evidence),
        *(f"  {each}" for each in evidence.bound.unseen),
        *warnings(scores.metrics),
    ]
    advice = ADVICE_BY_FAMILY.get((verdict, evidence.family), ADVICE[verdict])
    return "\n".join([*lines, "", f"try next: {advice}"])


def numbers(scores: Scores, evidence: Evidence) -> list[str]:
    """What was measured, a line each; what was not has no line."""
    metrics, errors = scores

    def noted(words: str, name: str, digits: int = 2) -> str:
        """The words with a metric's value, or nothing where there is none."""
        return words.format(_shown(metrics[name], digits)) if name in metrics else ""

    information = (
        noted("at most {}; ", "mutual_information_upper")
        + f"ln N = {math.log(evidence.sentences):.2f}"
        + noted("; as He et al. 2019: {}", "mutual_information_he2019")
    )
    table = [
        ("beyond length and first words", "useful_beyond",
         "the least of U, shuffle gap and the information below"),
        ("information beyond these", "information_beyond", "at least, of I"),
        ("the trivial part of I", "trivial_information",
         noted("the entropy of the length is {}", "length_entropy")),
        ("I given the length", "information_given_length",
         noted("at most {}", "information_given_length_upper")),
        ("first words, given the length", "first_words_information", "of z, to a linear probe"),
        ("length and first words tell z", "probe_information", "of I, to a linear probe"),
        ("useful information, min(U, I)", "useful_information", ""),
        ("useful rate U = NLL - D", "useful_rate", ""),
        ("mutual information I", "mutual_information", information),
        ("rate R", "kl", ""),
        ("NLL", "nll",
         noted("{} draws a sentence", "nll_samples", 0) + noted(", effective {}", "ess", 1)),
        ("D + R", "negative_elbo", ""),
        ("marginal KL of q(z) from p(z)", "marginal_kl",
         noted("at least {} by its moments", "moment_kl")),
        ("shuffle gap, same length", "shuffle_gap", "own z against another sentence's"),
        ("shuffle gap, after first words", "shuffle_gap_later", "tokens after the third"),
        ("shuffle gap, any length", "shuffle_gap_any", ""),
        ("share of the known attributes", "global_information_share", ""),
        ("codes in use at a place", "code_perplexity",
         "as if equally often" + noted("; {} others in none of these sentences", "dead_codes", 1)),
    ]  # fmt: skip
    lines = [
        f"  {label:31} {_shown(metrics[name]):>8} ± {errors[name]:.2f}"
        + (f"   ({note})" if note else "")
        for label, name, note in table
        if name in metrics
    ]
    if "first_words_information" not in metrics:
        lines.append("  first words were not looked at: beyond is beyond the length only")
    if "active_units" in metrics:
        effective = noted(", effective {}", "effective_units", 1)
        lines.append(
            f"  {'active units':31} {metrics['active_units']:8.0f} of {evidence.latent}{effective}"
        )
    return lines


def _shown(value: float, digits: int = 2) -> str:
    """A number of so many digits, never "-0.00"."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def missing(scores: Scores, family: str) -> list[str]:
    """The metrics that the posterior's family does not have, and why, a line a reason."""
    named: dict[str, list[str]] = {}
    for name, reason in absent(family).items():
        if name not in scores.metrics and not name.startswith("active_units_"):
            named.setdefault(reason, []).append(name)
    return [f"  no {', '.join(names)}: {reason}" for reason, names in named.items()]


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


def warnings(metrics: Mapping[str, float]) -> list[str]:
    """What has to be known before a number is believed."""
    lines = []
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
    return lines
