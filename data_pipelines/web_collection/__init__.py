"""From images and texts that a crawler found to a set worth training on: ImageBERT's LAIT pipeline, on Apache Beam.

The stages are plain functions in files of their own (`texts`, `languages`, `merging`, `repeats`, `choice`,
`near_duplicates`); `pipeline` alone knows Beam.
"""
