"""Two whole cells of ptb-paper, trained side by side for a part of its budget and evaluated."""

from dataclasses import replace

from harness import Tell
from setting import PAPER, Setting
from smoke import tell_records

from collapse_bench.plugins import remedy_files
from collapse_bench.progress import Progress
from collapse_bench.runner import Local, plan, run_jobs

NAMES, BUDGET = ("vae/lstm/1", "word_dropout/transformer/1"), 1_500_000


def run(setting: Setting, tell: Tell) -> None:
    runs = setting.out / "runs"
    chosen = [setting.cell(name) for name in NAMES]
    if not setting.rehearse:
        # Validated as often in so many tokens as in the whole budget.
        chosen = [replace(c, training=replace(c.training, validations=2)) for c in chosen]
    jobs = plan(
        chosen, setting.corpus, runs,
        budget=setting.of_size(BUDGET, 300), device=setting.device, remedy_files=remedy_files(),
    )  # fmt: skip
    run_jobs(jobs, Local(setting.of_size(2, 1)), Progress(len(jobs)))
    tell_records(runs / PAPER.stem, tell)
