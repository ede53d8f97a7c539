"""The smoke suite from the command line, on the device."""

from pathlib import Path

from harness import Tell
from setting import SMOKE, Setting

from collapse_bench.cli import main
from collapse_bench.metrics import key_of
from collapse_bench.record import read_records


def run(setting: Setting, tell: Tell) -> None:
    runs = setting.out / "runs"
    short = ["--only", "vae/lstm/1", "--budget", "300"] if setting.rehearse else []
    code = main(["run", str(SMOKE), "--device", setting.device, "--out", str(runs),
                 "--workers", str(setting.of_size(8, 1)), *short])  # fmt: skip
    tell.fact("exit code", code)
    tell_records(runs / SMOKE.stem, tell)
    if code:
        raise RuntimeError(f"the run ended with {code}; see the table")


def tell_records(folder: Path, tell: Tell) -> None:
    """A row for each record of a suite's runs."""
    for record in read_records(folder):
        cost = record["cost"]
        reason = (record["error"] or "").strip().splitlines()
        tell.row(
            cell=f"{record['entry']}/{record['architecture']}/{record['seed']}",
            status=record["status"],
            seconds=cost["seconds"],
            tokens=cost["tokens_decoded"],
            nll=(record["metrics"] or {}).get(key_of("nll")),
            bound=record["bound"],
            **{"host MiB": cost["peak_memory_mib"], "GPU MiB": cost["peak_gpu_memory_mib"]},
            reason=reason[-1] if reason else "",
        )
