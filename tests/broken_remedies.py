"""For every law a remedy that breaks it: the law, the remedy's file, and what has to be told."""

TOP = '''"""A remedy that breaks a law (Anybody 2026)."""

import random
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.distributions import Normal

from collapse_bench.model import GENERATIVE, SLOTS, diagonal_normal, plain
from collapse_bench.remedy import Remedy
from collapse_bench.settings import Between
from collapse_bench.training import BudgetSpentError

'''

CLASS = "@dataclass(frozen=True)\nclass Broken(Remedy):\n"


def file_of(inside: str, before: str = "", top: str = TOP) -> str:
    """A remedy's file; `inside` is the body of its class."""
    body = "".join(f"    {line}\n" for line in inside.strip("\n").splitlines())
    return f"{top}\n{before}\n\n{CLASS}{body}"


def part(slot: str, init: str, forward: str, evaluated: str = "*given") -> str:
    """A file whose remedy wraps a slot; `forward` may use `found`, what the wrapped part gives."""
    before = f"""
class Part(nn.Module):
    def __init__(self, part, model):
        super().__init__()
        self.part = part
        {init}

    def forward(self, *given):
        found = self.part({evaluated})
        {forward}
"""
    return file_of(
        f"def build(self, model):\n    return {{'{slot}': Part(model.{slot}, model)}}", before
    )


def objective(line: str, before: str = "") -> str:
    """A file whose remedy changes the objective."""
    return file_of(f"def objective(self, forward):\n    {line}", before)


def signed(signature: str, weight: float = 0.5) -> str:
    """A file whose remedy weighs the rate and states a signature."""
    weighed = f"return replace(forward, kl={weight} * forward.kl)"
    return file_of(f"signature = {signature}\n\ndef objective(self, forward):\n    {weighed}")


def step(body: str) -> str:
    """A file whose remedy changes the step."""
    lines = "".join(f"        {line}\n" for line in body.strip("\n").splitlines())
    return file_of(
        "def step(self, step, run):\n    count = [0]\n\n"
        f"    def mine(batch, *, only=SLOTS, then=plain):\n{lines}\n    return mine"
    )


SEEN = "self.seen += self.training\n        return found * self.seen"

FORWARD = "return replace(forward, kl=0.5 * forward.kl)"

