"""Reports how much of the clips of a folder encoding keeps."""

from collections.abc import Sequence

from ccl_jax.data.clip import Extent, is_image
from ccl_jax.data.encode.clip_files import ClipFile, measure
from ccl_jax.data.encode.settings import EncodeSettings

_MAX_CLIPS = 16
_MIN_SECONDS = 0.1  # that are worth a word


def describe_cuts(
  clip_files: Sequence[ClipFile], settings: EncodeSettings
) -> str:
  """Returns what encoding cuts off the clips and which config keys keep it.

  A few clips are measured, evenly chosen; the text is of one of them, and empty
  if nothing is cut off.
  """
  clip_files = [
    file
    for file in clip_files
    if not file.problem and file.end is None and not is_image(file.name)
  ]
  num = min(_MAX_CLIPS, len(clip_files))
  chosen = [clip_files[i * len(clip_files) // num] for i in range(num)]
  cuts = [cut for cut in (_describe(file, settings) for file in chosen) if cut]
  if not cuts:
    return ""
  return (
    f"Encoding keeps of each clip {cuts[0]}; {len(cuts)} of {num} clips that"
    " were looked at are larger. To keep more: --config.encode.windows=all,"
    " --config.encode.frames, --config.encode.fps, --config.encode.size,"
    " --config.encode.buckets."
  )


def _describe(file: ClipFile, settings: EncodeSettings) -> str:
  """Returns what is kept of a clip that is longer or larger than the shape."""
  extent = measure(file)
  if not isinstance(extent, Extent):  # It will be left out, with its reason.
    return ""
  shape, parts = file.shape or settings.shape, []
  kept = shape.seconds
  if settings.windows == "first" and extent.seconds > kept + _MIN_SECONDS:
    parts.append(f"the first {kept:.2f} s of {extent.seconds:.1f} s")
  if extent.size is not None:
    y, x = extent.size
    if y > shape.size[0] or x > shape.size[1]:
      parts.append(f"{shape.size[1]}x{shape.size[0]} pixels of {x}x{y}")
  return f"{', '.join(parts)} ({file.name})" if parts else ""
