"""`prepare` on Apache Beam: workers look at the images and write the files, the main process keeps their order.

The main process lists the candidates of all splits in chunks, in files of the folder that is being written. A first
pipeline looks at every image of a chunk and writes what it found, without the image. From that the main process
decides, candidate after candidate, which become records and in which file, as it does without Beam. A second pipeline
reads those images again and writes a whole file each. So nothing but small descriptions passes through the main
process, and no worker holds more than a few images.

`exchange` has the files between the main process and the workers, `work` what a worker does; `job` alone knows Beam.
"""
