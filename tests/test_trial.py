"""A suite tried before it is run, and what the verbs say where nothing can come of it."""

import pytest

from collapse_bench import trial
from collapse_bench.cli import main

SUITE = """\
corpus: {{name: newswire{corpus}}}
architectures: [lstm]
sizes: {{embedding: 8, hidden: 8, latent: 4}}
training: {{budget: 1000, batch: 16, validations: 1}}
evaluation: {{samples: 2}}
entries:
  vae: {vae}
{more}"""

CONTROL = "  language_model: {latent: 0}\n"

CRASH = '''\
"""Nobody (2026): nothing comes of it."""

from dataclasses import dataclass

from collapse_bench.remedy import Remedy


@dataclass(frozen=True)
class Crash(Remedy):
    """Ends."""

    def objective(self, forward):
        raise RuntimeError("on purpose")
'''


def written(tmp_path, vae, more=CONTROL, corpus=", sentences: 60"):
    path = tmp_path / "nothing.yaml"
    path.write_text(SUITE.format(vae=vae, more=more, corpus=corpus))
    return str(path)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(trial, "TINY_BUDGET", 200)


def test_a_codebook_is_held_against_the_corpus_of_the_suite_and_not_that_of_the_trial(
    tmp_path, capsys
):
    vae = "[{vq_vae: {codes: 100, length: 2}}]"
    assert trial.TINY_CORPUS < 60
    # Fewer sentences than codes, more of them, and as many as newswire has: 20,000.
    for corpus, code in ((", sentences: 60", 2), (", sentences: 100", 0), ("", 0)):
        assert main(["check", written(tmp_path, vae, corpus=corpus)]) == code
        told = capsys.readouterr().err
        assert ("got 100 for 60" in told) == bool(code)


def test_a_suite_without_a_language_model_is_warned_of(tmp_path, capsys):
    for more, warned in ((CONTROL, False), ("", True), ("  o: {latent: 0, told: length}\n", True)):
        assert main(["check", written(tmp_path, "[]", more)]) == 0
        told = capsys.readouterr()
        assert ("add 'language_model: {latent: 0}'" in told.err) == warned
        assert "fine" in told.out


def test_a_page_without_a_result_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crash.py").write_text(CRASH)
    suite = [written(tmp_path, "[crash]", ""), "--plugin", "crash.py"]
    assert main(["run", *suite]) == 1
    capsys.readouterr()
    assert main(["leaderboard", *suite]) == 0
    told = capsys.readouterr()
    assert "nothing: no cell has a result" in told.err
    page = (tmp_path / told.out.strip()).read_text()
    assert "no cell has a result" in page
    assert "RuntimeError: on purpose" in page
    # Every column's rule has a dash, without which the table is none.
    rules = [line for line in page.splitlines() if set(line) <= set("|-: ") and "|" in line]
    assert rules
    assert all("-" in cell for line in rules for cell in line.strip("|").split("|"))


def test_alone_it_lists_its_verbs(capsys):
    assert main([]) == 2
    told = capsys.readouterr().err
    assert all(verb in told for verb in ("run", "plan", "leaderboard", "check", "new-remedy"))
