"""Mistakes in a user's own config file: one line each, with the file, the line and the key."""

import textwrap

import pytest
from config_keys import TINY, refusal

from lm2_jax.config import files
from lm2_jax.config.files import load_config

HEAD = "from ml_collections import ConfigDict, config_dict\n\n\n"


@pytest.fixture
def write(tmp_path):
    """Writes a config file, its body beginning in line 4."""
    def write(body):
        path = tmp_path / "own.py"
        path.write_text(HEAD + textwrap.dedent(body))
        return path

    return write


def get_config(assignments):
    body = "".join(f"    {line}\n" for line in assignments)
    return f"def get_config():\n    config = ConfigDict()\n{body}    return config\n"


@pytest.mark.parametrize("body,line,said", [
    ("def get_config():\n    return ConfigDict(dict(seed=sed))\n", 5,
     "NameError: name 'sed' is not defined"),
    ("x = 1 / 0\n", 4, "ZeroDivisionError: division by zero"),
    ("def get_config()\n    pass\n", 4, "SyntaxError: expected ':'"),
    ("import no_such_package\n", 4, "ModuleNotFoundError: No module named 'no_such_package'"),
    ("def half(n):\n    return n // 0\n\n\ndef get_config():\n    return half(3)\n", 5,
     "ZeroDivisionError: integer division or modulo by zero"),
    (get_config(["config.model.embed_dim = 3"]), 6, "AttributeError: 'model'"),
    (get_config(["config.seed = config_dict.required_placeholder(int)",
                 "config.train = dict(num_steps=config.seed)"]), 7, "RequiredValueError: None"),
])
def test_a_mistake_in_the_file_names_file_and_line(write, body, line, said):
    path = write(body)
    message = refusal({}, path)
    assert message.startswith(f"{path}:{line}: {said.split(':')[0]}") and "\n" not in message
    assert said.partition(": ")[2].strip("'") in message or "Required" in said


@pytest.mark.parametrize("body,line,said", [
    (get_config(["config.train = dict(num_step=3)"]), 6,
     "unknown key train.num_step (value 3); did you mean train.num_steps?"),
    (get_config(["config.seed = -1"]), 6, "seed is -1; it must be in [0, 2**31)"),
    (get_config(["config.model = dict(", "    num_layers=2,",
                 "    memory=dict(num_layers=3))"]), 8,
     "model.memory.num_layers is 3; it must be at most model.num_layers = 2"),
    (get_config(["config.model = {'dtype': 'int8'}"]), 6, "model.dtype is 'int8'"),
    (get_config(["config.train = dict(learning_rate=float('inf'))"]), 6,
     "train.learning_rate is inf; it must be a finite number"),
    (get_config(["config.data = dict()", "config.data.curriculum = ((0, 'x'),)"]), 7,
     "data.curriculum[0][1] is 'x'"),
])
def test_a_value_that_cannot_be_used_names_its_line(write, body, line, said):
    path = write(body)
    assert refusal({}, path).startswith(f"{path}:{line}: {said}")


def test_an_override_is_not_blamed_on_the_file(write):
    path = write(get_config(["config.model = dict(num_heads=4, num_kv_heads=4)"]))
    assert refusal({"model.num_heads": "3", "model.head_dim": "8"}, path).startswith(
        "model.num_kv_heads is 4; it must be a divisor of model.num_heads = 3")
    assert refusal({"seed": "-1"}, path).startswith("seed is -1")


def test_a_line_is_named_only_if_it_is_the_only_one(write):
    path = write("SIZES = {'a': dict(num_steps=0),\n         'b': dict(num_steps=0)}\n\n\n"
                 "def get_config():\n    return ConfigDict(dict(train=SIZES['b']))\n")
    assert refusal({}, path).startswith("train.num_steps is 0")


@pytest.mark.parametrize("placeholder", ["placeholder", "required_placeholder"])
def test_a_placeholder_that_is_not_set_is_named(write, placeholder):
    path = write(get_config([f"config.train = dict(num_steps=config_dict.{placeholder}(int))"]))
    assert refusal({}, path) == (f"{path}:6: train.num_steps is a placeholder that is not set; "
                                 "give it as --config.train.num_steps=VALUE")
    assert load_config(path, {"train.num_steps": "7"}).train.num_steps == 7


def test_references_are_followed(write):
    path = write(get_config(["config.seed = 3", "config.train = dict()",
                             "config.train.num_steps = config.get_ref('seed') * 4"]))
    assert load_config(path).train.num_steps == 12


@pytest.mark.parametrize("key,value", [
    ("seed", "-1"), ("seed", "-0.5"), ("seed", "1,000"), ("seed", "0x"), ("eval.seed", "-3"),
    ("train.num_steps", "-5"), ("train.num_steps", "1e400"), ("train.learning_rate", "nan"),
    ("train.learning_rate", "1e400"), ("train.weight_decay", "-inf"), ("mesh.data", "-2"),
    ("train.learning_rate", "1" + 400 * "0"), ("train.num_steps", "{[]: 1}"),
    ("train.num_steps", 9999 * "("),
])
def test_a_number_of_the_wrong_form_is_named_with_its_key(key, value):
    assert refusal({key: value}, TINY).startswith(f"{key} is ")


def test_a_file_that_is_not_python_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("learning rate 0.1")
    assert refusal({}, path) == (
        f"{path} is not a Python file; the name of a config file ends in .py")


def test_a_missing_file_names_the_configs_there_are(tmp_path):
    message = refusal({}, tmp_path / "x.py")
    assert "by name: " in message and "quickstart" in message
    assert [name for name, _ in files.shipped()] == sorted(
        path.stem for path in TINY.parent.glob("*.py"))
