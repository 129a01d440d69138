"""The text that `prepare` prints about a prepared data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule, choose_canvas, default_canvases, resized_size
from data_pipelines.storage.detectors import named, parse_detector
from data_pipelines.storage.records import INDEX_FILE, Index, read_index

_LISTED = 5
_ROW_FAULTS = {"repeated": "with an id that an earlier row has, not used", "without_id": "without an id"}


def describe(folder: Path, summary: Mapping[str, Any], rule: ResizeRule) -> str:
    """Describe each split, the skipped records with the reasons, the canvases and the padding, on several lines.

    Args:
      folder: folder of the prepared data set.
      summary: result of `records.read_summary` for this folder.
      rule: resize rule for the canvases.

    Raises:
      DataError: the index is damaged.
    """
    try:
        return _described(folder, summary, rule)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise DataError(
            f"{folder / INDEX_FILE} is damaged; delete it and run `prepare` again, which writes the index anew."
        ) from error


def _described(folder: Path, summary: Mapping[str, Any], rule: ResizeRule) -> str:
    lines = [f"{summary['name']} {summary['version']} in {folder}", *summary["notes"]]
    lines.append(
        f"{'split':<12}{'images':>10}{'texts':>12}  {'words per text: mean':>20}{'95%':>5}{'max':>5}  {'padding':>7}"
    )
    used: dict[tuple[int, int], int] = {}
    for split, entry in summary["splits"].items():
        counts, padding = canvases_and_padding(read_index(folder, split, summary), rule)
        for canvas, count in counts.items():
            used[canvas] = used.get(canvas, 0) + count
        words = entry["words"]
        lines.append(
            f"{split:<12}{entry['images']:>10,}{entry['texts']:>12,}  {words['mean']:>20.1f}"
            f"{words['p95']:>5}{words['max']:>5}  {padding:>7.1%}"
        )
    lines += _region_lines(summary)
    total = sum(used.values())
    shares = ", ".join(f"{h}x{w} {count / total:.0%}" for (h, w), count in used.items())
    lines.append(
        f"canvases (height x width) for shorter edge {rule.shorter_edge}, longer at most {rule.longer_edge}: {shares}"
    )
    for split, skipped in summary["skipped"].items():
        lines += [*_skipped_lines(split, skipped), *_text_lines(split, skipped)]
    return "\n".join(lines)


def canvases_and_padding(index: Index, rule: ResizeRule) -> tuple[dict[tuple[int, int], int], float]:
    """Number of images on each used canvas, and the share of padding among all canvas pixels.

    Both images of a pair count, each on its own canvas.
    """
    canvases = default_canvases(rule)
    counts = np.zeros(len(canvases), np.int64)
    inside = 0
    all_sizes = np.stack([index.heights, index.widths], 1)
    if index.second_heights is not None:
        all_sizes = np.concatenate([all_sizes, np.stack([index.second_heights, index.second_widths], 1)])
    sizes, images = np.unique(all_sizes, axis=0, return_counts=True)
    for (height, width), number in zip(sizes.tolist(), images.tolist(), strict=True):
        size = resized_size(height, width, rule)
        counts[choose_canvas(*size, canvases)] += number
        inside += size[0] * size[1] * number
    outside = sum(h * w * int(count) for (h, w), count in zip(canvases, counts, strict=True))
    used = {canvas: int(n) for canvas, n in zip(canvases, counts, strict=True) if n}
    return used, 1 - inside / outside


def _region_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines about the source of the regions, the unused rows and the regions of each split; none without regions."""
    lines = []
    if source := summary.get("regions"):
        counts = [f"{source['rows']:,} rows", f"{source['unjoined']:,} of no image here"]
        counts += [f"{source[name]:,} {what}" for name, what in _ROW_FAULTS.items() if source[name]]
        lines.append(f"regions from {source['source']}: {', '.join(counts)}")
        if detector := parse_detector(source.get("detector")):
            lines.append(f"  detector: {named(detector)}")
        lines += [f"  {location}" for location in source["listed"][:_LISTED]]
        if source.get("transposed"):
            lines.append("  their features are transposed, a column for each region, and read so")
    for split, entry in summary["splits"].items():
        if numbers := entry.get("regions"):
            classes = f"classes 0 to {entry['region_classes'] - 1:,}" if entry["region_classes"] else "classes unknown"
            whole = f", {entry['global_size']:,} of the image" if entry["global_size"] else ""
            lines.append(
                f"regions of {split}: {numbers['mean']:.1f} per image ({numbers['min']} to {numbers['max']}), "
                f"features of {entry['region_size']:,} numbers{whole}, {classes}"
            )
        if boxes := summary["skipped"].get(split, {}).get("boxes"):
            lines.append(f"boxes skipped in {split}: {', '.join(f'{n:,} {reason}' for reason, n in boxes.items())}")
    return lines


def _text_lines(split: str, skipped: Mapping[str, Any]) -> list[str]:
    """Lines about skipped texts, identical, transparent and turned images, and unused files; none if there are none."""
    lines = []
    if texts := skipped.get("texts"):
        lines.append(f"texts skipped in {split}: {', '.join(f'{n:,} {reason}' for reason, n in texts.items())}")
        lines += [f"  {line}" for line in skipped["listed_texts"][:_LISTED]]
        if (more := sum(texts.values()) - _LISTED) > 0:
            lines.append(f"  ... and {more:,} more")
    if identical := skipped.get("identical"):
        first = skipped["identical_place"]
        lines.append(f"images of {split} that have the same bytes as an earlier one: {identical:,} (first: {first})")
    if transparent := skipped.get("transparent"):
        lines.append(f"images of {split} that are partly transparent, white behind them: {transparent:,}")
    if turned := skipped.get("turned"):
        lines.append(f"images of {split} that lay on their side, turned upright by their orientation tag: {turned:,}")
    if unused := skipped.get("unused"):
        lines.append(f"not used in {split}: {', '.join(f'{n:,} {what}' for what, n in unused.items())}")
    return lines


def _skipped_lines(split: str, skipped: Mapping[str, Any]) -> list[str]:
    """Lines about the skipped images and empty texts; none if nothing was skipped."""
    reasons = [f"{count:,} {reason}" for reason, count in skipped["images"].items()]
    if skipped["empty_texts"]:
        reasons.append(f"{skipped['empty_texts']:,} empty texts")
    if not reasons:
        return []
    listed = skipped["listed"]
    more = [f"  ... and {skipped['bad'] - _LISTED:,} more"] if skipped["bad"] > _LISTED else []
    lines = [f"skipped in {split}: {', '.join(reasons)}"]
    return lines + [f"  {line}" for line in listed[:_LISTED]] + more
