"""Image ids of regions and of records in a common form, so that they can be joined."""

import re

_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
_COCO = re.compile(r"(?:coco_(?:train|val|test)\d{4}_)?(\d{12})", re.IGNORECASE)


def normal_id(published: str) -> str:
    """An id without an image suffix; `coco/139` for 000000000139 and COCO_val2014_000000000139, in any folder."""
    name = _SUFFIX.sub("", published.strip())
    coco = _COCO.fullmatch(name.rpartition("/")[2])
    return f"coco/{int(coco[1])}" if coco else name


def keys_of(image_id: str, location: str) -> list[str]:
    """Normal ids under which the regions of a record may be stored, the most specific first.

    These are the id of the record, the id without the name of the data set, the name of the file, and the COCO id as a
    bare number if the file has this name. So a bare number is a Visual Genome id if the files belong to Visual Genome,
    even for photographs that are also in COCO.

    Args:
      image_id: id of the record.
      location: location of its image file, or of a member of a tar file.
    """
    data_set, _, rest = image_id.partition("/")
    keys = [normal_id(image_id)]
    if data_set != "coco":
        keys.append(normal_id(rest))
    name = normal_id(re.split(r"[/:\\]", location)[-1])
    keys += [name, name.removeprefix("coco/")]
    return list(dict.fromkeys(keys))
