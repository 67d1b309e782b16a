"""Runs in buckets: killed and resumed, and every command with every path in a bucket."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import emulators
import hf_folders
import kill_train
import pytest
import runs
import test_hosts
from test_convert import config_of, same_bytes, tensors_of

from lm2_jax.runtime import clients, files, paths

pytestmark = [pytest.mark.processes, pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None
        for name in ("gcsfs", "s3fs", "moto", "gcp_storage_emulator")),
    reason="the libraries of buckets are not installed")]

KILLS = 2  # in a save, and between two steps
SHORT = ["--config.train.num_steps=8", "--config.train.eval_every_steps=0",
         "--config.eval.lengths=96", "--config.eval.memory=carried"]


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path_factory):
    for cached in (clients.store, clients.configure):
        cached.cache_clear()
    with emulators.started(request.param, tmp_path_factory.mktemp("store")) as emulator:
        os.environ["LM2_CACHE"] = str(tmp_path_factory.mktemp("cache"))
        yield emulator


def done(arguments, status=0):
    """What a command prints in a process of its own."""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                                "JAX_COMPILATION_CACHE_DIR": runs.compiled()}
    ended = subprocess.run([sys.executable, "-m", "lm2_jax.cli", *arguments], cwd=runs.ROOT,
                           env=environment, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
    return ended.stdout + ended.stderr


def test_a_killed_run_ends_like_an_uninterrupted_one(store, tmp_path):
    alone = runs.finished()
    report = kill_train.run(tmp_path, KILLS, seed=2, alone=alone, last=kill_train.last_step(alone),
                            killed=paths.of(store.path("killed")))
    assert report.good and len(report.kills) == KILLS


@pytest.mark.slow
def test_two_processes_end_like_two_in_a_folder(store, tmp_path):
    """Bit for bit, although they are asked to leave in between and resume."""
    folder, workdir = tmp_path / "run", paths.of(store.path("two processes"))
    steps = "--config.train.num_steps=24"
    run = runs.ended(test_hosts.start(folder, steps, **test_hosts.TWO))
    assert run.returncode == 0, run.stderr
    process = test_hosts.start(workdir, steps, **test_hosts.TWO)
    test_hosts.until(process, lambda: kill_train.checkpoints(workdir), seconds=600)
    os.kill(runs.pids(workdir)[1], signal.SIGTERM)
    run = runs.ended(process)
    assert run.returncode == 0, run.stderr
    step = int(re.search(r"SIGTERM: saved at step (\d+);", run.stdout)[1])
    assert 4 <= step < 24 and kill_train.checkpoints(workdir)[-1] == step
    run = runs.ended(test_hosts.start(workdir, steps, **test_hosts.TWO))
    assert run.returncode == 0 and f"after step {step}" in run.stdout, run.stderr
    assert kill_train.compare([], folder, workdir, 24).good


@pytest.fixture(scope="module")
def trained(store):
    """A run of which every input is in the bucket."""
    books = paths.of(store.path("données/books [old]"))
    (books / "a.txt").write_text("\n".join(
        f"It was a quiet day number {n}, and nothing much was said of it." for n in range(400)))
    workdir = store.path("runs/a run é~")
    done(["train", runs.CONFIG, f"--workdir={workdir}", *runs.SMALL, *SHORT,
                 f"--config.data.background={books}"])
    return workdir


@pytest.mark.slow
def test_a_run_is_trained_evaluated_and_reported(trained, store):
    out = paths.of(store.path("out"))
    said = done(["train", runs.CONFIG, f"--workdir={trained}", *runs.SMALL, *SHORT,
                 "--config.train.num_steps=12", "--profile=10:11",
                 f"--config.data.background={store.path('données/books [old]')}"])
    assert "after step 8" in said
    lines = kill_train.lines(paths.of(trained))
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert list((paths.of(trained) / "profile").rglob("*.xplane.pb"))
    samples = paths.of(store.path("samples/qa1_1k.jsonl"))
    samples.write_text(json.dumps({"task": "qa1", "length": "1k", "target": "kitchen", "input":
                                   "John went to the kitchen.", "question": "Where is John?"}))
    done(["eval", runs.CONFIG, f"--workdir={trained}", *runs.SMALL,
                 f"--config.eval.samples={samples}", f"--out={out / 'eval'}"])
    assert json.loads((out / "eval" / "results.json").read_text())[0]["length"] == "1k"
    done(["report", trained, f"--out={out / 'report'}"])
    assert (out / "report" / "report.md").is_file()
    done(["gates", runs.CONFIG, f"--workdir={trained}", f"--out={out / 'gates'}"])
    assert list((out / "gates").glob("*.png"))


@pytest.mark.slow
def test_a_run_is_packed_continued_and_copied(trained, store, tmp_path):
    file, workdir = store.path("packed/run.lm2"), store.path("runs/unpacked")
    done(["pack", f"--workdir={trained}", f"--out={file}"])
    done(["unpack", file, f"--workdir={workdir}"])
    step, = kill_train.checkpoints(paths.of(workdir))
    # A checkpoint that was copied from a local disk is verified by reading it.
    (paths.of(workdir) / "checkpoints" / str(step) / "params" / "_sharding").write_text("{}")
    done(["generate", f"--workdir={workdir}", "--prompt=John", "--max-new-tokens=2"], 2)


@pytest.mark.slow
def test_what_was_read_is_kept(trained, store):
    book, state = store.path("books/é.txt"), store.path("states/é.safetensors")
    paths.of(book).write_text("John went to the kitchen. " * 20)
    done(["read", book, f"--workdir={trained}", f"--save={state}"])
    done(["generate", f"--workdir={trained}", f"--state={state}", "--max-new-tokens=2",
                 "--question=Where is John?"])


@pytest.mark.slow
def test_shards_are_made_in_a_bucket_and_trained_on(trained, store):
    source, shards = store.path("texts"), store.path("shards")
    for number in range(3):
        (paths.of(source) / f"{number}.txt").write_text(f"John {number} went to the kitchen. " * 99)
    done(["data", "tokenize", f"{source}/*.txt", f"--tokenizer={trained}",
                 f"--out={shards}", "--processes=1", "--held-out=0"])
    done(["train", runs.CONFIG, f"--workdir={store.path('runs/corpus')}", *runs.SMALL,
                 "--config.data.source=corpus", f"--config.data.corpora={shards}",
          "--config.train.advance_accuracy=0.0",
                 f"--config.data.tokenizer={trained}", "--config.train.num_steps=2",
                 "--config.train.eval_every_steps=0", "--config.eval.lengths="])


@pytest.mark.slow
def test_models_of_transformers_come_and_go(store, tmp_path):
    hf_folders.write(tmp_path / "hf", config_of("grouped"))
    there = paths.of(store.path("hf/llama"))
    files.upload_folder(tmp_path / "hf", there)
    workdir, back = store.path("runs/converted"), paths.of(store.path("hf/back"))
    done(["convert", "from-hf", str(there), f"--workdir={workdir}"])
    done(["convert", "to-hf", str(back), f"--workdir={workdir}"])
    with files.reading(back) as local:
        assert same_bytes(tensors_of(tmp_path / "hf"), tensors_of(local))


@pytest.mark.slow
def test_a_sweep_works_in_a_bucket(store):
    out = store.path("sweep")
    done(["sweep", "--config=ablations", f"--out={out}", "--list"])
