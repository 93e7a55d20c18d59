"""Video of SynchWorld scenes: soft-edged shapes painted back to front.

A shape is a coverage in [0, 1] per pixel, clip(1/2 - distance to its edge), so
that motion of less than a pixel is visible. Lengths are 64ths of the frame.
"""

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.data.synthetic.scene import FLIGHT, Ball, Scene, mouth_shape

FACE_RADIUS, MOUTH_BELOW = 15.0, 6.0
FACE_HALF = 13.5  # width and height of a square face
BALL_RADIUS = 4.5
# (x, y) of the ball's centre at an impact, and the direction away from there.
SURFACES = {
  "floor": ((52.0, 60.0), (0.0, -1.0)),
  "wall": ((60.0, 60.0), (-1.0, 0.0)),
}
BALL_RGB = (0.97, 0.90, 0.15)
TV_BOX = (52.0, 12.0, 9.0, 8.0)  # centre x, y and half sizes
DARK = (0.06, 0.03, 0.05)


class _Canvas:
  """Pixels (t, y, x, 3) to paint on.

  Coordinates are numbers or (t,) arrays; shapes are returned as coverages.
  """

  def __init__(self, frames: int, size: int, ground: float):
    self.scale = size / 64
    self.pixels = np.full((frames, size, size, 3), ground, np.float32)
    self.centres = ((np.arange(size) + 0.5) / self.scale).astype(np.float32)

  def offsets(self, x, y) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offset of every pixel's centre from (x, y) on each axis."""
    x, y = np.reshape(x, (-1, 1, 1)), np.reshape(y, (-1, 1, 1))
    dx = self.centres - x.astype(np.float32)
    return dx, self.centres[:, None] - y.astype(np.float32)

  def soften(self, inside: np.ndarray) -> np.ndarray:
    """Returns coverage from the signed distance to the edge (inside > 0)."""
    return np.clip(0.5 + self.scale * inside, 0, 1)

  def ellipse(self, x, y, half_width, half_height) -> np.ndarray:
    a = np.reshape(half_width, (-1, 1, 1)).astype(np.float32)
    b = np.reshape(half_height, (-1, 1, 1)).astype(np.float32)
    dx, dy = self.offsets(x, y)
    radius = np.sqrt((dx / a) ** 2 + (dy / b) ** 2)
    return self.soften((1 - radius) * np.minimum(a, b))

  def box(self, x, y, half_width, half_height) -> np.ndarray:
    dx, dy = self.offsets(x, y)
    return self.soften(
      np.minimum(half_width - np.abs(dx), half_height - np.abs(dy))
    )

  def paint(self, coverage: np.ndarray, rgb) -> None:
    """Blends a colour into the bounding box of what is covered."""
    rows = np.flatnonzero(coverage.any((0, 2)))
    columns = np.flatnonzero(coverage.any((0, 1)))
    if len(rows) == 0:
      return
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part = self.pixels[:, y, x]
    part += coverage[:, y, x, None] * (np.float32(rgb) - part)


def head_path(
  scene: Scene, time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns the centre of the face, which sways in hard scenes."""
  look = scene.appearance
  return tuple(
    look.head[i]
    + look.sway[i]
    * np.sin(2 * np.pi * look.sway_rate[i] * time + look.sway_phase[i])
    for i in range(2)
  )


def ball_path(
  ball: Ball, time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns the centre of the ball, whose x + y is largest at the impacts."""
  edges = np.r_[-np.inf, ball.impacts, np.inf]
  i = np.searchsorted(ball.impacts, time, side="right")
  flight = np.minimum((edges[i + 1] - edges[i]) / 2, FLIGHT)
  away = np.minimum(time - edges[i], edges[i + 1] - time) / flight
  away = np.array(ball.heights)[i] * (1 - (1 - np.minimum(away, 1)) ** 2)
  place, direction = SURFACES[ball.surface]
  return tuple(p + d * away for p, d in zip(place, direction, strict=True))


def render_video(
  scene: Scene,
  frames: int = 49,
  fps: float = 25.0,
  size: int = 64,
  mouth: tuple[np.ndarray, np.ndarray] | None = None,
) -> UInt8[np.ndarray, "t y x 3"]:
  """Returns the clip's frames; frame i shows time i / fps.

  Args:
    mouth: half height and half width of the talker's in each frame, in place of
      that of the scene's syllables.
  """
  time = np.arange(frames) / fps
  look = scene.appearance
  canvas = _Canvas(frames, size, look.ground)
  square = [look.square[i] + look.drift[i] * time for i in range(2)]
  canvas.paint(canvas.box(*square, 3.5, 3.5), look.square_rgb)
  if scene.hard:
    canvas.paint(canvas.box(*TV_BOX), (0.45, 0.45, 0.45))
    height, width = mouth_shape(look.tv, time)
    tv_mouth = canvas.ellipse(TV_BOX[0], TV_BOX[1], width, 0.8 * height)
    canvas.paint(tv_mouth, DARK)
  x, y = head_path(scene, time)
  face = {
    "round": (canvas.ellipse, FACE_RADIUS), "square": (canvas.box, FACE_HALF),
  }  # fmt: skip
  outline, half = face[scene.face]
  canvas.paint(outline(x, y, half, half), scene.voice.rgb)
  for side in (-5.5, 5.5):
    canvas.paint(canvas.ellipse(x + side, y - 5, 2.0, 2.0), (1, 1, 1))
  height, width = mouth or mouth_shape(scene.syllables, time)
  canvas.paint(canvas.ellipse(x, y + MOUTH_BELOW, width, height), DARK)
  if scene.ball:
    path = ball_path(scene.ball, time)
    canvas.paint(canvas.ellipse(*path, BALL_RADIUS, BALL_RADIUS), BALL_RGB)
  return np.round(255 * canvas.pixels).astype(np.uint8)
