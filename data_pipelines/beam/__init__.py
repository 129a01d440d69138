"""`prepare` on Apache Beam: workers verify the images and write the files; the main process decides their order.

1. The main process lists the candidates of all splits in chunks, in files of the output folder.
2. A first pipeline verifies each image of a chunk and writes the verdicts, without the images.
3. The main process reads the verdicts and decides in order which candidates become records and in which file, as it
   does without Beam.
4. A second pipeline reads these images again and writes one whole file per element.

So only small descriptions pass through the main process, and a worker holds only a few images at a time.

`exchange` defines the files between the main process and the workers, `prepare_worker` the work of a worker. Only
`prepare_job` and `runner` import Beam.
"""
