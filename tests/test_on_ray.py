"""Cells on a Ray cluster whose machines are processes here: real raylets, really killed."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from afar_cells import descendants, in_the_middle, planned, same_results, until, write_suite

from collapse_bench import lease
from collapse_bench.errors import DiskError, UserError
from collapse_bench.interruption import GRACE
from collapse_bench.progress import Progress
from collapse_bench.record import read_record
from collapse_bench.runner import Ended, Local, Reported, engine_on, run_jobs

pytest.importorskip("ray")

from collapse_bench.runner import on_ray
from collapse_bench.runner.engine import Outcome
from collapse_bench.runner.on_ray import Ray

FATAL = '''\
"""A remedy that ends its process."""

import os
import signal
import socket
from dataclasses import dataclass

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Fatal(Remedy):
    def objective(self, forward):
        os.kill(os.getpid(), signal.SIGKILL)
'''

STORE = {"object_store_memory": 100 * 2**20}
MACHINE = {"num_cpus": 1, **STORE}


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing, without which there is no cluster, and two machines."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **STORE},
    )
    for _ in range(2):
        cluster.add_node(wait=False, **MACHINE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def node_of(cluster, process):
    """The machine that a cell is on: its process was started by a fork server, that by a task, and
    that by a raylet."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    [node] = [node for pid, node in raylets.items() if process in descendants(pid)]
    return node


def test_results_come_home_where_no_folder_is_shared(cluster, tmp_path, monkeypatch):
    """Also of a cell that shares another one's training, which is sent along; and a cell that dies
    there is an outcome, not a machine that is lost."""
    dial = {"one": "[multi_rate]", "other": "[{multi_rate: {beta: 0.7}}]"}
    write_suite(tmp_path, budget=3000, **dial, fatal="[fatal]")
    (tmp_path / "fatal.py").write_text(FATAL)
    monkeypatch.setattr(Ray, "_marker", lambda self, folder: (folder / "not there", ""))
    out = io.StringIO()
    jobs = planned(tmp_path, "apart", "fatal.py")
    records = run_jobs(jobs, Ray(cluster.address), Progress(3, out))
    told = {each["entry"]: each for each in records}
    status = {name: each["status"] for name, each in told.items()}
    assert status == {"one": "done", "other": "done", "fatal": "killed"}
    assert told["other"]["trained_as"] == told["one"]["cell"]
    assert "signal 9" in told["fatal"]["error"]
    assert "was lost" not in out.getvalue()
    [cell] = (tmp_path / "apart" / "trial").glob("fatal-*")
    assert [path.name for path in cell.iterdir()] == ["record.json"]
    shutil.rmtree(cell)
    here = [job for job in planned(tmp_path, "whole", "fatal.py") if job.cell.entry.name in dial]
    run_jobs(here, Local(1), Progress(2, out))
    same_results(tmp_path / "whole" / "trial", tmp_path / "apart" / "trial")


def test_a_cell_is_ended_when_told_to_and_asked_for_a_checkpoint_first(cluster, tmp_path):
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    large = replace(job, cell=replace(job.cell, training=replace(job.cell.training, threads=9)))
    engine, told = Ray(cluster.address, workers=1), []

    def hears(what):
        told.extend(engine.events(0.2))
        return any(isinstance(each, Reported) and what in each.told for each in told)

    try:
        assert engine.room()
        engine.submit(large)
        assert not engine.room()
        assert hears("said")
        assert told[0].told["said"].startswith("no machine of the cluster has 9 CPU")
        engine.kill(large)
        [ended] = until(lambda: engine.events(0.2))
        assert (ended.job, ended.outcome.kind) == (large, "killed")

        engine.submit(job)
        until(lambda: hears("tokens"))
        engine.kill(job)
        ended = until(lambda: [each for each in engine.events(0.2) if isinstance(each, Ended)])
        assert [each.outcome.kind for each in ended] == ["killed"]
        assert lease.read_lease(job.folder).stopped, "its lease keeps nobody waiting"
        assert list(job.folder.glob("checkpoint-*"))

        told.clear()
        engine.submit(job)
        until(lambda: hears("tokens"))
        assert any("goes on from" in each.told.get("said", "") for each in told)
    finally:
        engine.close(GRACE)
    assert lease.read_lease(job.folder).stopped


def test_a_cell_that_cannot_be_sent_ends_the_run_with_what_the_disk_says(
    cluster, tmp_path, monkeypatch
):
    write_suite(tmp_path, vae="[]")
    jobs = planned(tmp_path, "runs")
    folder = tmp_path / "runs" / "trial"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "taken").touch()
    monkeypatch.setattr(on_ray, "SHARED", "taken/no folder")
    with pytest.raises(DiskError, match="no folder: cannot be written"):
        run_jobs(jobs, Ray(cluster.address), Progress(1, io.StringIO()))


def test_a_cell_that_ray_ends_for_want_of_memory_is_an_outcome(cluster, tmp_path):
    """By Ray's memory monitor, on a machine that it takes for full whatever is used there."""
    write_suite(tmp_path, mine="[paced]")
    (job,) = planned(tmp_path, "runs")
    large = replace(job, cell=replace(job.cell, training=replace(job.cell.training, threads=2)))
    full = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "100"}
    node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20, env_vars=full)
    out = io.StringIO()
    try:
        (record,) = run_jobs([large], Ray(cluster.address), Progress(1, out))
    finally:
        cluster.remove_node(node)
    assert record["status"] == "killed"
    assert "no memory left" in record["error"]
    assert "--memory" in record["error"]
    assert "--workers" in record["error"]
    assert "was lost" not in out.getvalue()


