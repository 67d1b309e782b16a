"""The command line of lm-evaluation-harness, with the model `lm2_jax` and this package's tasks."""

import os
import sys

import jax

from lm2_jax.errors import RunError, UserError
from lm2_jax.eval.harness import running
from lm2_jax.runtime import clusters, compilation_cache, processes
from lm2_jax.runtime.console import print_error

COMMAND = "lm2_jax.eval.harness"


def main() -> int:
    try:
        running.require()
        compilation_cache.enable()
        processes.initialize(clusters.find_process_info(), command=COMMAND,
                             **clusters.timeouts())
        # The harness writes and prints results where this is 0.
        os.environ["LOCAL_RANK"] = str(jax.process_index())
        from lm_eval.__main__ import cli_evaluate

        from lm2_jax.eval.harness import model  # noqa: F401  (registers the model)

        if len(sys.argv) > 2 and not any(a.startswith("--include_path") for a in sys.argv):
            sys.argv += ["--include_path", str(running.TASKS)]
        cli_evaluate()
        processes.shutdown()
    except (UserError, RunError) as error:
        print_error(f"{COMMAND}: {error}")
        processes.abort(str(error), 2)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
