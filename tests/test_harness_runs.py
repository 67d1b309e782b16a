"""lm-evaluation-harness itself on small local tasks, and `lm2 eval --harness`."""

import io
import itertools
import json
import re
import shutil
import subprocess
import sys

import hf_folders
import numpy as np
import pytest
import runs
from harness_cases import TEXT, VOCAB, instances, run

from lm2_jax import cli
from lm2_jax.commands import harness as command
from lm2_jax.convert import importing
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.errors import UserError
from lm2_jax.eval.harness import babilong, running
from lm2_jax.generation.text import ChatTemplate
from lm2_jax.report import harness as report
from lm2_jax.runtime.console import Console

pytest.importorskip("lm_eval")
from lm2_jax.eval.harness.model import LM2  # noqa: E402

pytestmark = [pytest.mark.usefixtures("compiled_quickly"),
              pytest.mark.filterwarnings("default")]  # those of the harness are not ours

QUESTIONS = [{"question": f"Where is {name}?", "choices": ["here", "in the garden", "dark", "no"],
              "answer": answer} for name, answer in (("Mary", 0), ("John", 1), ("he", 3))]
SUBJECTS = {"high_school_rooms": "stem", "gardens": "other"}


@pytest.fixture(scope="module")
def model():
    return LM2(run(), batch_size=8)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of task files: two subjects in MMLU's shape, and their group."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(lines)
    for subject, group in SUBJECTS.items():
        (folder / f"{subject}.yaml").write_text(f"""
task: mmlu_{subject}
tag: mmlu_{group}_tasks
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl, dev: {folder}/questions.jsonl}}
  cache_dir: {folder}/cache
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")
    (folder / "all.yaml").write_text(
        "group: mmlu_here\ntask: [mmlu_high_school_rooms, mmlu_gardens]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a small Llama with a BOS and a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    words = tokenizers.train([TEXT], kind="bpe", vocab_size=VOCAB - 20)._tokenizer
    words.add_special_tokens(["<s>", "</s>"])
    hf_folders.write(folder / "hf", dict(
        model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=16,
        intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1,
        vocab_size=VOCAB, rms_norm_eps=1e-5, rope_theta=1e4, max_position_embeddings=64,
        hidden_act="silu", tie_word_embeddings=True), tokens=words)
    importing.from_hf(folder / "hf", folder / "run", 64)
    return folder / "run"


def test_bos_is_added_once_where_the_model_has_it(workdir):
    model = LM2(workdir, batch_size=8)
    bos = model.run.tokenizer.bos_ids[0]
    assert model.prefix_token_id == bos
    assert model.tok_encode("Mary")[0] == bos and model.tok_encode("<s>Mary")[:2].count(bos) == 1
    assert bos not in model.tok_encode("Mary", add_special_tokens=False)


def test_a_bos_that_is_only_named_begins_texts_without_a_context(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run/tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    model = LM2(tmp_path / "run", batch_size=8)
    assert model.tok_encode("Mary") == model.run.tokenizer.encode("Mary")
    assert model.prefix_token_id == model.run.tokenizer.id_of("<s>") != model.eot_token_id


def test_a_chat_may_end_within_the_answer(workdir, monkeypatch):
    model = LM2(workdir, batch_size=8)
    chat = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "It is "}]
    for template, text in (("{{ messages[1]['content'] }}", "It is "),
                           ("<{{ messages[1]['content'].strip() }}>", "<It is")):
        monkeypatch.setattr(model, "_template", lambda t=template: ChatTemplate(t, {}, "here"))
        assert model.apply_chat_template(chat, add_generation_prompt=False) == text


def test_the_chat_template_is_that_of_the_converted_model(workdir):
    model = LM2(workdir, batch_size=8)
    assert model.chat_template(True) == hf_folders.CHAT_TEMPLATE
    assert model.chat_template(False) is None


def test_the_harness_scores_as_the_model_class_does(model, tasks):
    results = running.run(model, running.find(["mmlu_here"], [tasks]), num_fewshot=1, limit=2,
                          bootstrap_iters=0)
    for subject in SUBJECTS:
        for sample in results["samples"][f"mmlu_{subject}"]:
            assert sample["arguments"][0][0].count("Answer:") == 2
            got = [log_prob for log_prob, _ in sample["filtered_resps"]]
            again = model.loglikelihood(instances(*sample["arguments"]))
            assert got == pytest.approx([log_prob for log_prob, _ in again])
            best = int(np.argmax(got))
            assert sample["acc"] == (best == sample["doc"]["answer"])
    rate = np.mean([sample["acc"] for samples in results["samples"].values()
                    for sample in samples])
    (all_, *_), groups = report.table(results).sections
    assert all_[:2] == ["mmlu_here", "acc"] and float(all_[4]) == pytest.approx(rate, abs=1e-4)
    assert [row[0] for row in groups] == ["mmlu_high_school_rooms", "mmlu_gardens"]


def test_babilong_by_the_benchmarks_metric(model, tmp_path):
    samples = [dict(task="qa1", length=length, input=TEXT, question="Where is Mary?",
                    target="kitchen") for length in ("0k", "96", "0k")]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    results = running.run(model, running.find(["lm2_babilong_qa1"],
                                              metadata={"samples": str(path)}))
    assert {value.metric for value in report.values(results, "lm2_babilong_qa1")} == {
        "acc", "acc_0k", "acc_96", "exact_match"}
    assert results["n-samples"]["lm2_babilong_qa1"]["effective"] == 3
    prompt = results["samples"]["lm2_babilong_qa1"][0]["arguments"][0][0]
    assert prompt == TEXT + " Where is Mary?<answer>"


def test_babilong_documents(tmp_path):
    def scores(output):
        doc = dict(task="qa1", length="4k", target="kitchen", question="Where is Mary?")
        return babilong.process_results(doc, [output])

    assert scores("kitchen") == {"acc": 1, "acc_4k": 1, "exact_match": 1}
    assert scores("The kitchen.") == {"acc": 1, "acc_4k": 1, "exact_match": 0}
    assert scores("kitchen or garden")["acc"] == 0
    folder = tmp_path / "4k"
    folder.mkdir()
    (folder / "qa1.json").write_text(json.dumps(
        [dict(input=TEXT, question="Where is Mary?", target="kitchen")]))
    found = babilong.documents("qa1", str(tmp_path), style="instruct")["test"]
    assert found[0]["length"] == "4k" and "<context>\nMary went" in found[0]["text"]
    for arguments, message in (
            (("qa1",), "needs samples"), (("qa2", str(tmp_path)), "has no samples of qa2"),
            (("qa1", str(tmp_path), "8k"), "no samples of qa1 at 8k"),
            (("qa1", "nowhere"), "no sample file or folder nowhere"),
            (("qa1", str(tmp_path), "", "plain"), "style is 'plain'")):
        with pytest.raises(UserError, match=message):
            babilong.documents(*arguments)


def test_mmlu_by_group_and_level():
    subjects = {"mmlu_high_school_physics": ("stem", 0.5, 10), "mmlu_law": ("humanities", 1.0, 30),
                "mmlu_college_law": ("humanities", 0.0, 10), "arc_easy": ("easy", 1.0, 99)}
    results = {"results": {name: {"acc,none": rate, "acc_stderr,none": 0.1}
                           for name, (_, rate, _) in subjects.items()},
               "tags": {name: [f"mmlu_{group}_tasks"]
                        for name, (group, _, _) in subjects.items()},
               "n-samples": {name: {"effective": n} for name, (_, _, n) in subjects.items()}}
    rows = {row[0]: row[1:] for section in report.mmlu(results).sections for row in section}
    assert rows["STEM"] == ["1", "10", "50.0"] and rows["humanities"] == ["2", "40", "75.0"]
    assert rows["high school"] == ["1", "10", "50.0"] and rows["college"][2] == "0.0"
    assert rows["general knowledge"] == ["1", "30", "100"] and rows["all"] == ["3", "50", "70.0"]
    assert rows["others"] == ["0", "0", "-"]
    assert report.mmlu({"results": {}, "n-samples": {}}) is None


def test_lm2_eval_writes_the_results(workdir, tasks, tmp_path, capsys):
    arguments = ["eval", "--harness=mmlu_here", f"--workdir={workdir}", f"--out={tmp_path}",
                 f"--include-path={tasks}", "--batch-size=8", "--limit=2", "--log-samples",
                 "--apply-chat-template", "--num-fewshot=1"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "mmlu_gardens" in out and "high school" in out and "harness/results.json" in out
    folder = tmp_path / "harness"
    written = json.loads((folder / "results.json").read_text())
    assert written["config"]["model_step"] == importing.STEP and written["config"]["limit"] == 2
    assert json.loads((folder / "provenance.json").read_text())["step"] == importing.STEP
    lines = (folder / "samples_mmlu_gardens.jsonl").read_text().splitlines()
    assert len(lines) == 2 and not list((folder / "answers").iterdir())
    # The template of this Llama is its messages, one after the other.
    prompt = json.loads(lines[1])["arguments"][0][0]
    assert re.fullmatch(r"Where is Mary\?\nAnswer: ?hereWhere is John\?\nAnswer:", prompt)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_give_the_results_of_one(workdir, tasks, tmp_path):
    command.evaluate(workdir, ["mmlu_here"], out=tmp_path / "one", include=[tasks],
                     console=Console(file=io.StringIO()))
    two = subprocess.run(
        ["launch/local.sh", "-n", "2", "-d", "2", "--", sys.executable, "-m", "lm2_jax.cli", "eval",
         "--harness=mmlu_here", f"--workdir={workdir}", f"--include-path={tasks}",
         f"--out={tmp_path / 'two'}"], cwd=runs.ROOT, text=True, capture_output=True)
    assert two.returncode == 0, two.stdout + two.stderr
    assert two.stdout.count("harness/results.json") == 1
    one, other = (json.loads((tmp_path / name / "harness/results.json").read_text())["results"]
                  for name in ("one", "two"))
    assert one == other


def test_an_interrupted_evaluation_goes_on(workdir, tasks, tmp_path, monkeypatch):
    scored, whole = [], LM2._scores

    def scores(self, name, texts, tokens):
        scored.append(len(texts))
        if len(scored) == 1:
            whole(self, name, texts[:5], tokens[:5])
            raise KeyboardInterrupt
        return whole(self, name, texts, tokens)

    monkeypatch.setattr(LM2, "_scores", scores)
    options = dict(out=tmp_path, include=[tasks], console=Console(file=io.StringIO()),
                   model={"batch_size": 8})
    with pytest.raises(KeyboardInterrupt):
        command.evaluate(workdir, ["mmlu_gardens"], **options)
    command.evaluate(workdir, ["mmlu_gardens"], **options)
    assert scored == [12, 7]


@pytest.mark.parametrize("arguments,message", [
    (["--harness=arc_esay"], "has no task 'arc_esay'; the nearest are"),
    (["--harness=x", "--include-path=nowhere"], "nowhere is no folder of task files"),
    (["--harness=,"], "no task of the harness is named"),
    (["--harness=x", "--config=tiny"], "--config has no effect with --harness"),
    (["--harness=x", "--config.seed=3"], "--config.seed has no effect with --harness"),
    (["--harness=lm2_babilong_qa1"], "needs samples; give --metadata samples=PATH"),
    (["--harness=x", "--metadata=samples"], "it must be KEY=VALUE"),
    (["--harness=x", "--config.mesh.fsdp=all"], "mesh.fsdp"),
    (["--batch-size=3", "--config=tiny"], "--batch-size is an argument of --harness=TASKS"),
    (["--limit=3", "--config=tiny"], "--limit is an argument of --harness=TASKS"),
    ([], "required: --config (or --harness)")])
def test_mistakes_are_one_line(workdir, arguments, message, capsys, monkeypatch):
    find = running._managers
    monkeypatch.setattr(running, "_managers", lambda *args: itertools.islice(find(*args), 1))
    names = ["arc_easy", "arc_hard"]
    monkeypatch.setattr("lm_eval.tasks.TaskManager.all_tasks", property(lambda self: [
        *self._all_tasks, *names]))
    assert cli.main(["eval", f"--workdir={workdir}", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lm2 eval: ") and message in error


def test_a_missing_extra_is_named(monkeypatch, workdir, capsys):
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["eval", "--harness=arc_easy", f"--workdir={workdir}"]) == 2
    assert "pip install 'lm2_jax[harness]'" in capsys.readouterr().err


def test_the_harness_finds_the_model():
    from lm_eval.api.registry import get_model

    assert get_model("lm2_jax") is LM2
    declared = f'"lm_eval.models": ["lm2_jax = {LM2.__module__}:{LM2.__name__}"]'
    assert declared in (runs.ROOT / "setup.py").read_text("utf-8")
