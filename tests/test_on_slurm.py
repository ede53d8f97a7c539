"""Cells as jobs of SLURM: through submitit's imitation of it, and up to what sbatch is given."""

import errno
import io
import json
import os
import re
import signal
import stat
import sys
import time
from dataclasses import replace

import pytest
from afar_cells import descendants, in_the_middle, planned, same_results, until, write_suite

from collapse_bench import lease
from collapse_bench.errors import DiskError, UserError
from collapse_bench.progress import Progress
from collapse_bench.record import read_record
from collapse_bench.runner import Ended, Local, Reported, engine_on, run_jobs

pytest.importorskip("submitit")

from collapse_bench.runner import on_slurm
from collapse_bench.runner.on_slurm import FOLDER, Slurm
from collapse_bench.runner.sbatch import minutes_of, parameters


def test_a_job_that_is_signalled_goes_on_from_its_checkpoint_as_one_that_was_not(tmp_path):
    """As SLURM does before a job's time is over: every process of the job is signalled."""
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    engine, told = Slurm({"time": "30"}, cluster="local"), []
    engine.submit(job)
    until(lambda: told.extend(engine.events(0.2)) or in_the_middle(tmp_path))
    [submitted] = engine._submitted
    for process in descendants(submitted.handle._process.pid):
        os.kill(process, signal.SIGUSR2)
    until(lambda: (seen := lease.read_lease(job.folder)) and seen.stopped, 60)
    first = in_the_middle(tmp_path)
    until(lambda: told.extend(engine.events(0.2)) or in_the_middle(tmp_path) - first)
    (tmp_path / "go").touch()
    until(lambda: told.extend(engine.events(0.2)) or isinstance(told[-1], Ended))
    assert told[-1].outcome.kind == "recorded"
    assert sum("began" in each.told for each in told[:-1]) == 1, "its time counts from the first"
    assert read_record(job.folder / "record.json")["cost"]["attempts"] == 2, "a checkpoint was left"
    run_jobs(planned(tmp_path, "whole"), Local(1), Progress(1, io.StringIO()))
    same_results(tmp_path / "whole" / "trial", tmp_path / "runs" / "trial")


class LetGo(Progress):
    """Lets the cells go once one is seen to be left to others."""

    folder = None

    def elsewhere(self, job, owner):
        super().elsewhere(job, owner)
        (self.folder / "go").touch()


def test_an_interrupted_run_leaves_its_jobs_which_the_next_one_waits_for(tmp_path, capsys):
    write_suite(tmp_path, mine="[paced]")
    (job,) = jobs = planned(tmp_path, "runs")
    engine = Slurm({}, cluster="local")
    engine.submit(job)
    until(lambda: engine.events(0.2) and in_the_middle(tmp_path))
    [number] = (each.handle.job_id for each in engine._submitted)
    engine.close(3.0)
    assert f"left running: 1 cell, as {number} in SLURM; " in capsys.readouterr().err
    out = io.StringIO()
    progress = LetGo(1, out)
    progress.folder = tmp_path
    (record,) = run_jobs(jobs, Slurm({}, cluster="local"), progress)
    assert record["status"] == "done"
    assert record["cost"]["attempts"] == 1
    assert "left to process" in out.getvalue()
    assert "finished before, kept" in out.getvalue()


