"""The shape of the clips to generate, of those that a run was trained on."""

from collections.abc import Sequence

from etils import epath

from ccl_jax.data.clip import ClipShape
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
