"""The shape of the clips to generate, of those that a run was trained on."""

from collections.abc import Sequence

from etils import epath

from ccl_jax.codecs.api import Codecs
from ccl_jax.data.clip import ClipShape
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.storage.text_files import read_json

_TENTH = 0.1 + 1e-6  # of a second


def read_shapes(workdir: epath.Path) -> list[ClipShape]:
  """Returns the shapes of the clips that a run was trained on."""
  clip = read_json(workdir / "clip.json")
  first = ClipShape.from_dict(clip)
  return [
    ClipShape(first.fps, frames, (y, x))
    for frames, y, x in clip.get("buckets", [(first.frames, *first.size)])
  ]


def scale_time_shift(
  sampling: SamplingConfig,
  shape: ClipShape,
  codecs: Codecs,
  shift_shape: Sequence[int] = (),
) -> SamplingConfig:
  """Returns the settings with the shift of clips of a shape.

  Args:
    shift_shape: `time_shift_shape` of the run's objective.
  """
  f, h, w, _ = shape.latent_shapes(codecs)["video"]
  return sampling.for_grid((f, h, w), tuple(shift_shape))


def choose_shape(
  shapes: Sequence[ClipShape],
  size: Sequence[int] = (),
  seconds: float | None = None,
) -> ClipShape:
  """Returns the first of some shapes that has a size and a length.

  Args:
    size: (y, x); () is any.
    seconds: to a tenth; None is any.

  Raises:
    ValueError: no such shape; the message lists all shapes.
  """
  for shape in shapes:
    is_long = seconds is None or abs(shape.seconds - seconds) <= _TENTH
    if is_long and (not size or tuple(size) == tuple(shape.size)):
      return shape
  wanted = [f"--size={size[0]},{size[-1]}"] if size else []
  wanted += [] if seconds is None else [f"--seconds={seconds:g}"]
  known = "; ".join(
    f"--size={s.size[0]},{s.size[1]} --seconds={s.seconds:.2f}" for s in shapes
  )
  raise ValueError(
    f"{' '.join(wanted)}: there are no such clips, expected one of: {known}."
  )
