"""Runs tasks of lm-evaluation-harness on a model. Only its functions need lm_eval."""

import difflib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

TASKS = Path(__file__).parent / "tasks"  # of this package


def require() -> None:
    """Raises a UserError if lm_eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("this needs lm-evaluation-harness: pip install 'lm2_jax[harness]'")


class Found(NamedTuple):
    """Tasks of the harness.

    Attributes:
      names: of tasks, groups and tags.
      manager: the harness's task manager, which loads them.
    """

    names: list[str]
    manager: Any


def find(tasks: Sequence[str], include: Sequence[str | Path] = (),
         metadata: Mapping[str, Any] | None = None) -> Found:
    """Finds tasks of the harness, of this package and of other folders.

    Args:
      tasks: names of tasks, groups or tags, or patterns of them.
      include: folders with more task files; theirs replace others of the same name.
      metadata: values for the functions of tasks that load data.

    Raises:
      UserError: if there is no such task or folder, or lm_eval is not installed.
    """
    require()
    if not tasks:
        raise UserError("no task of the harness is named; lm_eval ls tasks lists them")
    for folder in include:
        if not paths.of(folder).is_dir():
            raise UserError(f"{folder} is no folder of task files")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    for manager in _managers([TASKS, *map(Path, include)], dict(metadata or {})):
        found = {task: manager.match_tasks([task]) for task in tasks}
        if all(found.values()):
            names = [name for names in found.values() for name in names]
            return Found(list(dict.fromkeys(names)), manager)
    missing = next(task for task, names in found.items() if not names)
    near = difflib.get_close_matches(missing, manager.all_tasks)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise UserError(f"the harness has no task {missing!r}{hint} (lm_eval ls tasks lists them)")


def run(model: Any, tasks: Found, **options: Any) -> dict[str, Any]:
    """Evaluates a model on tasks.

    Args:
      model: an `lm2_jax.eval.harness.model.LM2`.
      options: of `lm_eval.simple_evaluate`.

    Returns:
      The harness's results, with the tags of each task's file under "tags".

    Raises:
      UserError: if the data of a task cannot be loaded.
    """
    import datasets
    from lm_eval import simple_evaluate

    datasets.disable_progress_bars()
    try:
        results = simple_evaluate(model=model, tasks=tasks.names, task_manager=tasks.manager,
                                  **options)
    except UserError:
        raise
    except (ConnectionError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the data of {', '.join(tasks.names)} cannot be loaded: {reason}"
                        ) from error
    index = tasks.manager.task_index
    tags = {name: sorted(index[name].tags) for name in results["configs"] if name in index}
    return {**results, "tags": tags}


def _managers(folders: Sequence[Path], metadata: dict[str, Any]) -> Iterator[Any]:
    """Yields a task manager of the folders, and one that has the harness's own tasks too, which
    are thousands of files."""
    from lm_eval.tasks import TaskManager

    for defaults in (False, True):
        yield TaskManager(include_path=list(folders), include_defaults=defaults,
                          metadata=metadata)
