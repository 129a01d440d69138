"""Flags that several programs have."""

from absl import flags

from data_pipelines.storage.paths import AnyPath, as_path, check_writable, is_local
from pixelbert_jax.errors import ConfigError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run: checkpoints, metrics.jsonl, config, vocabulary.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where data sets were prepared; empty: the run's data.data_dir.")
SPLIT = flags.DEFINE_string("split", None, "Split of the data set.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which checkpoint of a run; the last where it kept no best one."
)
IMAGES = flags.DEFINE_multi_string("image", [], "Image file; repeat the flag for several.")
TEXTS = flags.DEFINE_multi_string("text", [], "Text that is read with the image; repeat the flag for several.")
REGIONS = flags.DEFINE_string(
    "regions", None, "For an ImageBERT: folder of .npz files with a detector's regions, one file per image."
)
DETECTOR = flags.DEFINE_string(
    "detector", None, "For an ImageBERT, in place of --regions: its detector, a folder or a Hugging Face name."
)
INDEX = flags.DEFINE_string(
    "index", None, "An .npz file: the index of the images that are searched, made if it does not exist."
)
OUTPUT = flags.DEFINE_string("output", None, "What to write; see the program's description.")


def required(*needed: flags.FlagHolder) -> None:
    """Refuse to start without some flags.

    Raises:
      ConfigError: it names them.
    """
    missing = [f"--{flag.name}" for flag in needed if not flag.value]
    if missing:
        raise ConfigError(f"Missing: {', '.join(missing)}; --help says what they mean.")


def only(flag: flags.FlagHolder) -> str:
    """The one value of a flag that may be given several times.

    Raises:
      ConfigError: it was given more than once.
    """
    if len(flag.value) != 1:
        raise ConfigError(f"--{flag.name} was given {len(flag.value)} times; this program takes one.")
    return flag.value[0]


def new_file(path: str, suffix: str, flag: str = "output") -> AnyPath:
    """A path that a file can be written to, in a folder that exists or in a bucket.

    Raises:
      ConfigError: the folder is missing, or the path has another suffix.
      DataError: the bucket is missing or cannot be reached.
    """
    file = as_path(path)
    if file.suffix.lower() != suffix or (is_local(file) and not file.absolute().parent.is_dir()):
        raise ConfigError(f"--{flag}={path}: name a {suffix} file in a folder that exists.")
    check_writable(file)
    return file
