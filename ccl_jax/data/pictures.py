"""Decoded pictures as a person sees them: upright, square pixels, sRGB colours.

Colours: YUV without tags is BT.709 from 720 lines on, else BT.601. HDR (HLG,
PQ) and wider primaries are mapped to sRGB by swscale, whose mapping keeps hues
and compresses what is brighter than white. Transparent pixels are on white.

Stills with more than 8 bits per channel keep the upper 8, so white stays white.
Signed or 32-bit integers, and floating-point numbers, are refused: nothing in
such a file says which value is white.
"""

import contextlib
import struct
import warnings
from collections.abc import Mapping
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from ccl_jax.data.opening import ClipError, check_size

# Numbers of ITU-T H.273, as FFmpeg's.
_UNSPECIFIED = 2
_HDR = (16, 18)  # PQ, HLG
_WIDE = (9, 11, 12)  # BT.2020, DCI-P3, Display P3


class RgbConverter:
  """Frames of one stream -> RGB that covers a size, cropped at the centre.

  Args:
    size: (y, x); None is that of the first frame.
    pixel_aspect: width of a stored pixel by its height.
  """

  def __init__(self, size: tuple[int, int] | None, pixel_aspect: float = 1.0):
    self._size, self._pixel_aspect = size, pixel_aspect
    self._reformatter = VideoReformatter()
    self._form, self._plan = None, None

  def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "y x 3"]:
    """Converts a frame; ClipError if it is too large before it is cropped."""
    form = (frame.format.name, frame.width, frame.height)
    if form != self._form:
      self._form, self._plan = form, self._make_plan(frame)
    options, crop, (a, b, c, d) = self._plan
    image = self._reformatter.reformat(
      frame, **options, **_colours(frame)
    ).to_ndarray()[crop]
    if options["format"] == "rgba":
      image = on_white(image)
    if b or c:
      image = image.swapaxes(0, 1)
    image = image[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]
    self._size = self._size or image.shape[:2]
    return np.ascontiguousarray(image)

  def _make_plan(self, frame: av.VideoFrame):
    """Returns options of the reformatter, a crop and the display matrix."""
    matrix = display_matrix(frame)
    height, width = frame.height, frame.width * self._pixel_aspect
    y, x = self._size or (height, round(width))
    if self._size and any(matrix[1:3]):
      y, x = x, y
    scale = max(y / height, x / width)
    height, width = max(y, round(height * scale)), max(x, round(width * scale))
    check_size(width, height)
    has_alpha = any(part.is_alpha for part in frame.format.components)
    options = {
      "width": width,
      "height": height,
      "format": "rgba" if has_alpha else "rgb24",
      "interpolation": "AREA" if scale < 1 else "BICUBIC",
    }
    top, left = (height - y) // 2, (width - x) // 2
    return options, np.s_[top : top + y, left : left + x], matrix


def image_to_rgb(
  image: Image.Image, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns a still image as `RgbConverter` does a frame.

  Raises:
    ClipError: values without a white, or as `RgbConverter`.
  """
  image.load()
  tags = getattr(image, "tag_v2", {})  # of a TIFF, which a copy lacks
  # What of its EXIF cannot be read turns no picture.
  with (
    contextlib.suppress(Exception),
    warnings.catch_warnings(action="ignore", category=UserWarning),
  ):
    image = ImageOps.exif_transpose(image)
  if image.mode[0] in "IF":
    image = _grey_of_8_bits(image, tags)
  if image.has_transparency_data:
    pixels = on_white(np.asarray(image.convert("RGBA")))
  else:
    pixels = np.asarray(image.convert("RGB"))
  frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
  return RgbConverter(size)(frame)


def _grey_of_8_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
  """Returns a grey image of 12 or 16 bits, which Pillow would clip, with 8."""
  if image.mode in ("I", "F"):
    raise ClipError(
      "has whole numbers of 32 bits or fractions, which do not say what is"
      " white: save it with 8 or 16 bits"
    )
  values = np.asarray(image)
  (bits,) = tags.get(ExifTags.Base.BitsPerSample, (16,))
  grey = (values >> (bits - 8)).astype(np.uint8)
  # Pillow inverts only 8 bits.
  is_white_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
  grey = 255 - grey if is_white_zero else grey
  transparent = image.info.get("transparency")
  return Image.fromarray(np.where(values == transparent, 255, grey))


def on_white(image: UInt8[np.ndarray, "y x 4"]) -> UInt8[np.ndarray, "y x 3"]:
  """Lays RGBA on white."""
  colour, alpha = np.split(image.astype(np.uint16), [3], axis=-1)
  return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
  """Returns (a, b, c, d): pixel (x, y) is shown at (ax + cy, bx + dy).

  Two of them are zero: other angles are rounded to quarter turns.
  """
  try:
    data = frame.side_data.get(Type.DISPLAYMATRIX)
  except ValueError:  # PyAV fails at kinds of side data that it does not know.
    turns = round(frame.rotation / 90) % 4
    return [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)][turns]
  a, b, _, c, d, *_ = struct.unpack("9i", bytes(data)) if data else [0] * 9
  if abs(b) + abs(c) > abs(a) + abs(d):
    return 0, b, c, 0
  return (a, 0, 0, d) if a or d else (1, 0, 0, 1)


def is_plain_yuv(frame: av.VideoFrame) -> bool:
  """Returns whether YUV 4:2:0 of 8 bits can show a frame as it is."""
  return (
    not frame.format.is_rgb
    and not any(part.is_alpha for part in frame.format.components)
    and frame.format.name not in ("gray", "pal8")
    and not frame.width % 2
    and not frame.height % 2
    and frame.color_trc not in _HDR
    and frame.color_primaries not in _WIDE
    and np.array_equal(np.sign(display_matrix(frame)), (1, 0, 0, 1))
  )


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
