"""What a run shows: live lines on a terminal, and one plain line per cell everywhere else."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from collapse_bench.job import Job
from collapse_bench.metrics import key_of
from collapse_bench.writing import flush_or_give_up


class Progress:
    """Told of every start, report and end of a cell.

    Args:
        total: cells of the run.
        stream: where to write, standard output if None; live lines are drawn only on a terminal.
        verbose: whether to say of each cell why its passes were not replayed.
    """

    def __init__(self, total: int, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self.total = total
        self.stream: Any = _Lenient(stream or sys.stdout)
        self.verbose = verbose
        self.finished = 0
        self.live = self.stream.isatty()
        self._bars: dict[str, tqdm[Any]] = {}
        self._elsewhere: set[str] = set()

    def skipped(self, job: "Job", record: Mapping[str, Any]) -> None:
        """A cell that keeps the record of an earlier run, or of one beside this."""
        self.finished += 1
        told, status = "finished before, kept", record["status"]
        times = 1 + len(record.get("attempts", []))
        if status != "done":
            again = status if status in ("failed", "diverged") else "killed"
            tried = f", in {times} attempts" if times > 1 else ""
            told = f"{status} before{tried}, kept; --retry {again} runs it again"
        self._line(f"{self._count()} {job.cell.name}: {told}")

    def elsewhere(self, job: "Job", owner: str) -> None:
        """A cell that another run is at; said once."""
        if job.id not in self._elsewhere:
            self._elsewhere.add(job.id)
            self._line(f"{self._count()} {job.cell.name}: left to {owner}")

    def started(self, job: "Job") -> None:
        """A cell that begins, or begins again."""
        if self.live:
            from tqdm import tqdm

            if before := self._bars.pop(job.id, None):
                before.close()
            taken = {bar.pos for bar in self._bars.values()}
            free = next(row for row in range(len(taken) + 1) if -row not in taken)
            self._bars[job.id] = tqdm(
                total=job.budget,
                desc=job.cell.name,
                unit="tok",
                unit_scale=True,
                position=free,
                leave=False,
                file=self.stream,
            )

    def reported(self, job: "Job", report: Mapping[str, Any]) -> None:
        """About once a second while a cell trains; `tokens`, `loss` and `kl`, nats a sentence, the
        first alone where a cell is only seen from afar.

        Or `said`, a line of its own, or what is not for the user.
        """
        if "said" in report:
            self._line(f"{self._count()} {job.cell.name}: {report['said']}")
            return
        bar = self._bars.get(job.id)
        if bar is not None and "tokens" in report:
            bar.update(min(int(report["tokens"]), job.budget) - bar.n)
            known = "loss" in report
            bar.set_postfix_str(f"loss {report['loss']:.1f} KL {report['kl']:.2f}" if known else "")

    def ended(self, job: "Job", record: Mapping[str, Any]) -> None:
        """A cell that has left a record."""
        self.finished += 1
        bar = self._bars.pop(job.id, None)
        if bar is not None:
            bar.close()
        files = {str(job.remedy_files[each.name]) for each in job.cell.entry.remedies}
        self._line(f"{self._count()} {job.cell.name}: {summary(record, files)}")
        if self.verbose and (why := record["environment"]["eager"]):
            self._line(f"    passes were not replayed: {why}")

    def close(self) -> None:
        """Take the live lines away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
        self.stream.close_quietly()

    def _count(self) -> str:
        return f"[{self.finished}/{self.total}]"

    def _line(self, text: str) -> None:
        if self.live:
            from tqdm import tqdm

            tqdm.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)


class _Lenient:
    """A stream whose full disk, or whose terminal that is gone, ends no run: what is shown is in
    the records, too. One whose reader has seen enough does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _unless_it_cannot():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _unless_it_cannot():
            self._stream.flush()

    def close_quietly(self) -> None:
        """Give up what could not be written until the end."""
        flush_or_give_up(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _unless_it_cannot() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:  # it may have room again in a moment
        pass


FRAME = re.compile(r'^  File "(.+)", line (\d+)')


def reason(trace: str, files: Collection[str]) -> str:
    """What a traceback ends with, in one line, and where in these files it came from."""
    lines = trace.strip().splitlines() or [""]
    frames = [(i, found) for i, line in enumerate(lines) if (found := FRAME.match(line))]
    after = lines[frames[-1][0] + 1 :] if frames else lines[-1:]
    said = next((line for line in after if not line.startswith(" ")), lines[-1])
    said = re.sub(r"^collapse_bench\.[\w.]+: ", "", said)
    within = [":".join(found.groups()) for _, found in frames if found[1] in files]
    return f"{said} ({within[-1]})" if within else said


TOLD = ("nll", "useful_beyond", "kl")


def summary(record: Mapping[str, Any], files: Collection[str] = ()) -> str:
    """A record in one line.

    Args:
        record: of a cell.
        files: of its remedies, named where one of them ended it.
    """
    cost = record["cost"]
    if record["status"] != "done":
        why = reason(record["error"] or "", files)
        return f"{record['status']} after {cost['seconds']:.0f} s: {why}"
    nll, useful, rate = (record["metrics"].get(key_of(name), 0.0) for name in TOLD)
    bound = "" if record["bound"] in ("valid", "oracle") else f", {record['bound']} bound"
    used = (
        f"  useful beyond length and first words {useful:z.2f} of rate {rate:z.2f}"
        if record["latent"]
        else ""
    )
    return f"NLL {nll:.2f}{used}, {record['verdict']}{bound}, in {cost['seconds']:.0f} s"
