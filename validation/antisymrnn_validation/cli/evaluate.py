"""evaluate: the test accuracy of a run at its best validation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Contradicted,
    Json,
    UsageError,
    check_writable,
    command,
    load_backend_named,
    write_results,
)
from antisymrnn_validation.cli.train import DataFolder, progress_of_run, task_data


@command
def evaluate(run: Annotated[Path, typer.Argument(metavar="RUN")], data: DataFolder = None, json: Json = None) -> int:
    """Evaluate the best checkpoint of a run on the test set."""
    import numpy as np

    from antisymrnn_validation.experiments import runs, training
    from antisymrnn_validation.experiments.folder import RunError, configuration_of, load_state

    check_writable(json)
    start = time.perf_counter()
    try:
        configuration = configuration_of(run)
        content, module = task_data(configuration.task, data), load_backend_named(configuration.backend)
        state = load_state(run / "best.npz", configuration, content)
    except RunError as error:
        raise UsageError(str(error)) from None
    indices = np.arange(len(content.test_labels))
    try:
        with progress_of_run(configuration, content) as told:
            loss, accuracy = runs.evaluate(configuration, content, module, state, "test", indices, told.evaluating)
    except training.Diverged as error:
        raise Contradicted(str(error)) from None
    line = (
        f"evaluate: {configuration.task}, {len(indices)} samples, test loss {loss:.4f}, test accuracy {accuracy:.2%} "
        f"at iteration {state.iteration} of {configuration.iterations}"
        f"{'' if (run / 'summary.json').exists() else ', of a run that is not finished'}"
    )
    print(line)
    results = {"samples": len(indices), "test_loss": loss, "test_accuracy": accuracy, "iteration": state.iteration}
    head = {"command": "evaluate", "folder": str(run), "configuration": configuration._asdict()}
    write_results(json, line, AS_EXPECTED, start, head | results)
    return AS_EXPECTED
