"""The size and the length of a clip, from its header and its first frame."""

from PIL import ExifTags

from ccl_jax.data import media
from ccl_jax.data.clip import Extent, is_image
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.opening import open_image


def measure(file: ClipFile) -> Extent | media.ClipError:
  """Returns the extent of a whole file, or why it cannot be read."""
  if file.extent is not None:
    return file.extent
  try:
    if file.problem:
      raise media.ClipError(file.problem)
    if is_image(file.name):
      return Extent(_image_size(file), 0.0, is_image=True)
    header = media.read_header(file.path)
    size = None
    if "video" in header.seconds:  # Only a frame says how it is turned.
      first = media.read_clip(file.path, frames=1, streams=("video",))
      size = first.video.shape[1:3]
    return Extent(size, header.length)
  # Encoding reports the same error.
  except Exception as error:
    return media.ClipError(str(error))


def _image_size(file: ClipFile) -> tuple[int, int]:
  with open_image(file.path) as image:
    x, y = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (x, y) if is_turned else (y, x)
