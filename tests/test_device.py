"""What a cell computes on, and that nothing is asked of a GPU to write a record."""

import io
import os
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from conftest import SIZES, TRAINING

from collapse_bench import device
from collapse_bench.cell import run_cell
from collapse_bench.device import full_float32, name_of_device, prepare, resolve_device
from collapse_bench.errors import UserError
from collapse_bench.job import describe
from collapse_bench.progress import Progress
from collapse_bench.record import RECORD, read_record, write_record
from collapse_bench.runner import Ended, Local, Outcome, local, plan, run_jobs
from collapse_bench.runner.local import Worker, _outcome
from collapse_bench.suite import Cell, CorpusSettings, Entry, Evaluation, cell_id


@pytest.fixture(autouse=True)
def as_before():
    """A worker process keeps what it sets; the other tests shall not see it."""
    precisions, sdp = device.float32(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_cudnn_sdp(sdp)
    device.set_float32(precisions)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that tells its name and its instructions, and can do nothing else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Imaginary")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


@pytest.fixture
def broken(monkeypatch):
    """Make a GPU that was there fail whatever it is asked from now on."""

    def fail(*arguments, **keywords):
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    def broken():
        for name in ("get_device_name", "is_bf16_supported", "init", "_lazy_init"):
            monkeypatch.setattr(torch.cuda, name, fail)

    return broken


@pytest.fixture
def job(corpus, tmp_path):
    def job(on="cpu", **training):
        cell = Cell(
            "tiny", Entry("vae"), "lstm", 1, CorpusSettings(), SIZES,
            replace(TRAINING, precision="auto", **training),
            Evaluation(samples=2, precision="float32"),
        )  # fmt: skip
        return plan([cell], corpus, tmp_path, budget=300, device=on, remedy_files={})[0]

    return job


# Which device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    for there, found in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == found
        assert resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda: torch finds no GPU here"):
        resolve_device("cuda")


def test_a_gpu_that_fails_is_told_before_any_cell_starts(gpu, broken, job):
    assert name_of_device("cuda") == "NVIDIA Imaginary"
    broken()
    with pytest.raises(UserError, match="cannot be used: CUDA error: out of memory; free it"):
        job("cuda")


# A record needs no GPU


def test_a_record_names_the_gpu_without_asking_it(gpu, broken, job):
    planned = job("cuda")
    broken()
    record = describe(planned)
    assert record["environment"]["device"] == record["scored"]["device"] == "NVIDIA Imaginary"
    assert record["environment"]["precision"] == {"training": "bfloat16", "evaluation": "float32"}
    assert record["environment"]["deterministic"] is False
    assert record["cost"]["peak_gpu_memory_mib"] is None


def test_a_cell_whose_gpu_fails_has_a_record_that_says_so(gpu, broken, job):
    planned = job("cuda")
    broken()
    record = run_cell(planned, lambda said: None)
    assert record["status"] == "failed"
    assert read_record(planned.folder / RECORD) == record


def test_the_parent_records_a_worker_that_died_without_asking_the_gpu(gpu, broken, job):
    planned = job("cuda")
    broken()

    class Dead:
        """An engine whose only cell is dead."""

        queues = False

        def room(self):
            return True

        def submit(self, job):
            self.job = job

        def events(self, seconds):
            process = type("Process", (), {"exitcode": -9})()
            return [Ended(self.job, _outcome(Worker(self.job, process, None)))]

        def close(self, grace):
            pass

    (record,) = run_jobs([planned], Dead(), Progress(1, io.StringIO()))
    assert record["status"] == "killed"
    assert record["environment"]["device"] == "NVIDIA Imaginary"


# Metrics beside the next cell's training


def pretend(job, reports, log, seconds):
    """A cell that says that it measures, and ends once another one trains, or after a while."""
    with log.open("a") as file:
        file.write(f"{job.cell.seed} trains\n")
    reports.send({"began": True})
    reports.send({"measuring": True})
    until = time.monotonic() + seconds
    while len(log.read_text().splitlines()) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    with log.open("a") as file:
        file.write(f"{job.cell.seed} ends\n")
    write_record(job.folder, describe(job) | {"status": "done", "verdict": "collapsed"})
    reports.send({"ended": Outcome("recorded")})


@pytest.mark.parametrize(
    ("on", "seconds", "order"),
    [("cuda", 20, ["1 trains", "2 trains"]), ("cpu", 1, ["1 trains", "1 ends", "2 trains"])],
)
def test_on_a_gpu_a_cell_trains_while_another_is_measured(
    on, seconds, order, gpu, job, monkeypatch, tmp_path
):
    first = job(on)
    second = replace(first, id="second", folder=tmp_path / "second")
    second = replace(second, cell=replace(first.cell, seed=2))
    context, log = get_context("fork"), tmp_path / "log"

    def start(job):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=pretend, args=(job, send, log, seconds))
        process.start()
        send.close()
        return Worker(job, process, receive)

    monkeypatch.setattr(local, "_start", start)
    records = run_jobs([first, second], Local(1), Progress(2, io.StringIO()))
    assert [record["status"] for record in records] == ["done", "done"]
    assert log.read_text().splitlines()[: len(order)] == order


