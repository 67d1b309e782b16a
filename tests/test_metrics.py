"""Scores: strict match, the benchmark's metric against its own verdicts, baseline, interval."""

import csv
import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm2_jax.eval import metrics

DATA = os.environ.get("LM2_TEST_DATA")
real_data = pytest.mark.skipif(not DATA, reason="LM2_TEST_DATA is unset")

# A busy machine is no failure.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
COUNTS = st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
TASKS = st.sampled_from(sorted(metrics.LABELS))
LABELS = TASKS.flatmap(
    lambda task: st.tuples(st.just(task), st.sampled_from(metrics.LABELS[task]))
).filter(lambda pair: pair != ("qa7", "none"))


@pytest.mark.parametrize(("target", "output", "expected"), [
    ("garden", "garden", True),
    ("garden", " garden\n", True),
    ("garden", "Garden", False),
    ("garden", "garden.", False),
    ("apple,milk", "apple, milk", False),
    ("garden", "", False),
])
def test_exact_match_forgives_outer_white_space_only(target, output, expected):
    assert metrics.exact_match(target, output) is expected


@pytest.mark.parametrize(("task", "target", "output", "question", "expected"), [
    ("qa1", "garden", "garden", "Where is Mary? ", True),
    ("qa1", "garden", "GARDEN", "Where is Mary? ", True),
    ("qa1", "garden", "", "Where is Mary? ", False),
    ("qa1", "garden", ".garden", "Where is Mary? ", False),
    ("qa1", "garden", "Mary left. She is in the garden", "Where is Mary? ", False),
    ("qa1", "garden", "garden. Before that: kitchen", "Where is Mary? ", True),
    ("qa1", "garden", "garden <context> kitchen", "Where is Mary? ", True),
    ("qa1", "garden", "<example> garden", "Where is Mary? ", False),
    ("qa1", "garden", "<EXAMPLE> garden", "Where is Mary? ", False),
    ("qa1", "garden", "garden Question: kitchen", "Where is Mary? ", False),
    ("qa1", "garden", "garden or kitchen", "Where is Mary? ", False),
    ("qa1", "garden", "kitchen", "Where is Mary? ", False),
    ("qa1", "garden", "not in the garden", "Where is Mary? ", True),
    ("qa1", "garden", "gardens", "Where is Mary? ", True),
    ("qa1", "garden", "bed room, garden", "Where is Mary? ", True),
    ("qa1", "garden", "park, garden", "Where is Mary? ", True),
    ("qa3", "garden", "kitchen, then garden", "Where was the milk before the kitchen? ", True),
    ("qa3", "garden", "garden", "Where was the milk before the GARDEN? ", False),
    ("qa5", "Bill", "bill gave the milk", "Who gave the milk to Fred? ", True),
    ("qa5", "Bill", "Bill gave it to Fred", "Who gave the milk to Fred? ", True),
    ("qa5", "Bill", "Bill gave it to Mary", "Who gave the milk to Fred? ", False),
    ("qa6", "no", "I do not know", "Is John in the park? ", True),
    ("qa6", "yes", "yes, now", "Is John in the park? ", False),
    ("qa7", "none", "none", "How many objects is Mary carrying? ", False),
    ("qa7", "one", "phones", "How many objects is Mary carrying? ", True),
    ("qa7", "three", "three", "How many objects is Mary carrying? ", True),
    ("qa8", "apple,milk", "milk and apple", "What is Mary carrying? ", True),
    ("qa8", "apple,milk", "apple", "What is Mary carrying? ", False),
    ("qa8", "apple,milk", "apple,milk,football", "What is Mary carrying? ", False),
    ("qa8", "apple,milk", "apple,milk or nothing", "What is Mary carrying? ", False),
    ("qa8", "milk", "apple,milk", "What is Mary carrying? ", False),
    ("qa10", "maybe", "Maybe", "Is John in the park? ", True),
    ("qa10", "maybe", "I do not know, maybe", "Is John in the park? ", False),
    ("qa19", "n,w", "N,W", "How do you go from the den to the hall? ", True),
    ("qa19", "n,w", "n, w", "How do you go from the den to the hall? ", False),
    ("qa19", "n,w", "n,w,n", "How do you go from the den to the hall? ", False),
])
def test_babilong_metric_has_the_oddities_of_the_original(task, target, output, question,
                                                          expected):
    assert metrics.babilong_correct(task, target, output, question) is expected


@real_data
def test_babilong_metric_agrees_with_every_stored_verdict():
    path = Path(DATA, "babilong", "metric_cases_public.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = [row for row in rows if (row["correct"] == "True") != metrics.babilong_correct(
        row["task"], row["target"], row["output"], row["question"])]
    assert len(rows) == 600 and not wrong, wrong[:3]


ROOMS = "bathroom bedroom garden hallway kitchen office"
ANSWERS = dict(zip((f"qa{number}" for number in range(1, 21)), [
    ROOMS, ROOMS, ROOMS, ROOMS, "apple Bill football Fred Jeff Mary milk", "no yes",
    "none one three two", "apple football milk nothing", "no yes", "maybe no yes", ROOMS, ROOMS,
    ROOMS, "bedroom cinema kitchen office park school", "cat mouse sheep wolf",
    "gray green white yellow", "no yes", "no yes",
    "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w",
    "bedroom bored garden hungry kitchen thirsty tired"], strict=True))


