"""Which detector made the regions: `detector.json` beside them, kept in the index of a data set and in a trained model.

A description is a JSON object. Its `fingerprint` is a hash of the detector's weights and configuration: equal
fingerprints mean the same detector, whatever its folder is called. Regions from elsewhere have no description, and
nothing is checked for them.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError, in_short

DETECTOR_FILE = "detector.json"
_SHOWN = 12  # characters of a revision in messages

DetectorDescription = Mapping[str, Any]


def read_detector(folder: Path) -> DetectorDescription | None:
    """The description in a folder of regions; None if there is none.

    Raises:
      DataError: it is damaged.
    """
    path = folder / DETECTOR_FILE
    try:
        return parse_detector(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({in_short(error)}); restore it, or detect the regions again.") from error


def parse_detector(value: object) -> DetectorDescription | None:
    """Check a description; None stands for an unknown detector. Raises ValueError if it is not a description."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), str) for key in ("name", "revision", "fingerprint")
    ):
        raise ValueError("not a description of a detector")
    return value


def named(detector: DetectorDescription) -> str:
    """Name and short revision, for messages."""
    return f"{in_short(detector['name'])} ({detector['revision'][:_SHOWN]})"


def same_detector(known: Iterable[tuple[str, DetectorDescription | None]]) -> DetectorDescription | None:
    """The detector that all regions have in common; None if no detector is known.

    Args:
      known: what has the regions, for messages, and its detector.

    Raises:
      DataError: two of the known detectors differ.
    """
    first, found = "", None
    for what, detector in known:
        if detector is None:
            continue
        if found is None:
            first, found = what, detector
        elif detector["fingerprint"] != found["fingerprint"]:
            raise DataError(
                f"{first} has regions of the detector {named(found)}, and {what} has those of {named(detector)}; their "
                "features mean different things, so use regions of one detector."
            )
    return found
