"""The columns of what a study leaves behind, for those who write the files and those who read them."""

MEASURED = (
    "accuracy",
    "accuracy_shifted",
    "adversarial_accuracy",
    "validation_accuracy",
    "validation_accuracy_shifted",
    "validation_adversarial_accuracy",
    "attack_success",
    "before",
    "before_neighbour",
    "still_y",
    "still_y_neighbour",
    "still_y_both",
    "mean_delta_norm",
)
"""What is measured of a trial; accuracies are those on test, with `validation_` on validation."""
POINT = ("kind", "eps", "num_steps", "step_size", "source_eps")
COLUMNS = {
    "kind": "string",
    "eps": "Float64",
    "num_steps": "Int64",
    "step_size": "Float64",
    "source_eps": "Float64",
    "seed": "Int64",
    "source_seed": "Int64",
    **dict.fromkeys(MEASURED, "Float64"),
    "work": "Int64",
    "fits": "Int64",
    "state": "string",
}
"""Columns of trials.csv with their types: one row a fit. What failed and pruned points were not measured for is empty;
`fits` is how many fits the point has, so that where it is 1 nobody looks for a spread."""
IMPORTANCE_COLUMNS = {"kind": "string", "measured": "string", "parameter": "string", "importance": "Float64"}
"""Columns of importance.csv with their types."""
