"""Run one notebook in this process: `python -m ravl_core.run_notebook SOURCE OUTPUT PARAMETERS`.

A process of its own for each notebook, so that one which takes its process down does so alone. The parameters are
JSON. What went wrong is written to OUTPUT.reason, and the exit status is then 1.
"""

import json
import os
import sys
import threading
from pathlib import Path


def run_notebook(source: str, output: str, parameters: dict) -> str:
    """Run `source` through papermill into `output`; the answer is what went wrong, or "" if nothing did."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            source, output, parameters, kernel_name="python3", progress_bar=False, start_timeout=300
        )
    except PapermillExecutionError as error:
        return f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except DeadKernelError:
        return "the kernel died (killed, out of memory, or a crash in compiled code)"
    return ""


def _end_with_parent() -> None:
    """Standard input stays open as long as the caller lives; a killed caller must not leave notebooks running."""
    os.read(0, 1)  # not sys.stdin.read(): its lock would be held when the interpreter ends
    os._exit(1)


def main() -> int:
    """Run the notebook that the command line names."""
    source, output, parameters = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reason = run_notebook(source, output, json.loads(parameters))
    if reason:
        Path(f"{output}.reason").write_text(reason, encoding="utf-8")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