BROKEN = [
    (
        "its_settings_can_be_read_without_running_it",
        file_of("rate: float = 1 / 3"),
        "broken.py:21: the default of rate must be a plain value, not 1 / 3",
    ),
    (
        "its_settings_can_be_read_without_running_it",
        file_of("rate: float"),
        "rate has no default",
    ),
    (
        "it_builds",
        file_of("def build(self, model):\n    return {'headd': model.head}"),
        "build returned a part called 'headd'",
    ),
    (
        "what_it_hands_back_is_as_the_contract_says",
        part("head", "pass", "return Normal(found.mean, found.stddev)"),
        "broken: head must return one event a sentence ... diagonal_normal(mean, scale)",
    ),
    (
        "what_it_hands_back_is_as_the_contract_says",
        objective("return forward.kl"),
        "broken: objective must return a Forward, not a tensor",
    ),
    (
        "what_it_hands_back_is_as_the_contract_says",
        objective("return replace(forward, distortion=forward.distortion[:, None])"),
        "broken: distortion must be a floating-point tensor [5], not a tensor [5, 1] of float32",
    ),
    (
        "its_file_names_a_source",
        objective(FORWARD).replace("(Anybody 2026)", "of my own"),
        "broken.py:1: the first line is 'A remedy that breaks a law of my own.'",
    ),
    (
        "its_docstring_explains_it_and_its_settings",
        objective(FORWARD),
        "broken.py:20: it has no docstring",
    ),
    (
        "its_docstring_explains_it_and_its_settings",
        file_of(
            '"""It does.\n\nAttributes:\n    rate: a share.\n"""\n'
            "rate: float = 0.5\ntarget: float = 4.0\n"
        ),
        "broken.py:20: the docstring does not say what target is",
    ),
    (
        "its_settings_can_be_read_without_running_it",
        file_of("neutral: ClassVar = dict(rate=0.0)\nrate: float = 0.5"),
        "broken.py:21: neutral must be a plain value, not dict(rate=0.0)",
    ),
    ("it_uses_a_lever", file_of("rate: float = 0.5"), "it overrides none of them"),
    (
        "what_it_sets_by_construction_exists",
        file_of("by_construction: ClassVar = ('rate',)"),
        "by_construction: unknown metric 'rate'; legal: ",
    ),
    (
        "a_setting_outside_its_rule_is_refused",
        file_of(
            "rate: Annotated[float, Between(0, 1)] = 0.5\n\n"
            "def __post_init__(self):\n    pass"
        ),
        "rate = 2 is taken",
    ),
    (
        "its_settings_work_up_to_their_ends",
        file_of(
            "rate: Annotated[float, Between(0, 1)] = 0.5\n\n"
            "def objective(self, forward):\n"
            "    return replace(forward, kl=forward.progress / self.rate * forward.kl)"
        ),
        "with rate = 0.0 it ends in ZeroDivisionError: ",
    ),
    (
        "its_settings_work_up_to_their_ends",
        file_of(
            "rate: Annotated[float, Between(0, 1)] = 0.5\n\n"
            "def build(self, model):\n"
            "    return {'broken': nn.Linear(2, 2) if self.rate < 1 else 0}"
        ),
        "with rate = 1.0: broken: ",
    ),
    (
        "its_settings_work_up_to_their_ends",
        file_of(
            "rate: Annotated[float, Between(0, 1)] = 0.5\n\n"
            "def objective(self, forward):\n"
            "    return replace(forward, kl=forward.kl / torch.tensor(1 - self.rate))"
        ),
        "entries at progress 0.0 with rate = 1.0",
    ),
    (
        "its_objective_is_one_finite_number_a_sentence",
        objective("return replace(forward, kl=forward.kl / forward.progress)"),
        "kl is inf in 40 of 40 entries at progress 0.0",
    ),
    (
        "its_objective_leaves_the_pass_as_it_is",
        objective("forward.kl.mul_(2.0)\n    return forward"),
        "it changes kl in place",
    ),
    (
        "its_objective_leaves_the_pass_as_it_is",
        objective("return replace(forward, z=2 * forward.z)"),
        "it replaces z",
    ),
    (
        "one_step_changes_every_parameter_it_trains",
        file_of("def build(self, model):\n    return {'broken': nn.Linear(2, 3)}"),
        "after one step further.broken.weight is as it was",
    ),
    (
        "one_step_changes_every_parameter_it_trains",
        step(
            "run.model.readout.weight.data.mul_(2)\n"
            "return step(batch, only=('head', 'decoder'), then=then)"
        ),
        "after one step readout.weight has changed, and the slots that were updated are decoder,",
    ),
    (
        "every_parameter_gets_a_gradient",
        part("decoder", "self.idle = nn.Linear(2, 3)", "return found"),
        "no gradient reaches decoder.idle.weight, decoder.idle.bias",
    ),
    (
        "its_dial_changes_no_training",
        file_of(
            "dial: ClassVar = 'weight'\nweight: float = 0.5\n\n"
            "def objective(self, forward):\n"
            "    return replace(forward, kl=self.weight * forward.kl)"
        ),
        "with weight at 1.0 weights, buffers or state after 6 steps are others",
    ),
    (
        "its_neutral_settings_are_the_plain_vae",
        file_of(
            "neutral: ClassVar = {'rate': 0.0}\nrate: float = 0.5\n\n"
            "def objective(self, forward):\n    return replace(forward, kl=2 * forward.kl)"
        ),
        "with {'rate': 0.0} the weights after 6 steps are others",
    ),
    (
        "other_settings_are_not_the_plain_vae",
        objective("return forward"),
        "after 6 steps it is the plain VAE to the bit",
    ),
    (
        "one_seed_one_result",
        objective("return replace(forward, kl=random.random() * forward.kl)"),
        "a second training of the same seed ends with other weights",
    ),
    (
        "nothing_is_decoded_beyond_the_budget",
        step(
            "run.model.eval()\n"
            "run.model(batch, torch.ones)\n"
            "run.model.train()\n"
            "return step(batch, only=only, then=then)"
        ),
        "tokens were decoded and ... paid for",
    ),
    (
        "nothing_is_decoded_beyond_the_budget",
        step(
            "try:\n    return step(batch, only=only, then=then)\n"
            "except BudgetSpentError:\n    with torch.no_grad():\n"
            "        run.model.eval()\n        return run.model(batch, torch.ones)"
        ),
        "it goes on when the budget is spent",
    ),
    (
        "nothing_is_decoded_beyond_the_budget",
        file_of(
            "def build(self, model):\n"
            "    return {'broken': nn.ModuleDict({'twin': copy.deepcopy(model.decoder)})}\n\n"
            "def objective(self, forward):\n"
            "    twin = forward.model.further['broken']['twin']\n"
            "    more = twin(forward.batch, forward.z).mean((1, 2))\n"
            "    return replace(forward, extra={'more': more})",
            "import copy\n\n",
        ),
        "tokens were decoded and ... paid for",
    ),
    (
        "a_rest_of_one_sentence_trains",
        part("pool", "pass", "return found.view(5, -1)"),
        "broken: pool must be a floating-point tensor [6, H], not a tensor [5, 18] of float32",
    ),
    (
        "it_leaves_torch_and_the_corpus_alone",
        file_of("def build(self, model):\n    torch.manual_seed(0)\n    return {}"),
        "torch is seeded when the remedy is made or built",
    ),
    (
        "it_leaves_torch_and_the_corpus_alone",
        step("torch.manual_seed(0)\nreturn step(batch, only=only, then=then)"),
        "torch is seeded in a training step",
    ),
    (
        "a_call_for_some_slots_makes_exactly_one_update",
        step("step(batch, only=only, then=then)\nreturn step(batch, only=only, then=then)"),
        "called for encoder, pool, head it makes 2 updates",
    ),
    (
        "a_call_for_some_slots_makes_exactly_one_update",
        step("return step(batch, then=then)"),
        "called for encoder, pool, head it makes 1 updates, of encoder, pool, head, prior",
    ),
    (
        "a_call_for_some_slots_makes_exactly_one_update",
        step(
            "if only != SLOTS:\n    return step(batch, only=only, then=then)\n"
            "return step(batch, then=lambda f: then(replace(f, kl=0.5 * f.kl)))"
        ),
        "its own objective acts on a whole step, and not when called for encoder, pool, head",
    ),
    (
        "an_objective_given_to_a_step_acts_on_every_update",
        step("return step(batch, only=only)"),
        "with a `then`, it acts on 0 of 1 updates",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step(
            "count[0] += 1\n"
            "return step(batch, only=only, then=lambda f: replace(f, kl=count[0] * f.kl))"
        ),
        "training depends on what is kept elsewhere, in a closure or a global",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        part("decoder", "self.seen = 0.0", SEEN),
        "training depends on what is kept elsewhere: decoder.seen",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        part("decoder", "self.seen = iter(range(1, 99))", "return found * next(self.seen)"),
        "training depends on what is kept elsewhere",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        file_of("def step(self, step, run):\n    step(run.draw())\n    return step"),
        "or `step` begins anew when it is called again; it was cut after",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step(
            "seen = run.__dict__.setdefault('seen', set())\n"
            "weight = 0.5 if seen.issuperset(batch.index.tolist()) else 0.9\n"
            "seen.update(batch.index.tolist())\n"
            "return step(batch, only=only, then=lambda f: replace(f, kl=weight * f.kl))"
        ),
        "training depends on what is kept elsewhere, in a closure or a global",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step(
            "for _ in range(20):\n"
            "    count[0] += 1\n"
            "    last = step(batch, only=only, then=lambda f: replace(f, kl=count[0] * f.kl))\n"
            "return last"
        ),
        "training depends on what is kept elsewhere, in a closure or a global",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step("run.state['broken'] = {1: 2}\nreturn step(batch, only=only, then=then)"),
        "run.state does not come back from JSON as it is",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step("run.state['other'] = 1\nreturn step(batch, only=only, then=then)"),
        "run.state has 'other'",
    ),
    (
        "what_lasts_is_in_buffers_or_in_its_state",
        step("run.state['broken'] = torch.ones(1)\nreturn step(batch, only=only, then=then)"),
        "run.state is not what JSON knows",
    ),
    (
        "evaluation_changes_nothing_and_repeats",
        part(
            "decoder",
            "self.register_buffer('calls', torch.zeros(()))",
            "self.calls += 1\n        return found",
        ),
        "evaluating changes decoder.calls",
    ),
    (
        "evaluation_changes_nothing_and_repeats",
        part("decoder", "self.calls = 0", "self.calls += 1\n        return found * self.calls"),
        "a second evaluation gives another ... distortion",
    ),
    (
        "evaluation_is_the_same_for_every_batch_size",
        part("pool", "pass", "return found - found.mean(0)"),
        "with 4 at once",
    ),
    (
        "evaluation_leaves_one_row_a_sentence",
        part("head", "pass", "return diagonal_normal(found.mean, 0 * found.stddev)"),
        "is not finite",
    ),
    (
        "evaluation_does_not_know_how_the_model_was_trained",
        step(
            "wide = lambda q, batch: diagonal_normal(0 * q.mean, 2 + 0 * q.mean)\n"
            "run.model.prior.forward = wide\n"
            "return step(batch, only=only, then=then)"
        ),
        "with the remedy kl",
    ),
    (
        "a_saved_model_evaluates_the_same",
        part("decoder", "self.seen = 1.0", SEEN),
        "read into a new model ... distortion ... is another",
    ),
    (
        "padding_changes_nothing",
        part("pool", "pass", "return given[0].mean(1)"),
        "with more padding the draw of the posterior moves by up to",
    ),
    (
        "no_sentence_depends_on_its_neighbours",
        part("pool", "pass", "return found - found.mean(0)"),
        "another sentence's word moves the draw of the posterior by up to",
    ),
    (
        "its_bound_is_one",
        part("prior", "pass", "return diagonal_normal(given[0].mean, given[0].stddev)"),
        "its bound is conditional: the prior depends on the sentence",
    ),
    (
        "its_bound_is_one",
        part(
            "decoder",
            "pass",
            "return self.part(replace(given[0], inputs=given[0].targets), given[1])",
        ),
        "its bound is invalid: ",
    ),
    (
        "its_signature_is_as_it_says",
        signed("{'simple': 'use'}"),
        "signature names the task 'simple'; there are nothing, hard, easy",
    ),
    (
        "its_signature_is_as_it_says",
        signed("{'easy': 'healthy'}"),
        "signature says 'healthy' of easy; legal: 'collapsed', 'rate without use', 'use'",
    ),
    (
        "its_signature_is_as_it_says",
        signed("{'easy': 'use'}", weight=8),
        "on easy it is 'collapsed' (R 0.0 ... and not 'use'",
    ),
]  # fmt: skip
