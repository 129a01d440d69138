"""The order of the records: which records a step reads, as a function of the seed and the step."""
