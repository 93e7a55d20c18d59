"""Chooses the shape of each clip in a data set with several shapes.

For a shape, the part of a clip that is kept is

    share = (picture inside the crop) (seconds inside the windows)        (1)

Only shapes count that the clip is long enough for and that do not enlarge it
beyond `max_upscale`. Among the shapes with about the largest share, the one
with the most pixels is chosen: the sharpest. Sound alone gets the longest shape
with the fewest pixels, as its pictures are zeros. Stills, and only stills, get
shapes of one frame.
"""

from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from ccl_jax.data.clip import ClipShape, Extent
from ccl_jax.data.encode.clip_files import ClipFile, measure
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.data.encode.windows import TOLERANCE, find_end, find_starts

_ABOUT = 0.95  # of the largest share


def assign_buckets(
  clip_files: Sequence[ClipFile], settings: EncodeSettings
) -> list[ClipFile]:
  """Returns the clips with their shapes; as they are if there is one shape.

  Raises:
    ValueError: a shape that no clip gets.
  """
  if not settings.buckets:
    return list(clip_files)
  assigned = []
  with DecodePool(settings.num_workers, read=measure) as pool:
    number = len(clip_files)
    measured = tqdm(pool(clip_files), "reading sizes", number, unit=" clips")
    for file, extent in measured:
      shape, problem = settings.shape, ""
      if isinstance(extent, Extent):
        file = file._replace(extent=extent)
        shape, problem = choose(_part(file), settings)
      problem = file.problem or problem
      assigned.append(file._replace(shape=shape, problem=problem))
  counts = count_shapes(assigned, settings)
  for shape, count in counts.items():
    if not count:
      raise ValueError(
        f"No clip goes to the bucket {shape} (frames x y x x) of"
        f" encode.buckets: leave it out. The others: {describe(counts)}."
      )
  return assigned


def count_shapes(
  clip_files: Sequence[ClipFile], settings: EncodeSettings
) -> dict[ClipShape, int]:
  """Returns the number of clips of each shape that may be usable."""
  found = Counter(file.shape for file in clip_files if not file.problem)
  return {shape: found[shape] for shape in settings.shapes}


def describe(counts: dict[ClipShape, int]) -> str:
  """Returns "12 clips in 49x64x64, 3 in 25x32x96"."""
  return ", ".join(f"{count} in {shape}" for shape, count in counts.items())


def choose(extent: Extent, settings: EncodeSettings) -> tuple[ClipShape, str]:
  """Returns the shape of a clip, and why it cannot be used or ""."""
  frames = extent.seconds * settings.fps if extent.size else 0.0
  is_still = extent.is_image or 0 < frames < 1.5
  shapes = [s for s in settings.shapes if (s.frames == 1) == is_still]
  shapes = shapes or list(settings.shapes)
  shortest = min(shape.seconds for shape in shapes)
  # If it is too short for all, decoding will say so.
  seconds = max(extent.seconds, shortest)
  shapes = [s for s in shapes if s.seconds <= seconds + TOLERANCE]
  if extent.size is None:
    return max(shapes, key=lambda s: (s.frames, -s.size[0] * s.size[1])), ""
  large = [s for s in shapes if s.scale(extent.size) <= settings.max_upscale]
  if not large:
    (y, x), least = extent.size, min(s.scale(extent.size) for s in shapes)
    return shapes[0], (
      f"is {x}x{y} pixels: its buckets would enlarge it {least:.2f} times,"
      f" encode.max_upscale is {settings.max_upscale:g}"
    )
  shares = {
    s: s.share(extent.size) * _kept_seconds(s, seconds, settings) for s in large
  }
  best = max(shares.values())
  alike = [s for s in large if shares[s] >= _ABOUT * best]
  return max(alike, key=lambda s: s.frames * s.size[0] * s.size[1]), ""


def _kept_seconds(
  shape: ClipShape, seconds: float, settings: EncodeSettings
) -> float:
  """Returns the share of a clip's time that is in a window."""
  starts = [0.0]
  if settings.windows != "first":
    starts = find_starts(seconds, shape.seconds, settings) or starts
  span = starts[-1] - starts[0] + shape.seconds
  return min(len(starts) * shape.seconds, span) / seconds


def _part(file: ClipFile) -> Extent:
  """Returns the extent of the segment of a file that is a clip."""
  if file.extent.is_image:
    return file.extent
  seconds = (find_end(file) or 0.0) - file.start
  return file.extent._replace(seconds=max(seconds, 0.0))
