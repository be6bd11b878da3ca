"""Opens a finished arm in Python: its learning curves, and the pairs whose margins are closest.

    python projects/open_run.py RUN_ID

RUN_ID is the MLflow run of the arm, in the store of the current folder or of MLFLOW_TRACKING_URI. Copy this script and go on from here:
every artifact of a stage run is read in the same way (`icr_platform/core/schemas.py` documents the columns).
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import pandas as pd

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import PREFERENCES


def learning_curves(run_id: str) -> pd.DataFrame:
    """Win rates in percent: one row per language, one column per iteration."""
    client = mlflow.MlflowClient()
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith("win_rate/")]
    return pd.DataFrame(
        {
            key.removeprefix("win_rate/"): {m.step: m.value for m in client.get_metric_history(run_id, key)}
            for key in keys
        }
    ).T


def preferences(run_id: str) -> pd.DataFrame:
    """The preference pairs of all iterations of an arm, with the iteration as a column."""
    client = mlflow.MlflowClient()
    experiments = [client.get_run(run_id).info.experiment_id]
    tables = []
    for iteration in client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{run_id}'"):
        for stage in client.search_runs(
            experiments, f"tags.`mlflow.parentRunId` = '{iteration.info.run_id}' and tags.`icr.stage` = 'annotate'"
        ):
            folder = mlflow.artifacts.download_artifacts(run_id=stage.info.run_id, artifact_path="preferences")
            table = open_artifact(Path(folder), PREFERENCES).read().to_pandas()
            tables.append(table.assign(iteration=int(iteration.data.tags["icr.iteration"])))
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(learning_curves(sys.argv[1]).round(1).to_string())
    pairs = preferences(sys.argv[1])
    print(pairs.groupby(["iteration", "language"])["margin"].describe()[["count", "50%", "max"]].to_string())
    print(
        pairs.nsmallest(5, "margin")[
            ["iteration", "language", "margin", "english_instruction", "chosen", "rejected"]
        ].to_string()
    )