def test_each_engine_has_a_file_of_its_own_by_which_its_folder_is_known(cluster, tmp_path):
    """A copy of a folder that another run has left is not the folder of this one."""
    copy = tmp_path / "copy"
    engine = Ray(cluster.address)
    try:
        marker = engine._marker(tmp_path / "home")
        shutil.copytree(tmp_path / "home", copy)
        assert on_ray._sees(marker)
    finally:
        engine.close(0)
    assert not list((tmp_path / "home").iterdir()), "it takes its file along"
    another = Ray(cluster.address)
    try:
        path, digits = another._marker(tmp_path / "home")
        assert not on_ray._sees((copy / path.name, digits))
    finally:
        another.close(0)


def test_a_cell_that_takes_its_machines_down_is_sent_no_more(cluster, tmp_path, monkeypatch):
    """Also where between two losses another machine has found it busy, and it was sent anew."""

    def lost():
        raise RuntimeError("node died")
        yield

    write_suite(tmp_path, vae="[]")
    [job] = planned(tmp_path, "runs")
    monkeypatch.setattr(Ray, "_send", lambda self, sent: None)
    engine = Ray(cluster.address)
    try:
        told = [engine._next(on_ray._Sent(job, reports=lost())) for _ in range(on_ray.LOSSES + 1)]
    finally:
        engine.close(0)
    assert all("it is sent again" in each["said"] for each in told[:-1])
    assert told[-1] == Outcome("killed", "its machine was lost 6 times: node died")


def test_a_cluster_of_this_machine_outlives_the_terminal_that_is_closed(tmp_path, monkeypatch):
    """Its processes are in the group of the run; they are to serve until cells are stopped."""
    import ray

    def init(**_):
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        raise ValueError("no cluster here")

    blocked: list[set[signal.Signals]] = []
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="no cluster here"):
        Ray()
    assert blocked == [{signal.SIGHUP}]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_a_cluster_that_is_not_there_is_told_in_words():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listened at: it refuses every connection
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--on ray:{address}: no cluster .*give the HOST:PORT"):
            Ray(address)


def test_what_answers_and_is_no_cluster_is_told_in_words(monkeypatch):
    monkeypatch.setattr("ray.init", lambda **given: (_ for _ in ()).throw(ConnectionError("no")))
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--on ray:{address}: no; give the HOST:PORT"):
            Ray(address)


def test_a_package_that_is_not_installed_is_told_with_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'collapse_bench\[ray\]'"):
        engine_on("ray", workers=None, at_once=1, slurm={})


def begun(cluster, folder):
    """A run of the suite in a folder, in a session of its own; and its command."""
    command = [sys.executable, "-m", "collapse_bench", "run", "trial.yaml", "--plugin", "paced.py"]
    command += ["--threads", "1", "--on", f"ray:{cluster.address}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes), command


def test_a_run_that_loses_a_machine_goes_on_to_the_end_that_it_would_have_had(cluster, tmp_path):
    write_suite(tmp_path, mine="[paced]")
    run, _ = begun(cluster, tmp_path)
    first = until(lambda: in_the_middle(tmp_path))
    cluster.remove_node(node_of(cluster, *first), allow_graceful=False)
    cluster.add_node(wait=False, **MACHINE)  # the next test has two, as this one had
    until(lambda: in_the_middle(tmp_path) - first)
    (tmp_path / "go").touch()
    out, _ = run.communicate(timeout=240)
    assert run.returncode == 0, out
    assert "mine/lstm/1: its machine was lost" in out
    assert "mine/lstm/1: goes on from" in out
    [path] = (tmp_path / "runs" / "trial").glob("mine-*/record.json")
    assert read_record(path)["cost"]["attempts"] == 2
    run_jobs(planned(tmp_path, "whole"), Local(1), Progress(1, io.StringIO()))
    same_results(tmp_path / "whole" / "trial", tmp_path / "runs" / "trial")


def test_a_cell_whose_machine_and_then_whose_run_is_killed_ends_as_one_that_was_not(
    cluster, tmp_path
):
    """The last of these: the cluster has one machine less afterwards."""
    write_suite(tmp_path, mine="[paced]", vae="[]")
    run, command = begun(cluster, tmp_path)
    first = until(lambda: in_the_middle(tmp_path))
    cluster.remove_node(node_of(cluster, *first), allow_graceful=False)
    second = until(lambda: in_the_middle(tmp_path) - first)
    os.killpg(run.pid, signal.SIGKILL)
    out, _ = run.communicate(timeout=60)
    assert "mine/lstm/1: its machine was lost" in out
    assert "mine/lstm/1: goes on from" in out
    (tmp_path / "go").touch()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    [path] = (tmp_path / "runs" / "trial").glob("mine-*/record.json")
    assert read_record(path)["cost"]["attempts"] == 3, second

    run_jobs(planned(tmp_path, "whole"), Local(1), Progress(2, io.StringIO()))
    same_results(tmp_path / "whole" / "trial", tmp_path / "runs" / "trial")
