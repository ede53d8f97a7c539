"""A crafted file is refused where the bench reads one of its own, and nothing in it is run."""

import ast
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_files import GIB, PLACES
from scale import told

import collapse_bench
from collapse_bench.corpus.vocabulary import Vocabulary
from collapse_bench.errors import UserError
from collapse_bench.laws.bench import make, tiny_corpus
from collapse_bench.record import (
    CHECKPOINTS,
    MODEL,
    RECORD,
    SENTENCES,
    read_arrays,
    read_model,
    read_record,
)
from collapse_bench.training import Checkpoints, Selection
from collapse_bench.training.checkpoint import (
    RefusedError,
    read_checkpoint,
    write_checkpoint,
)

PACKAGE = Path(collapse_bench.__file__).parent


def _read_model(folder: Path) -> None:
    read_model(folder, make("lstm").model)


READ: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("checkpoint-1.pt", lambda f: read_checkpoint(f / "checkpoint-1.pt", {})),
    "model.safetensors": (MODEL, _read_model),
    "sentences.npz": (SENTENCES, read_arrays),
    "vocabulary.json": ("vocabulary.json", lambda f: Vocabulary.load(f / "vocabulary.json")),
    "record.json": (RECORD, lambda f: read_record(f / RECORD)),
}
"""Under which name a file lies in a cell's folder, and how it is read there."""

CASES = [(place, name) for place, files in PLACES.items() for name in files("canary")]


@pytest.fixture
def little_memory():
    """No more than a gibibyte beyond what the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(("place", "name"), CASES)
def test_a_crafted_file_is_refused_and_not_run(place, name, tmp_path, little_memory):
    canary, (file, read) = tmp_path / "canary", READ[place]
    folder = tmp_path / "cell"
    folder.mkdir()
    (folder / file).write_bytes(PLACES[place](str(canary))[name])
    with pytest.raises((UserError, RefusedError)) as caught:
        read(folder)
    text = str(caught.value)
    assert not canary.exists()
    assert [path.name for path in folder.iterdir()] == [file]
    assert len(text) < 2000
    # Whoever goes on from a checkpoint names the file before what is told here.
    assert str(folder / file) in text or place == "checkpoint"
    told(f"crafted files in place of {place}", 1, "refused in words, none run")


SHAPES = {
    "selection": [1, [], {}, {"history": 1}, {"history": [], "weights": {}, "best": 0.0}],
    "run": [1, [], {}, None, {"parameters": {}}, {"parameters": 1}],
    "cost": [1, {}, {"attempts": "1", "checkpoint_seconds": 0.0, "seconds": 0.0}, {"attempts": []}],
}
"""States of another shape in a checkpoint that is whole and of this cell."""


@pytest.mark.parametrize(("part", "state"), [(p, each) for p in SHAPES for each in SHAPES[p]])
def test_a_state_of_another_shape_is_told_with_its_file(part, state, tmp_path):
    run = make("lstm").run(tiny_corpus())
    selection = Selection(run)
    saved = {
        "of": {"cell": "a"},
        "run": run.state_dict(),
        "selection": selection.state_dict(),
        "cost": {"attempts": 1, "seconds": 1.0, "checkpoint_seconds": 0.0},
    }
    path = tmp_path / CHECKPOINTS.replace("*", "000000000001")
    write_checkpoint(path, saved)
    Checkpoints(tmp_path, {"cell": "a"}).start(run, selection)
    write_checkpoint(path, saved | {part: state})
    with pytest.raises(UserError, match=r"does not fit this cell: (?s:.*)`run --fresh`") as caught:
        Checkpoints(tmp_path, {"cell": "a"}).start(run, selection)
    assert str(path) in str(caught.value)
    told("checkpoints whose state has another shape", 1, "refused in words, with the way out")


def unsafe(tree: ast.Module) -> list[str]:
    """What a module uses that runs, or may run, what is in a file or a text."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [name for name in names if name.split(".")[0] in MODULES and name not in HARMLESS]
        found += [name for name in names if name in LOADERS]
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            if name in FUNCTIONS or (name in LOADERS and not LOADERS[name](given)):
                found.append(f"{name}, line {node.lineno}")
    return found


MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HARMLESS = {"pickle.UnpicklingError"}
FUNCTIONS = {
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.package.PackageImporter",
}  # fmt: skip


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


LOADERS: dict[str, Callable[[dict[str | None, ast.expr]], bool]] = {
    "torch.load": lambda given: _is(given.get("weights_only"), True),
    "np.load": lambda given: _is(given.get("allow_pickle", ast.Constant(False)), False),
    "numpy.load": lambda given: _is(given.get("allow_pickle", ast.Constant(False)), False),
}
"""What loads a file -> whether it is called so that nothing in the file is run."""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_nothing_in_the_package_can_run_a_file_that_is_data(path):
    # What submitit sends to a job is a pickle, from the same folder as the corpus beside it.
    allowed = ["pickle"] if path.name == "on_slurm.py" else []
    assert unsafe(ast.parse(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import dill as d", "eval('1')", "exec(x)",
        "torch.load(x)", "torch.load(x, weights_only=False)", "torch.load(x, weights_only=w)",
        "np.load(x, allow_pickle=True)", "np.load(x, **more, allow_pickle=a)", "yaml.load(x, L)",
        "def f():\n    import marshal", "from torch import load", "os.system('x')",
    ],
)  # fmt: skip
def test_what_could_run_one_is_found(text):
    assert unsafe(ast.parse(text)) != []
