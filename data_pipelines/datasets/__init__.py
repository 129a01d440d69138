"""The data sets that `prepare` knows, by name; the module of a data set is imported only when it is needed."""

import difflib
import importlib
from typing import TYPE_CHECKING

from data_pipelines.errors import DataError

if TYPE_CHECKING:
    from data_pipelines.datasets.builder import ImageTextBuilder

# name -> (module in this package, class in the module)
_BUILDERS = {
    "coco_captions": ("coco_captions", "CocoCaptions"),
    "visual_genome": ("visual_genome", "VisualGenome"),
    "flickr30k": ("flickr", "Flickr30k"),
    "flickr8k": ("flickr", "Flickr8k"),
    "conceptual_captions": ("conceptual_captions", "ConceptualCaptions"),
    "sbu": ("sbu", "Sbu"),
    "image_text": ("image_text", "ImageText"),
    "vqa_v2": ("vqa_v2", "VqaV2"),
    "daquar": ("daquar", "Daquar"),
    "easy_vqa": ("easy_vqa", "EasyVqa"),
    "vqa": ("vqa", "Vqa"),
    "nlvr2": ("nlvr2", "Nlvr2"),
    "nlvr": ("nlvr", "Nlvr"),
    "image_pairs": ("image_pairs", "ImagePairs"),
    "shapes": ("shapes", "Shapes"),
    "noisy_shapes": ("noisy_shapes", "NoisyShapes"),
}


def names() -> tuple[str, ...]:
    """Names of all data sets."""
    return tuple(_BUILDERS)


def builder_class(name: str) -> "type[ImageTextBuilder]":
    """The builder class of a data set; raises DataError for an unknown name."""
    if name not in _BUILDERS:
        near = [known for known in _BUILDERS if name and known.startswith(name)]
        near += difflib.get_close_matches(name, _BUILDERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise DataError(f"No data set is called {name!r}; {hint} are {', '.join(_BUILDERS)}.")
    module, class_name = _BUILDERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
