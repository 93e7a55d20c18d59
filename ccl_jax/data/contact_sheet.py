"""Images of results: a log-mel, and a sheet of clips with their log-mels."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from ccl_jax.codecs.mel import log_mel
from ccl_jax.storage.files import replacing

MEL_RANGE = (-5.0, 1.5)  # log10 of the clipped magnitude
_COLUMNS, _FRAME_HEIGHT = 12, 96

Frames = UInt8[np.ndarray, "t y x 3"]
Mel = Float[np.ndarray, "t mels"]
Row = tuple[str, Frames | None, Mel | None]


def mel_image(mel: Mel, size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
  """Returns a log-mel as an image, low bands at the bottom, quiet dark."""
  from matplotlib import colormaps

  low, high = MEL_RANGE
  level = np.clip((mel.T[::-1] - low) / (high - low), 0, 1)
  image = (colormaps["magma"](level)[..., :3] * 255).astype(np.uint8)
  scaled = Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST)
  return np.asarray(scaled)


def sound_image(
  sound: Float[np.ndarray, " s"], size: tuple[int, int]
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns the log-mel of a sound as an image."""
  return mel_image(log_mel(sound[None])[0], size)


def contact_sheet(rows: Sequence[Row]) -> UInt8[np.ndarray, "y x 3"]:
  """Returns one row per clip: title, frames, log-mel."""
  strips = []
  for title, video, mel in rows:
    parts, width = [], _COLUMNS * _FRAME_HEIGHT
    if video is not None:
      parts.append(frame_strip(video, _COLUMNS, _FRAME_HEIGHT))
      width = parts[0].shape[1]
    parts.insert(0, title_line(title, width))
    if mel is not None:
      parts.append(mel_image(mel, (64, width)))
    strips.append(np.concatenate(parts))
  width = max(s.shape[1] for s in strips)
  return np.concatenate(
    [np.pad(s, ((0, 8), (0, width - s.shape[1]), (0, 0))) for s in strips]
  )


def save_png(path: epath.PathLike, image: UInt8[np.ndarray, "y x 3"]) -> None:
  """Writes a PNG atomically."""
  with replacing(path) as partial:
    Image.fromarray(image).save(partial, format="png")


def frame_strip(
  video: Frames, columns: int, height: int
) -> UInt8[np.ndarray, "_ _ 3"]:
  """Returns `columns` frames, evenly spread, side by side."""
  chosen = video[np.linspace(0, len(video) - 1, columns).round().astype(int)]
  width = round(height * video.shape[2] / video.shape[1])
  scaled = [
    Image.fromarray(f).resize((width, height), Image.Resampling.NEAREST)
    for f in chosen
  ]
  return np.concatenate([np.asarray(f) for f in scaled], 1)


def title_line(text: str, width: int) -> UInt8[np.ndarray, "16 x 3"]:
  """Returns a line of white text on black."""
  image = Image.new("RGB", (width, 16))
  ImageDraw.Draw(image).text((2, 2), text, fill="white")
  return np.asarray(image)
