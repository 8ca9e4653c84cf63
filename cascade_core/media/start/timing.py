"""Which pictures of a clip become pictures of the video, by their times: pure."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

from cascade_core.errors import UnusableFile
from cascade_core.media.start.start_file import StartShape


def choose(times: Sequence[Fraction], shape: StartShape, last_s: float | None) -> list[int]:
    """For each picture of the video, the index of the clip's picture that is shown then.

    `times`: seconds at which the clip's pictures appear, ascending, one at least. The last picture of the
    clip is the last that is chosen, and the others are counted back from it, so that what follows follows at
    once. Raises UnusableFile for a clip of less than one block.
    """
    step = 1 / shape.fps
    tolerance = step / 4  # files round their times
    num_there = int((times[-1] - times[0] + tolerance) / step) + 1
    num_chosen = num_pictures(num_there, shape, last_s)
    wanted = (times[-1] - back * step + tolerance for back in reversed(range(num_chosen)))
    return [max(0, bisect_right(times, time) - 1) for time in wanted]


def num_pictures(num_there: int, shape: StartShape, last_s: float | None) -> int:
    """Pictures of whole blocks, of a clip that has `num_there` at the video's speed."""
    of_block = 4 * shape.block_frames
    least = of_block - 3
    if num_there < least:
        has, needed = (
            f"{number} pictures ({float(number / shape.fps):.1f} s)" for number in (num_there, least)
        )
        raise UnusableFile(f"has {has} at {float(shape.fps):g} fps, must have {needed} or more")
    num_blocks = min((num_there + 3) // of_block, shape.max_blocks)
    if last_s is not None:
        num_blocks = min(num_blocks, max(1, round((last_s * shape.fps + 3) / of_block)))
    return of_block * num_blocks - 3
