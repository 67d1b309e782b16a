"""`lm2 bench device`: its pieces at a tiny scale, and a time that is kept."""

import json
import time

import pytest
from test_inspection import printed

from lm2_jax import cli
from lm2_jax.bench import device, measures, on_device, pieces
from lm2_jax.bench.measures import DONE, FAILED, NOT_RUN, Measure, Result
from lm2_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ALL = [piece.name for piece in pieces.PIECES]


def measured(*names):
    work = pieces.plan("lm2_1b7", {}, "tiny", names)
    bench = pieces.make_bench("lm2_1b7", {}, "tiny", {})
    results = []
    for piece in work.pieces:
        results.append(pieces.measured(piece, bench, "tiny", time.monotonic() + 1e3))
        bench.known.update(results[-1].values)
    return results, bench


def test_decoding_is_held_against_the_bandwidth():
    (ceilings, decode), bench = measured("ceilings", "decode")
    assert ceilings.status == decode.status == DONE
    assert [one.unit for one in ceilings.measures] == ["TFLOP/s", "GB/s"]
    assert [one.what for one in decode.measures] == ["step, 1 rows", "tokens", "step, 2 rows",
                                                     "tokens"]
    model, step = bench.config.model, decode.measures[2]
    parameters = sum(leaf.size for leaf in pieces.jax.tree.leaves(on_device._params(model)))
    cache, memory = 2 * 9 * 1 * 16, 2 * 8 * 32  # 9 places of one head of 16, 8 slots of 32
    least = 2 * (parameters + 2 * (cache + memory))
    share = least / bench.known["copy_rate"] / (sorted(step.values)[0] + sorted(step.values)[1])
    assert f"{100 * 2e3 * share:.1f} % of the measured one" in step.against
    assert decode.measures[3].values == pytest.approx([2e3 / ms for ms in step.values])


@pytest.mark.slow
def test_everything_is_measured_in_processes_of_its_own(tmp_path, capsys):
    arguments = ["bench", "device", "--scale=tiny", "--minutes=10", f"--out={tmp_path}"]
    assert cli.main(arguments) == 0
    found = json.loads((tmp_path / "device.json").read_text("utf-8"))
    status = {piece["name"]: piece["status"] for piece in found["pieces"]}
    assert list(status) == ALL and found["device"] == "cpu" and found["scale"] == "tiny"
    # The last one needs PyTorch.
    assert [status[name] for name in ALL[:-1]] == [DONE] * (len(ALL) - 1)
    assert status[ALL[-1]] in (DONE, NOT_RUN)
    lm2 = next(piece for piece in found["pieces"] if piece["name"] == "train LM2")
    ratio = lm2["measures"][-1]
    assert "over llama" in ratio["what"] and "FLOPs 1.67 x" in ratio["against"]
    text = (tmp_path / "device.md").read_text("utf-8")
    for one in lm2["measures"]:
        assert f"| train LM2 | {one['what']} | {Measure(**one).text} |" in text
    assert "train LM2: measured in" in capsys.readouterr().out


def sleeping(bench):
    time.sleep(60)


def failing(bench):
    raise ValueError("no such thing\nmore")


def quick(bench):
    return [Measure("x", [1.0, 3.0, 2.0], "ms")], {"seen": bench.known.get("seen", 0) + 1}


def crashing(bench):
    import os
    os._exit(3)


def test_what_does_not_fit_is_not_run_and_what_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECES", (
        pieces.Piece("quick", "a", 0.1, quick), pieces.Piece("failing", "a", 0.1, failing),
        pieces.Piece("again", "a", 0.1, quick), pieces.Piece("long", "b", 1e4, quick)))
    monkeypatch.setattr(device, "START", 0.0)
    work = pieces.plan("lm2_1b7", {}, "full")
    bench = pieces.make_bench("lm2_1b7", {}, "tiny", {})
    results = []
    for piece in work.pieces:
        results.append(pieces.measured(piece, bench, "full", time.monotonic() + 100))
        bench.known.update(results[-1].values)
    assert [(one.name, one.status) for one in results] == [
        ("quick", DONE), ("failing", FAILED), ("again", DONE), ("long", NOT_RUN)]
    assert results[1].reason == "ValueError: no such thing" and bench.known["seen"] == 2
    assert results[3].reason == "it takes about 10000 s, and 100 s were left"
    device.write(tmp_path, work, 6, {"device": "some chip"}, results)
    text = (tmp_path / "device.md").read_text("utf-8")
    assert "| quick | x | 2 ms | 1 to 3 |  |" in text
    assert "| failing | failed |  |  | ValueError: no such thing |" in text
    stored = json.loads((tmp_path / "device.json").read_text("utf-8"))["pieces"]
    assert [Result.from_dict(one) for one in stored][0] == results[0]


@pytest.mark.parametrize("end,name,status,reason", [
    (sleeping, "sleeping", NOT_RUN, "the time was over"),
    pytest.param(crashing, "crashing", FAILED, "the process ended with status 3",
                 marks=pytest.mark.slow)])
def test_a_process_cannot_stop_the_others(tmp_path, monkeypatch, end, name, status, reason):
    """The last group finds no time, or measures what it can."""
    first = pieces.Piece(name, "a", 0.0, end)
    work = pieces.Work("lm2_1b7", {}, "tiny", [first, pieces.Piece("quick", "b", 0.0, quick)])
    monkeypatch.setattr(pieces, "plan", lambda *_: work)
    slow_start = name == "crashing"
    begun = time.monotonic()
    results, text = printed(device.run, "lm2_1b7", {}, "tiny", 1.0 if slow_start else 0.1,
                            tmp_path, ())
    assert (results[0].status, results[0].reason) == (status, reason)
    assert results[1].status == (DONE if slow_start else NOT_RUN)
    assert time.monotonic() - begun < (60 if slow_start else 15)
    assert f"{name}: {status}, {reason}" in text


@pytest.mark.parametrize("arguments,message", [
    (["--pieces=ceilings,typo"], "there is no piece 'typo'; the pieces are 'ceilings', "),
    (["--minutes=0"], "--minutes is 0"), (["--config=tiny"], "its model.vocab_size must be set"),
    (["--config.model.memory.num_layers=0"], "must have a memory")])
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    assert cli.main(["bench", "device", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_scales_differ_in_shapes_only():
    """The same pieces in the same processes; only the estimates of a small scale are left out."""
    assert set(measures.SCALES) == {"full", "tiny"}
    for piece in pieces.PIECES:
        assert piece.seconds("full") == piece.estimate > 0 == piece.seconds("tiny")
    with pytest.raises(UserError, match="--scale is 'huge'"):
        pieces.plan("lm2_1b7", {}, "huge")