def verdict(task, target, output, question):
    """The benchmark's protocol, step by step."""
    said = output.lower()
    for end in (".", "<context>", "<example>"):
        said = said[:said.index(end)] if end in said else said
    labels = ANSWERS[task].lower().split()
    named = [label for label in labels if said.count(label) and not question.lower().count(label)]
    target = target.lower()
    if target.count(",") and len(target) > 3:
        parts = target.split(",")
        return len(named) == len(parts) and not [part for part in parts if part not in named]
    return named == [target]


def test_babilong_metric_is_its_protocol_on_odd_rows():
    rng = random.Random(0)
    odd = ["", " ", "\n", "\0", ".", ",", ", ", "?", "<context>", "<Example>", "Question: ", "the",
           "not ", "I do not know", "İ", "ſ", "K", "ß", "。", "\u200b", "\ud800", "é", "🙂", "one"]
    right = 0
    for _ in range(20_000):
        task = rng.choice(list(ANSWERS))
        words = ANSWERS[task].split()
        words += [change(word) for word in words for change in (str.upper, str.title)]
        target = ",".join(rng.choices(words, k=rng.choice((1, 1, 1, 2, 3)))) if (
            rng.random() < 0.9) else rng.choice(odd)
        parts = [*odd, *rng.sample(words, 2), *[target, *target.split(",")] * 6]
        output = "".join(rng.choices(parts, k=rng.randrange(6)))
        question = "".join(rng.choices([*odd * 4, *words], k=rng.randrange(5)))
        wanted = verdict(task, target, output, question)
        assert metrics.babilong_correct(task, target, output, question) is wanted, (
            task, target, output, question)
        right += wanted
    assert 4_000 < right < 16_000


@real_data
@pytest.mark.parametrize("task", sorted(set(metrics.LABELS) - {"kv"}))
def test_labels_are_the_answers_of_the_babi_files(task):
    answers = set()
    for path in Path(DATA, "babi", "en-10k").glob(f"{task}_*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            answers.update(field.lower() for field in line.split("\t")[1:2])
    if task == "qa8":
        answers = {part for answer in answers for part in answer.split(",")}
    assert set(metrics.LABELS[task]) == answers


@STEADY
@given(pair=LABELS, before=st.sampled_from(["", "it is ", "$", "\n"]), tail=st.text())
def test_a_label_alone_is_right_whatever_follows_the_first_stop(pair, before, tail):
    task, label = pair
    assert metrics.babilong_correct(task, label, f"{before}{label.upper()}.{tail}", "")


@STEADY
@given(pair=LABELS, output=st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,.<>"))
def test_a_label_of_the_question_is_never_right(pair, output):
    task, label = pair
    assert not metrics.babilong_correct(task, label, label + output, f"Is it {label.upper()}?")


@STEADY
@given(pair=LABELS, output=st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,."))
def test_what_is_right_for_some_output_is_scorable(pair, output):
    task, label = pair
    for said in (output, label, f"{label} {output}"):
        assert metrics.scorable(task, label, "") >= metrics.babilong_correct(task, label, said, "")


@real_data
def test_only_none_is_unscorable_in_the_babi_files():
    unscorable = set()
    for path in Path(DATA, "babi", "en-10k").glob("*_test.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "\t" in line:
                question, answer, _ = line.split("\t")
                task = path.name.split("_")[0]
                if not metrics.scorable(task, answer, question):
                    unscorable.add((task, answer))
    assert unscorable == {("qa7", "none")}


@pytest.mark.parametrize("task", ["qa0", "qa21", "QA1", ""])
def test_unknown_tasks_are_refused(task):
    with pytest.raises(ValueError, match="use qa1 to qa20"):
        metrics.babilong_correct(task, "garden", "garden", "")


def test_constant_answer_is_the_most_frequent_target():
    assert metrics.constant_answer(["b", "a", "b", "c"]) == ("b", 0.5)
    assert metrics.constant_answer(["c", "b", "b", "c", "a"]) == ("b", 0.4)
    with pytest.raises(ValueError, match="at least one"):
        metrics.constant_answer([])


@STEADY
@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_no_other_constant_does_better(targets):
    answer, rate = metrics.constant_answer(targets)
    assert rate == sum(t == answer for t in targets) / len(targets)
    assert all(sum(t == other for t in targets) <= rate * len(targets) + 1e-9 for other in "abc")


@pytest.mark.parametrize(("hits", "n", "low", "high"), [
    (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (93, 100, 0.8625, 0.9657),
])
def test_wilson_gives_known_intervals(hits, n, low, high):
    assert metrics.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@STEADY
@given(COUNTS, st.floats(0.5, 4))
def test_wilson_bounds_are_where_the_score_test_just_rejects(counts, z):
    hits, n = counts
    low, high = metrics.wilson(hits, n, z)
    assert 0 <= low <= hits / n + 1e-12 and hits / n - 1e-12 <= high <= 1
    for bound in (low, high):
        error = z * math.sqrt(bound * (1 - bound) / n)
        assert abs(abs(bound - hits / n) - error) < 1e-6


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(hits, n):
    with pytest.raises(ValueError, match="wilson needs"):
        metrics.wilson(hits, n)
