"""Image ids of regions and of records, brought to one form so that they join."""

import re

_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
_COCO = re.compile(r"(?:coco_(?:train|val|test)\d{4}_)?(\d{12})", re.IGNORECASE)


def normal_id(published: str) -> str:
    """An id without an image's suffix; `coco/139` for 000000000139 and COCO_val2014_000000000139, in any folder."""
    name = _SUFFIX.sub("", published.strip())
    coco = _COCO.fullmatch(name.rpartition("/")[2])
    return f"coco/{int(coco[1])}" if coco else name


def keys_of(image_id: str, place: str) -> list[str]:
    """The normal ids under which a record's regions are looked for, the highest-scoring first.

    Its id; its id without the data set's name; the name of its file; a COCO id as a bare number, if the file is called
    so. Thus a bare number is Visual Genome's where the files are, even of photographs that are also in COCO.

    Args:
      image_id: of the record.
      place: of its image file, or of a member of a tar file.
    """
    data_set, _, rest = image_id.partition("/")
    keys = [normal_id(image_id)]
    if data_set != "coco":
        keys.append(normal_id(rest))
    name = normal_id(re.split(r"[/:\\]", place)[-1])
    keys += [name, name.removeprefix("coco/")]
    return list(dict.fromkeys(keys))
