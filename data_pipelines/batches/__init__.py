"""One file a task: from records to the arrays that the task's step takes."""
