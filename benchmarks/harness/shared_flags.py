"""Flags that several benchmarks have."""

from absl import flags

FOLDER = flags.DEFINE_string("folder", "", "Where data, runs and results go.")
ONLY = flags.DEFINE_list("only", [], "Names of those that are run, as the program lists them; empty: all usual ones.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny sizes on whatever device there is, to see that the program runs.")
