"""Pictures as a person sees them."""

import struct

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from ccl_jax.data import media
from ccl_jax.data.pictures import RgbConverter
from tests.data import flash

MATRICES = {  # (a, b, c, d) of a display matrix, and what it does.
  "none": ((1, 0, 0, 1), lambda x: x),
  "left to right": ((-1, 0, 0, 1), np.fliplr),
  "upside down": ((1, 0, 0, -1), np.flipud),
  "half turn": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
  "clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
  "counter-clockwise": ((0, -1, 1, 0), np.rot90),
  "transposed": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
  "other diagonal": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
}
# BT.709 to BT.2020 in linear light.
TO_BT2020 = np.array(
  [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.088, 0.8956]]
)


def write(path, frame, *, codec="ffv1", tags=None, **attributes):
  """Writes a frame twice, without losses if the codec has none."""
  with av.open(str(path), "w") as container:
    options = {"crf": "4"} | (tags or {})
    stream = container.add_stream(codec, rate=25, options=options)
    stream.width, stream.height = frame.width, frame.height
    stream.pix_fmt = frame.format.name
    for name, value in attributes.items():
      setattr(stream.codec_context, name, value)
    for i in range(2):
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def rgb_frame(image, **kwargs):
  return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(**kwargs)


def read(path, size=None):
  return media.read_clip(path, size=size, streams=("video",)).video[0]


def close(image, expected, atol=4):
  """Compares the quadrants' colours."""
  np.testing.assert_allclose(
    flash.corners(image), flash.corners(expected), atol=atol
  )


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("size", [None, (48, 40)])
def test_display_matrices_turn_and_mirror(tmp_path, kind, size):
  (a, b, c, d), shown = MATRICES[kind]
  path = tmp_path / "a.mp4"
  write(path, rgb_frame(flash.picture(), format="yuv420p"), codec="libx264")
  identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
  matrix = struct.pack(
    ">9i", *(65536 * x for x in (a, b, 0, c, d, 0, 0, 0)), 2**30
  )
  data = path.read_bytes()
  # The movie's matrix comes first, then that of its only track.
  at = data.rindex(identity)
  path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
  image = read(path, size)
  expected = shown(flash.picture())
  assert image.shape[:2] == (size or expected.shape[:2])
  close(image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_orientations_of_images(tmp_path, orientation, suffix):
  image = Image.fromarray(flash.picture())
  exif = image.getexif()
  exif[0x0112] = orientation
  path = tmp_path / f"a.{suffix}"
  image.save(path, exif=exif, quality=100)
  with Image.open(path) as stored:
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
  assert expected.shape[0] == (96 if orientation < 5 else 128)
  np.testing.assert_array_equal(media.read_image(path), expected)


@pytest.mark.parametrize(
  ("mode", "suffix"),
  [("RGBA", "png"), ("P", "png"), ("P", "gif"), ("LA", "png"),
   ("RGBA", "webp"), ("RGBA", "tiff")],
)  # fmt: skip
def test_what_is_transparent_is_white(tmp_path, mode, suffix):
  pixels = np.full((32, 32, 4), 255, np.uint8)
  pixels[..., :3] = 60
  pixels[:16, :, :3], pixels[:16, :, 3] = 10, 0
  image = Image.fromarray(pixels)
  if mode == "P":
    image = image.convert("RGB").quantize(4)
    # The palette's colour of the upper half.
    image.info["transparency"] = image.getpixel((0, 0))
  elif mode == "LA":
    image = image.convert("LA")
  image.save(tmp_path / f"a.{suffix}", lossless=True)
  found = media.read_image(tmp_path / f"a.{suffix}")
  assert (found[:15] == 255).all()
  np.testing.assert_allclose(found[17:], 60, atol=1)


def test_half_transparent_and_transparent_films(tmp_path):
  pixels = np.zeros((16, 16, 4), np.uint8)
  pixels[..., 0], pixels[..., 3] = 200, 128
  Image.fromarray(pixels).save(tmp_path / "a.png")
  expected = [227, 127, 127]
  np.testing.assert_array_equal(
    media.read_image(tmp_path / "a.png")[0, 0], expected
  )
  frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
  write(tmp_path / "a.mkv", frame.reformat(format="bgra"))
  np.testing.assert_array_equal(read(tmp_path / "a.mkv")[0, 0], expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "YCbCr"])
def test_images_of_other_modes(tmp_path, mode):
  image = Image.fromarray(flash.picture())
  if mode == "I;16":
    grey = np.asarray(image.convert("L")).astype(np.uint16) << 8
    image, expected = Image.fromarray(grey), image.convert("L")
  else:
    image = expected = image.convert(mode)
  # Pillow 12 cannot read its own YCbCr tiff without compression.
  image.save(tmp_path / "a.tiff", compression="tiff_lzw")
  read, expected = (
    media.read_image(tmp_path / "a.tiff"),
    expected.convert("RGB"),
  )
  rounding = int(mode == "YCbCr")  # libtiff's is another than Pillow's
  assert np.abs(read.astype(int) - np.asarray(expected)).max() <= rounding


