"""Flags that several benchmarks have."""

from absl import flags

FOLDER = flags.DEFINE_string("folder", "", "Where data, runs and results go.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny sizes on whatever device there is, to see that the program runs.")
