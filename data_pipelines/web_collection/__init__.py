"""Turn crawled images and texts into a data set for training: ImageBERT's LAIT pipeline, on Apache Beam.

The stages are plain functions in separate files (`texts`, `languages`, `merging`, `repeats`, `choice`,
`near_duplicates`). Only `pipeline` imports Beam.
"""