def test_a_job_that_is_told_to_end_or_that_cannot_begin_is_an_outcome(tmp_path):
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    engine = Slurm({}, cluster="local")

    def ends():
        return until(lambda: [each for each in engine.events(0.2) if isinstance(each, Ended)])

    engine.submit(job)
    engine.kill(job)
    assert [each.outcome.kind for each in ends()] == ["killed"], "before it was submitted"
    engine.submit(job)
    until(lambda: engine.events(0.2) and in_the_middle(tmp_path))
    engine.kill(job)
    assert [each.outcome.why for each in ends()] == ["it was ended by this run"]
    [corpus] = (job.folder.parent / FOLDER).glob("corpus-*.pkl")
    corpus.write_bytes(b"no pickle")
    engine.submit(job)
    [ended] = ends()
    assert ended.outcome.kind == "failed"
    assert "UnpicklingError" in ended.outcome.why
    assert str(job.folder.parent / FOLDER) in ended.outcome.why


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A login node on which sbatch keeps what it is given, and all jobs wait for ever."""
    told = tmp_path / "bin"
    told.mkdir()
    scripts = {
        "sbatch": f'cp "$1" {told}/script.$$; echo "Submitted batch job 7"',
        "srun": "exit 1",
        "sacct": r"printf 'JobID|State|NodeList\n7_[0-1]|PENDING|\n'",
        "scancel": f'echo "$@" >> {told}/cancelled',
    }
    for name, line in scripts.items():
        (told / name).write_text(f"#!/bin/sh\n{line}\n")
        (told / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{told}:{os.environ['PATH']}")
    return told


def test_all_cells_that_may_begin_are_one_array_whose_script_sbatch_can_read(
    sbatch, tmp_path, capsys
):
    """By the manual of sbatch: a line `#!`, options before any command, and what each means."""
    write_suite(tmp_path, vae="[]", annealed="[kl_annealing]")
    jobs = planned(tmp_path, "runs")
    engine = Slurm({"time": "1-2:30", "partition": "cpu", "mail-type": "END"}, workers=5)
    for job in jobs:
        engine.submit(job)
    assert engine.events(0.0) == []
    [path] = sbatch.glob("script.*")
    shebang, *lines = path.read_text().splitlines()
    assert shebang == "#!/bin/bash"
    commands = [i for i, line in enumerate(lines) if line and line[0] != "#"]
    asked = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert max(asked) < min(commands)
    options = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(.*))?", lines[i]).groups() for i in asked)
    folder = tmp_path / "runs" / "trial" / FOLDER
    expected = {
        "array": "0-1%2",
        "time": "1590",  # in minutes
        "signal": "USR2@90",  # to the steps of the job, so many seconds before its end
        "open-mode": "append",  # a job that is put back goes on with its files
        "requeue": None,
        "partition": "cpu",
        "mail-type": "END",
        "cpus-per-task": "1",
        "job-name": "trial",
        "nodes": "1",
        "output": f"{folder}/%A_%a_0_log.out",
    }
    assert options.items() >= expected.items()
    assert "mem" not in options
    [step] = [lines[i] for i in commands if lines[i].startswith("srun ")]
    assert "--cpus-per-task=1" in step, "a step takes it no longer from its job, since 22.05"
    assert step.endswith(f"{sys.executable} -u -m submitit.core._submit {folder}")
    [path] = [lines[i] for i in commands if lines[i].startswith("export PYTHONPATH=")]
    assert len(list(folder.glob("7_*_submitted.pkl"))) == 2
    assert len(list(folder.glob("corpus-*.pkl"))) == 1
    engine.kill(jobs[1])
    until((sbatch / "cancelled").exists)
    assert (sbatch / "cancelled").read_text() == "7_1\n"
    engine.close(0)
    assert "left running: 2 cells, as 7 in SLURM; " in capsys.readouterr().err


def test_a_job_that_dies_without_a_word_is_told_of_once_its_lease_has_expired(
    sbatch, tmp_path, monkeypatch
):
    """Before that no record of it can be written, and the cell would be run again without end."""
    monkeypatch.setattr(on_slurm, "LATE", 0.0)
    (sbatch / "sacct").write_text(
        "#!/bin/sh\nprintf 'JobID|State|NodeList\\n7|OUT_OF_MEMORY|n\\n'\n"
    )
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    engine = Slurm({})
    engine.submit(job)
    with job.hold():
        told = json.loads((job.folder / lease.LEASE).read_text())
    path = job.folder / lease.LEASE
    path.write_text(json.dumps(told | {"machine": "another"}))
    assert not any(isinstance(each, Ended) for each in engine.events(0.5))
    os.utime(path, (0, time.time() - lease.EXPIRY - 1))
    [ended] = engine.events(0.5)
    assert ended.outcome.kind == "killed"
    assert "the SLURM job 7 is over (OUT_OF_MEMORY)" in ended.outcome.why


def test_a_cell_that_is_put_back_into_the_queue_begins_once(sbatch, tmp_path, monkeypatch):
    """What `--timeout` counts from, and an attempt has a lease of its own."""
    monkeypatch.setattr("collapse_bench.runner.on_slurm.PACE", 0.0)
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    engine = Slurm({})
    engine.submit(job)
    engine.events(0.0)
    for tokens, told in ((5, [{"began": True}, {"tokens": 5}]), (3, [{"tokens": 3}])):
        with job.hold() as holding:
            holding.tell({"tokens": tokens, "evaluating": True})
            assert engine.events(0.0) == [Reported(job, each) for each in told]


def test_what_sbatch_says_is_told_in_words(sbatch, tmp_path):
    (sbatch / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    engine = Slurm({"partition": "none"})
    engine.submit(job)
    with pytest.raises(UserError, match="sbatch refuses: invalid partition"):
        engine.events(0.0)


def test_what_the_system_says_of_a_file_is_not_taken_for_what_sbatch_says(
    sbatch, tmp_path, monkeypatch
):
    from submitit.core.utils import CommandFunction, DelayedSubmission

    def refuses(number):
        def refused(*given):
            raise OSError(number, os.strerror(number))

        return refused

    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    engine = Slurm({})
    with monkeypatch.context() as patched:
        patched.setattr(DelayedSubmission, "dump", refuses(errno.ENOSPC))
        engine.submit(job)
        with pytest.raises(DiskError, match=f"{FOLDER}: cannot be written: No space left.* free"):
            engine.events(0.0)
    with monkeypatch.context() as patched:
        patched.setattr(CommandFunction, "__call__", refuses(errno.EAGAIN))
        engine.submit(job)
        with pytest.raises(UserError, match=r"sbatch refuses: .*temporarily un") as no_room:
            engine.events(0.0)
    (sbatch / "sbatch").unlink()
    engine.submit(job)
    with pytest.raises(UserError, match=r"sbatch refuses: .*No such file.*'sbatch'") as no_program:
        engine.events(0.0)
    assert {no_room.type, no_program.type} == {UserError}, "of a program, not of a file"


def test_slurm_is_asked_for_what_a_cell_needs_and_the_user_has_the_last_word(tmp_path):
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    large = replace(
        job,
        memory=2**30,
        device="cuda",
        cell=replace(job.cell, training=replace(job.cell.training, threads=3)),
    )
    told = parameters({}, large, None)
    assert (told["mem"], told["cpus_per_task"], told["gpus_per_node"]) == ("3072M", "3", 1)
    told = parameters({"gres": "gpu:a100:1", "mem": "9G"}, large, None)
    assert "gpus_per_node" not in told
    assert told["additional_parameters"] == {"requeue": True, "gres": "gpu:a100:1", "mem": "9G"}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 90.5), ("1:30:00", 90), ("2-12", 3600), ("1-2:30", 1590), ("0:30", 0.5)],
)
def test_a_time_is_read_as_slurm_reads_it(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"time": "soon"}, "time: must be as SLURM writes it.*'soon'"),
        ({"time": "3"}, "time: must be more than 180 s.*not 180 s"),
        ({"signal-delay-s": "x"}, "signal_delay_s: must be whole seconds, not 'x'"),
        ({"array": "0-3"}, "array: is set by the bench; leave it out"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(given, why):
    with pytest.raises(UserError, match=why):
        Slurm(given, cluster="local")


def test_where_there_is_no_slurm_or_no_submitit_it_is_said(monkeypatch):
    place = {"workers": None, "at_once": 1, "slurm": {}}
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch or no srun; run it on a login node"):
        engine_on("slurm", **place)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'collapse_bench\[slurm\]'"):
        engine_on("slurm", **place)
    for other in ("local", "ray"):
        with pytest.raises(UserError, match=f"is for --on slurm, not --on {other}"):
            engine_on(other, **place | {"slurm": {"time": "90"}})
