"""An evaluation that is stopped goes on where it was, and only there."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from lm2_jax.config import EvalConfig
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.eval import babilong
from lm2_jax.eval.journal import Journal

B = 3
CONFIG = EvalConfig(batch_size=B, max_new_tokens=4)


class Stopped(Exception):
    pass


class Oracle:
    """Answers each prompt with its first token; stops when asked once too often."""

    model = SimpleNamespace(config=SimpleNamespace(segment_length=5))

    def __init__(self, patience=1000):
        self.asked, self.patience = 0, patience

    def answer(self, prompts, max_new_tokens, *, wipe, batch_size, progress):
        assert len(prompts) <= batch_size == B
        if not self.patience:
            raise Stopped
        self.patience -= 1
        self.asked += len(prompts)
        progress(sum(map(len, prompts)))
        return [[int(tokens[:1][0]) + wipe] for tokens in prompts]


def cells():
    rng = np.random.default_rng(0)
    return {("qa1", length): [
        Prompt("qa1", length, np.array([i, *rng.integers(0, 50, 4 + i)], np.int32),
               f"Where is {i}?", str(i + i % 2)) for i in range(7)] for length in ("1k", "2k")}


def run(folder, identity="one", patience=1000):
    oracle, journal = Oracle(patience), Journal(folder / "j.jsonl", identity)
    total, before = babilong.tokens_to_read(cells(), ("carried", "reset"), CONFIG, journal)
    assert total == 2 * sum(len(p.tokens) for cell in cells().values() for p in cell)
    assert (before > 0) == journal.resumes
    seen = [before]

    def progress(tokens, status):
        seen.append(tokens)
        task, length, memory, *rate = status.replace(":", "").split()
        if rate:
            known = [p.target == str(int(p.tokens[0]) + (memory == "reset"))
                     for p in cells()[task, length][:int(rate[2])]]
            assert rate[0] == f"{np.mean(known):.3f}"

    results = []
    with contextlib.suppress(Stopped), journal:
        for result in babilong.evaluate(oracle, cells(), CONFIG, lambda ids: f"{ids[0]} ",
                                        ("carried", "reset"), progress=progress,
                                        journal=journal):
            results.append(result)
    assert sum(seen) <= total and (len(results) < 4 or sum(seen) == total)
    return results, oracle.asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    results, asked = run(folder)
    assert len(results) == 4 and asked == 4 * 7
    assert not (folder / "j.jsonl").exists()
    return results


@pytest.mark.parametrize("stops", [1, 2, 3, 4, 8, 11])
def test_nothing_is_asked_twice(tmp_path, whole, stops):
    _, before = run(tmp_path, patience=stops)
    results, after = run(tmp_path)
    assert results == whole and before == stops // B * 7 + stops % B * B
    assert before + after == 4 * 7


def test_a_line_cut_short_is_asked_again(tmp_path, whole):
    run(tmp_path, patience=3)
    path = tmp_path / "j.jsonl"
    path.write_text(path.read_text()[:-4])
    results, asked = run(tmp_path)
    assert results == whole and asked == 4 * 7 - 2 * B


def test_answers_of_another_evaluation_do_not_count(tmp_path, whole):
    run(tmp_path, patience=5)
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 6
    results, asked = run(tmp_path, identity="other")
    assert results == whole and asked == 4 * 7


@pytest.mark.parametrize("line", ["\0" * 9, "{", "[]", "[1]", '["qa1", "1k", "carried", [1]]', "3",
                                  '[["qa1"], "1k", "carried", ["a"]]', '["a", "b", "c", null]'])
def test_answers_after_a_damaged_line_are_generated_again(tmp_path, line, capsys):
    path = tmp_path / "j.jsonl"
    with contextlib.suppress(Stopped), Journal(path, "one") as journal:
        journal.add(("qa1", "1k", "carried"), ["a", "b"])
        journal.add(("qa1", "1k", "carried"), ["c"])
        raise Stopped
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second, line, third, ""]))
    journal = Journal(path, "one", adds=False)
    assert journal.answers(("qa1", "1k", "carried")) == ["a", "b"]
    assert capsys.readouterr().err.startswith(f"{path}: line 3 cannot be read; ")
    path.write_text("\n".join([line, second, third, ""]))
    assert not Journal(path, "one", adds=False).resumes


def test_long_contexts_are_not_read_with_the_memory_reset():
    config = EvalConfig(batch_size=B, reset_up_to="1k")
    results = babilong.evaluate(Oracle(), cells(), config, str, ("carried", "reset"))
    assert [(row.length, row.memory) for row, _ in results] == [
        ("1k", "carried"), ("1k", "reset"), ("2k", "carried")]