@pytest.mark.parametrize(
  ("suffix", "form"),
  [("png", "gray16be"), ("png", "ya16be"), ("png", "rgb48be"),
   ("png", "rgba64be"), ("tiff", "gray16le"), ("tiff", "rgb48le"),
   ("tiff", "rgba64le")],
)  # fmt: skip
def test_of_16_bits_the_upper_ones_are_taken(tmp_path, suffix, form):
  """What is half transparent is on white."""
  ramp = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)
  is_grey, is_opaque = form[0] in "gy", form[:4] in ("gray", "rgb4")
  colours = [ramp] * 3 if is_grey else [ramp, ramp[::-1], ramp // 2]
  alpha = np.full_like(ramp, 0xFFFF if is_opaque else 0x8080)
  image = np.stack([*colours, alpha], -1)
  frame = av.VideoFrame.from_ndarray(image, format="rgba64le")
  path = tmp_path / f"a.{suffix}"
  with av.open(str(path), "w", format="image2") as container:
    stream = container.add_stream(suffix)
    stream.width, stream.height, stream.pix_fmt = 32, 24, form
    frame = frame.reformat(format=form, dst_color_range="JPEG")
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  *colours, alpha = np.moveaxis(image // 256, -1, 0)
  alpha = alpha[..., None].astype(int)
  expected = np.stack(colours, -1) * alpha / 255 + 255 - alpha
  np.testing.assert_allclose(media.read_image(path), expected, atol=1)


def grey_tiff(data, bits, *, order="<", kind=1, white=1):
  """Bytes of a TIFF of 4 x 1 pixels.

  Args:
    data: of the pixels.
    order: of its numbers' bytes.
    kind: 1 whole numbers, 2 with a sign, 3 fractions.
    white: 0 if 0 is white.
  """
  tags = {
    256: 4, 257: 1, 258: bits, 259: 1, 262: white, 273: 200, 277: 1, 278: 1,
    279: len(data), 339: kind,
  }  # fmt: skip
  entries = b"".join(
    struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    for tag, value in tags.items()
  )
  begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
    f"{order}IH", 8, len(tags)
  )
  return (begin + entries + bytes(4)).ljust(200, b"\0") + data


@pytest.mark.parametrize(
  ("data", "expected"),
  [
    (grey_tiff(struct.pack("<4H", 0, 256, 32768, 65535), 16), [0, 1, 128, 255]),
    (
      grey_tiff(struct.pack(">4H", 0, 256, 32768, 65535), 16, order=">"),
      [0, 1, 128, 255],
    ),
    (
      grey_tiff(struct.pack("<4H", 0, 256, 32768, 65535), 16, white=0),
      [255, 254, 127, 0],
    ),
    (grey_tiff(bytes.fromhex("000010800fff"), 12), [0, 1, 128, 255]),
    (grey_tiff(bytes([0, 1, 128, 255]), 8, white=0), [255, 254, 127, 0]),
  ],
  ids=["16", "16 big", "16 inverted", "12", "8 inverted"],
)
def test_grey_of_many_bits_keeps_its_white(tmp_path, data, expected):
  (tmp_path / "a.tif").write_bytes(data)
  found = media.read_image(tmp_path / "a.tif")
  np.testing.assert_array_equal(found[0], np.array([expected] * 3).T)


@pytest.mark.parametrize(
  "data",
  [
    grey_tiff(struct.pack("<4I", 0, 1, 2**31, 2**32 - 1), 32),
    grey_tiff(struct.pack("<4i", -9, 1, 2**30, 9), 32, kind=2),
    grey_tiff(struct.pack(">4i", -9, 1, 2**30, 9), 32, kind=2, order=">"),
    grey_tiff(struct.pack("<4h", -9, 1, 2**14, 9), 16, kind=2),
    grey_tiff(struct.pack("<4f", 0, 0.5, 1, 255), 32, kind=3),
    grey_tiff(struct.pack(">4f", 0, 0.5, 1, np.nan), 32, kind=3, order=">"),
  ],
  ids=["32", "32 signed", "32 big", "16 signed", "float", "float big"],
)
def test_values_without_a_white_are_refused(tmp_path, data):
  path = tmp_path / "a.tif"
  path.write_bytes(data)
  with pytest.raises(media.ClipError, match="save it with 8 or 16") as caught:
    media.read_image(path)
  assert str(caught.value).startswith(f"{path}: has whole numbers of 32 bits")


def test_a_transparent_grey_of_16_bits_is_white(tmp_path):
  grey = Image.fromarray(np.array([[0, 4000, 65535]], np.uint16))
  grey.save(tmp_path / "a.png", transparency=4000)
  found = media.read_image(tmp_path / "a.png")
  assert found[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"II*\0" + b"\xff" * 40])
