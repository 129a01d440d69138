"""How a run copes with several processes, signals, damaged records and full disks."""
