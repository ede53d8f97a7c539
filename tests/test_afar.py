"""What is sent of a cell to another machine, and what comes back."""

import io
import os
import pickle
import signal
from dataclasses import replace

import pytest
from afar_cells import planned, write_suite

from collapse_bench import lease
from collapse_bench.cli import build_parser
from collapse_bench.plugins import BUILT_IN, fingerprint
from collapse_bench.progress import Progress
from collapse_bench.provenance import CODE, SENT, commit
from collapse_bench.record import read_record, write_record
from collapse_bench.runner import afar
from collapse_bench.runner.engine import Ended


def test_a_job_arrives_as_it_was_sent_without_its_corpus(tmp_path):
    write_suite(tmp_path, mine="[paced, kl_annealing]")
    (job,) = planned(tmp_path, "runs")
    sent = pickle.dumps(afar.pack(job))
    assert len(sent) < 10_000 < len(pickle.dumps(job.corpus))
    found = afar.unpack(pickle.loads(sent), job.corpus, tmp_path)
    assert replace(found, remedy_files=job.remedy_files) == job
    assert found.remedy_files["paced"] == tmp_path / "paced.py", "it is there"
    assert found.remedy_files["kl_annealing"].is_relative_to(BUILT_IN)


def test_a_plugin_that_is_not_there_or_is_another_one_there_is_the_one_that_was_sent(tmp_path):
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    parcel, scratch = afar.pack(job), tmp_path / "scratch"
    scratch.mkdir()
    [remedy] = job.cell.entry.remedies
    for change in ((tmp_path / "paced.py").unlink, lambda: (tmp_path / "paced.py").write_text("x")):
        change()
        path = afar.unpack(parcel, job.corpus, scratch).remedy_files["paced"]
        assert path == scratch / "paced.py"
        assert fingerprint(path) == remedy.sha256


def test_the_code_of_another_version_is_an_outcome_in_words(tmp_path):
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    other = replace(job, code=64 * "f")
    *_, ended = afar.follow(other, afar.begin(other), 0)
    assert (ended.outcome.kind, other.code == CODE) == ("recorded", False)
    record = read_record(job.folder / "record.json")
    assert record["status"] == "failed"
    assert "this machine has another version" in record["error"]


def test_a_cell_that_dies_on_its_machine_keeps_no_other_waiting(tmp_path):
    """Its lease would be believed elsewhere until it expires."""
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    told = afar.follow(job, afar.begin(job), 0)
    for event in told:
        if "began" in event.told:
            os.kill(lease.read_lease(job.folder).process, signal.SIGKILL)
            break
    *_, ended = told
    assert isinstance(ended, Ended)
    assert ended.outcome.kind == "killed"
    assert lease.read_lease(job.folder) is None


def test_only_the_lease_of_a_dead_owner_of_this_machine_is_removed(tmp_path, monkeypatch):
    with lease.hold(tmp_path / "cell", {"training": {"budget": 1}}):
        lease.bury(tmp_path / "cell")
        assert lease.read_lease(tmp_path / "cell").process == os.getpid()
        monkeypatch.setattr(lease, "_exists", lambda process: False)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "this_machine", lambda: "another")
            lease.bury(tmp_path / "cell")
        assert lease.read_lease(tmp_path / "cell")
        lease.bury(tmp_path / "cell")
        assert lease.read_lease(tmp_path / "cell") is None


def test_what_comes_home_replaces_what_was_sent_and_no_result(tmp_path):
    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    before = {"checkpoint-000000000100.pt": b"old"}
    afar.put_files(job.folder, before)
    (job.folder / ".hidden").touch()
    assert afar.files_of(job.folder) == before
    write_record(tmp_path / "there", {"schema": 4, "status": "done"})
    after = {**afar.files_of(tmp_path / "there"), "model.safetensors": b"m", "sentences.npz": b"s"}
    assert afar.bring_home(job, before, after).kind == "recorded"
    assert afar.files_of(job.folder) == after
    assert afar.bring_home(job, {}, {"record.json": b"another"}).kind == "kept"
    assert afar.files_of(job.folder) == after
    with job.hold():
        assert afar.bring_home(job, {}, after).kind == "busy"


def test_the_commit_of_code_that_was_sent_is_what_the_sender_says(monkeypatch, tmp_path):
    monkeypatch.setenv(SENT, "0123456789ab")
    monkeypatch.setattr("collapse_bench.provenance.__file__", str(tmp_path / "a" / "b.py"))
    commit.cache_clear()
    try:
        assert commit() == "0123456789ab"
    finally:
        commit.cache_clear()


def test_a_cell_of_which_only_tokens_are_seen_has_a_line_of_its_own(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    write_suite(tmp_path, vae="[]")
    (job,) = planned(tmp_path, "runs")
    out = Terminal()
    progress = Progress(1, out)
    for _ in range(2):  # it has lost its machine
        progress.started(job)
    assert [bar.pos for bar in progress._bars.values()] == [0], "and no second line"
    progress.reported(job, {"tokens": job.budget})
    progress.close()
    assert "15.0k/15.0k" in out.getvalue()
    assert "loss" not in out.getvalue()


def test_places_and_their_options_are_read_from_the_command_line(capsys):
    def read(*given):
        return build_parser().parse_args(["run", "a.yaml", *given])

    assert read().on == "local"
    for place in ("local", "ray", "ray:head.of.it:6379", "slurm"):
        assert read("--on", place).on == place
    given = read("--slurm", "time=2:00:00", "--slurm", "gres=gpu:a=b").slurm
    assert given == [("time", "2:00:00"), ("gres", "gpu:a=b")]
    for wrong, rule in {
        "--on=ray://head:1": "must be local, ray, ray:HOST:PORT or slurm, not 'ray://head:1'",
        "--on=cloud": "must be local, ray, ray:HOST:PORT or slurm, not 'cloud'",
        "--slurm=time": "must be KEY=VALUE, such as time=120, not 'time'",
    }.items():
        with pytest.raises(SystemExit):
            read(wrong)
        assert rule in capsys.readouterr().err