def test_broken_images_are_one_error(tmp_path, data):
  path = tmp_path / "a.png"
  path.write_bytes(data)
  with pytest.raises(media.ClipError) as caught:
    media.read_image(path)
  assert str(caught.value).startswith(f"{path}: ")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("aspect", ["4/3", "16/11", "1/2", "12/11"])
def test_pixels_become_square(tmp_path, aspect):
  """A disc is as wide as it is high."""
  ratio = float(np.divide(*map(int, aspect.split("/"))))
  y, x = np.mgrid[:96, :128]
  disc = ((x - 64) * ratio) ** 2 + (y - 48) ** 2 < 30**2
  image = np.where(disc[..., None], 255, np.zeros(3)).astype(np.uint8)
  path = tmp_path / "a.mp4"
  write(
    path,
    rgb_frame(image, format="yuv420p"),
    codec="libx264",
    tags={"aspect": aspect},
  )
  for size in (None, (96, 96)):
    found = read(path, size).mean(-1) > 128
    height, width = found.any(1).sum(), found.any(0).sum()
    assert abs(height - width) <= 3
  assert read(path).shape[:2] == (96, round(128 * ratio))


@pytest.mark.parametrize("height", [96, 720, 1088])
@pytest.mark.parametrize("tagged", [False, True])
def test_pictures_of_720_lines_are_bt709(tmp_path, height, tagged):
  image = flash.picture((height, height * 4 // 3))
  matrix = "ITU709" if height >= 720 else "ITU601"
  frame = rgb_frame(image, format="yuv420p", dst_colorspace=matrix)
  frame.colorspace = {"ITU709": 1, "ITU601": 6}[matrix] if tagged else 2
  tags = {"ITU709": 1, "ITU601": 6}[matrix] if tagged else 2
  write(tmp_path / "a.mp4", frame, codec="libx264", colorspace=tags)
  close(read(tmp_path / "a.mp4", (96, 128)), image)


def linear(image):
  """Undoes sRGB."""
  x = image / 255
  return np.where(x < 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def pq(nits):
  """SMPTE ST 2084."""
  y = (nits / 10_000) ** 0.1593017578125
  return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits):
  """ARIB STD-B67 for a display of 1000 nits."""
  light = nits / 1000
  luma = light @ np.array([0.2627, 0.678, 0.0593])
  scene = light * np.maximum(luma, 1e-9)[..., None] ** (1 / 1.2 - 1)
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  return np.where(
    scene <= 1 / 12,
    np.sqrt(3 * scene),
    a * np.log(np.maximum(12 * scene - b, 1e-9)) + c,
  )


@pytest.mark.parametrize(
  ("curve", "trc", "primaries"),
  [(pq, 16, 9), (hlg, 18, 9), (hlg, 18, 2), (None, 14, 9), (None, 1, 9)],
)
def test_hdr_and_wide_colours_are_mapped(tmp_path, curve, trc, primaries):
  """White at 203 nits, as in ITU-R BT.2408, and greys become what they were."""
  image = flash.picture()
  image[:8, :8] = 255
  image[-8:, :8] = 60
  light = np.clip(linear(image) @ TO_BT2020.T, 0, 1)
  if curve is None:  # SDR: BT.709's curve, greys keep their values
    coded = light ** (1 / 2.4)
    expected = 255 * linear(image) ** (1 / 2.4)
  else:
    coded, expected = curve(203 * light), image
  coded = np.round(65535 * coded).astype(np.uint16)
  frame = av.VideoFrame.from_ndarray(coded, format="rgb48le")
  frame = frame.reformat(format="yuv420p10le", dst_colorspace="BT2020")
  frame.color_trc, frame.color_primaries = trc, primaries
  frame.colorspace, frame.color_range = 9, 1
  path = tmp_path / "a.mkv"
  write(
    path, frame, colorspace=9, color_trc=trc, color_primaries=primaries,
    color_range=1,
  )  # fmt: skip
  found = read(path)
  for at in ((2, 2), (-2, 2), (48, 64)):
    np.testing.assert_allclose(found[at], expected[at], atol=4)
  close(found, expected.astype(int), atol=20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
  "data",
  [
    b"no tags at all",
    b"II*\0",
    b"II*\0\x08\0\0\0\x05\0\x12\x01",  # cut in a tag
    b"MM\0*\xff\xff\xff\xff",  # tags beyond the end
    b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # of no turn
  ],
)
def test_damaged_exif_turns_no_picture(tmp_path, suffix, data):
  path = tmp_path / f"a.{suffix}"
  image = Image.fromarray(flash.picture())
  image.save(path, exif=b"Exif\0\0" + data)
  found = flash.corners(media.read_image(path))
  np.testing.assert_allclose(found, flash.QUADRANTS, atol=4)


def test_frames_of_another_size_are_scaled_to_the_first():
  to_rgb = RgbConverter(None)
  for size in ((48, 64), (24, 32), (64, 48)):
    image = np.full((*size, 3), 90, np.uint8)
    found = to_rgb(av.VideoFrame.from_ndarray(image))
    assert found.shape == (48, 64, 3) and abs(found - 90.0).max() < 2