def test_a_cell_says_when_its_model_has_been_evaluated(job):
    told = []
    run_cell(job(), told.append)
    assert told[-2:] == [{"measuring": True}, {"recording": True}]


# Memory and digits


def test_gpu_memory_is_in_the_record_where_there_is_one(job, monkeypatch):
    record = run_cell(job(), lambda said: None)
    assert record["status"] == "done", record["error"]
    assert record["cost"]["peak_gpu_memory_mib"] is None
    assert record["environment"]["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20 + 2**19)
    assert device.peak_gpu_memory_mib("cuda") == 3.5


def test_float32_products_have_all_digits_inside_and_are_as_before_afterwards():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.allow_tf32 = True
    with full_float32():
        assert device.float32() == device.FULL
        # Torch's own context has to work in it: see `float32`.
        with torch.backends.cudnn.flags(enabled=False):
            pass
        assert device.float32() == device.FULL
    assert device.float32() == ("tf32", True)


# Repeating bit for bit


def test_deterministic_is_part_of_the_cell_only_where_it_is_asked_for(job, corpus):
    def identity(cell):
        return cell_id(cell, corpus.name, corpus.sha256, corpus.labels_sha256, 300)

    plain, strict = job(), job(deterministic=True)
    assert identity(plain.cell) == plain.id != strict.id
    assert describe(strict)["settings"]["training"]["deterministic"] is True
    assert describe(strict)["environment"]["deterministic"] is True
    # On a processor all is, asked for or not.
    assert describe(plain)["environment"]["deterministic"] is True


def test_captures_are_part_of_the_cell_only_where_they_are_asked_for(job, corpus):
    plain, captured = job(), job(captured=True)
    assert plain.id != captured.id
    assert describe(captured)["settings"]["training"]["captured"] is True
    for planned, why in ((plain, "training.captured is false"), (captured, None)):
        record = run_cell(planned, lambda said: None)
        assert record["status"] == "done", record["error"]
        assert record["environment"]["eager"] == why
        assert record["metrics"] == run_cell(plain, lambda said: None)["metrics"]


def test_a_cell_has_the_id_that_it_had_before_there_was_the_setting(job):
    assert cell_id(job().cell, "newswire", "0" * 64, None, 300) == "vae-lstm-1-979d5b4a"


def test_the_process_is_made_deterministic_before_a_gpu_is_touched():
    prepare(1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    prepare(1, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_deterministic_cell_trains_and_is_the_same_on_a_processor(job, architecture):
    records = {}
    for strict in (False, True):
        planned = job(deterministic=strict)
        cell = replace(planned.cell, architecture=architecture)
        record = run_cell(replace(planned, cell=cell), lambda said: None)
        assert record["status"] == "done", record["error"]
        records[strict] = record
    assert records[True]["metrics"] == records[False]["metrics"]
