"""Decoded pictures as a person sees them: upright, square pixels, sRGB colours.

Colours: YUV without tags is BT.709 from 720 lines on, else BT.601. HDR (HLG,
PQ) and wider primaries are mapped to sRGB by swscale, whose mapping keeps hues
and compresses what is brighter than white. Transparent pixels are on white.
"""

import struct

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ccl_jax.data.opening import check_size

# Numbers of ITU-T H.273, as FFmpeg's.
_UNSPECIFIED = 2
_HDR = (16, 18)  # PQ, HLG
_WIDE = (9, 11, 12)  # BT.2020, DCI-P3, Display P3


def to_rgb(
  frame: av.VideoFrame,
  size: tuple[int, int] | None,
  reformatter: VideoReformatter,
  pixel_aspect: float = 1.0,
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns RGB, upright, scaled to cover `size` and cropped at the centre.

  pixel_aspect: width of a stored pixel by its height.

  Raises:
    ClipError: the scaled picture, before it is cropped, is too large.
  """
  (a, b), (c, d) = matrix = display_matrix(frame)
  is_turned = not np.diag(matrix).any()
  height, width = frame.height, frame.width * pixel_aspect
  y, x = size or (height, round(width))
  if size and is_turned:
    y, x = x, y
  scale = max(y / height, x / width)
  height, width = max(y, round(height * scale)), max(x, round(width * scale))
  check_size(width, height)
  has_alpha = any(part.is_alpha for part in frame.format.components)
  image = reformatter.reformat(
    frame,
    width=width,
    height=height,
    format="rgba" if has_alpha else "rgb24",
    interpolation="AREA" if scale < 1 else "BICUBIC",
    **_colours(frame),
  ).to_ndarray()
  top, left = (height - y) // 2, (width - x) // 2
  image = image[top : top + y, left : left + x]
  if has_alpha:
    image = on_white(image)
  if is_turned:
    image = image.swapaxes(0, 1)
  image = image[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]
  return np.ascontiguousarray(image)


def image_to_rgb(
  image: Image.Image, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns a still image as `to_rgb` returns a frame."""
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.has_transparency_data:
    pixels = on_white(np.asarray(image.convert("RGBA")))
  else:
    pixels = np.asarray(image.convert("RGB"))
  frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
  return to_rgb(frame, size, VideoReformatter())


def on_white(image: UInt8[np.ndarray, "y x 4"]) -> UInt8[np.ndarray, "y x 3"]:
  """Lays RGBA on white."""
  colour, alpha = np.split(image.astype(np.uint16), [3], axis=-1)
  return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
  """Returns ((a, b), (c, d)): pixel (x, y) is shown at (ax + cy, bx + dy).

  Two of the four are zero: other angles are rounded to quarter turns.
  """
  try:
    data = frame.side_data.get(Type.DISPLAYMATRIX)
  except ValueError:  # PyAV fails at kinds of side data that it does not know.
    turns = round(frame.rotation / 90) % 4
    return np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns)
  if data is None:
    return np.eye(2)
  a, b, _, c, d, *_ = struct.unpack("9i", bytes(data))
  matrix = np.array([[a, b], [c, d]])
  is_turned = abs(b) + abs(c) > abs(a) + abs(d)
  return matrix * (np.eye(2) != is_turned) if matrix.any() else np.eye(2)


def _colours(frame: av.VideoFrame) -> dict[str, int | str]:
  """Returns how `VideoReformatter` shall read and map a frame's colours."""
  options: dict[str, int | str] = {}
  is_hdr = frame.color_trc in _HDR
  if is_hdr and frame.color_primaries == _UNSPECIFIED:
    frame.color_primaries = ColorPrimaries.BT2020
  is_wide = frame.color_primaries in _WIDE
  is_tagged = frame.colorspace != _UNSPECIFIED or frame.format.is_rgb
  if not is_tagged and is_wide:
    options["src_colorspace"] = "BT2020"
  elif not is_tagged and frame.height >= 720:
    options["src_colorspace"] = "ITU709"
  if is_wide:
    # The curve of SDR is BT.709's already, so that its greys stay the same.
    trc = ColorTrc.IEC61966_2_1 if is_hdr else ColorTrc.BT709
    options["dst_color_trc"] = int(trc)
    options["dst_color_primaries"] = int(ColorPrimaries.BT709)
  return options
