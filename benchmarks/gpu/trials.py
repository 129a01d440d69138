"""Larger and larger trials of a step until the memory of a card is full."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.harness.measuring import rounded
from benchmarks.harness.turns import in_turn

MEMORY_IS_FULL = "memory is full"  # why trials ended
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "failed to allocate")
_ROOM = 0.97  # share of the memory that a guess fills

Attempt = Callable[[int], dict[str, Any]]  # tries a number of images


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX or PyTorch says that the memory is full."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words.lower() in said for words in _OUT_OF_MEMORY)


def next_size(fitted: Sequence[tuple[int, float | None]], failed: Sequence[int], first: int, limit: float) -> int:
    """Images of the next trial, or 0 where no larger one is expected to fit.

    Args:
      fitted: images and peak of memory (GiB, None: not known) of the trials that went well, in growing order.
      failed: images of those that did not fit; with any, peaks no longer count: JAX's never falls.
      first: of the first trial.
      limit: GiB that there are.
    """
    least_failed = min(failed, default=math.inf)
    if not fitted:
        return first if not failed else least_failed // 2
    last, peak = fitted[-1]
    if failed:
        guess = (last + least_failed) // 2
    elif len(fitted) == 1 or peak is None or fitted[-2][1] is None:
        guess = 2 * last
    else:
        before, peak_before = fitted[-2]
        a_image = max((peak - peak_before) / (last - before), 1e-6)
        guess = min(int(last + (_ROOM * limit - peak) / a_image), 8 * last)
    return int(guess) if guess > last + last // 16 else 0


def trials(
    attempt: Attempt,
    *,
    first: int,
    most: int,
    limit: float,
    until: float,
    full_at: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """Larger and larger trials until the memory is full, the guess of the largest included; then why it ended.

    Args:
      attempt: tries a step with a number of images.
      first: images of the first trial.
      most: images that are not exceeded.
      limit: GiB of memory.
      until: time of the clock after which no trial should end.
      full_at: images from which memory counts as full; 0: never.
      clock: tells the seconds.
    """
    fitted: list[tuple[int, float | None]] = []
    failed: list[int] = []
    longest = 0.0
    while images := min(next_size(fitted, failed, first, limit), most):
        begun = clock()
        if begun + 1.2 * longest > until:
            yield {"ended": f"no time for a trial of {images} images"}
            return
        found, error = _tried(attempt, images, full_at)
        if error and not is_out_of_memory(error):
            yield {"images": images, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            return
        del error  # it holds the frames, and with them the arrays
        gc.collect()
        longest = max(longest, clock() - begun)
        if found is None:
            failed.append(images)
        else:
            fitted.append((images, found.get("peak_gib")))
        yield {"images": images, "trial_seconds": round(clock() - begun, 1)} | (found or {"out_of_memory": True})
        if images == most and found:
            yield {"ended": "the most images that were asked for"}
            return
    yield {"ended": MEMORY_IS_FULL}


def _tried(attempt: Attempt, images: int, full_at: int) -> tuple[dict[str, Any] | None, Exception | None]:
    try:
        if full_at and images >= full_at:
            raise MemoryError
        return attempt(images), None
    except Exception as error:
        return None, error


def timed(step: Callable[[], Any], steps: int, pairs: int) -> dict[str, Any]:
    """Pairs per second of a step that returns when it is done; the first two, which compile, do not count."""
    begun = time.perf_counter()
    step()
    first = time.perf_counter() - begun
    seconds = in_turn({"step": step}, steps, warm_up=1)["step"]
    median = statistics.median(seconds)
    return {
        "pairs": pairs,
        "first_step_seconds": rounded(first),
        "step_seconds": rounded(median),
        "pairs_per_second": rounded(pairs / median),
        "fastest_step_seconds": rounded(min(seconds)),
    }
