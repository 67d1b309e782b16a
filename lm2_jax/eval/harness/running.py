"""Runs tasks of lm-evaluation-harness on a model. Only its functions need lm_eval."""

import difflib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm2_jax.errors import UserError

TASKS = Path(__file__).parent / "tasks"  # of this package


def require() -> None:
    """Raises a UserError if lm_eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("this needs lm-evaluation-harness: pip install 'lm2_jax[harness]'")


def run(model: Any, tasks: Sequence[str], *, include: Sequence[str | Path] = (),
        metadata: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Evaluates a model on tasks.

    Args:
      model: an `lm2_jax.eval.harness.model.LM2`.
      tasks: names of tasks, groups or tags, or patterns of them.
      include: folders with more task files; theirs replace others of the same name.
      metadata: values for the functions of tasks that load data.
      options: of `lm_eval.simple_evaluate`.

    Returns:
      The harness's results, with the tags of each task's file under "tags".

    Raises:
      UserError: if there is no such task, or its data cannot be loaded.
    """
    require()
    import datasets
    from lm_eval import simple_evaluate

    if not tasks:
        raise UserError("no task of the harness is named; lm_eval ls tasks lists them")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    manager, names = _find(tasks, [TASKS, *include], dict(metadata or {}))
    try:
        results = simple_evaluate(model=model, tasks=names, task_manager=manager, **options)
    except UserError:
        raise
    except (ConnectionError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the data of {', '.join(names)} cannot be loaded: {reason}") from error
    index = manager.task_index
    tags = {name: sorted(index[name].tags) for name in results["configs"] if name in index}
    return {**results, "tags": tags}


def _find(tasks: Sequence[str], folders: Sequence[str | Path], metadata: dict[str, Any]):
    """The harness's task manager, and the names of the tasks."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is no folder of task files")
    for manager in _managers(folders, metadata):
        found = {task: manager.match_tasks([task]) for task in tasks}
        if all(found.values()):
            return manager, list(dict.fromkeys(name for names in found.values() for name in names))
    missing = next(task for task, names in found.items() if not names)
    near = difflib.get_close_matches(missing, manager.all_tasks)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise UserError(f"the harness has no task {missing!r}{hint} (lm_eval ls tasks lists them)")


def _managers(folders: Sequence[str | Path], metadata: dict[str, Any]) -> Iterator[Any]:
    """Yields a task manager of the folders, and one that has the harness's own tasks too, which
    are thousands of files."""
    from lm_eval.tasks import TaskManager

    for defaults in (False, True):
        yield TaskManager(include_path=[Path(folder) for folder in folders],
                          include_defaults=defaults, metadata=metadata)
