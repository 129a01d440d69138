"""One file per task: it turns records into the arrays of the task's step."""
