"""The size and the length of a clip, which are measured once."""

from PIL import Image

from ccl_jax.data import media
from ccl_jax.data.clip import Extent
from ccl_jax.data.encode.clip_files import ClipFile, measure
from ccl_jax.data.encode.cuts import describe_cuts
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.data.encode.windows import cut_windows
from tests.data import clips


def test_a_turned_picture_is_measured_as_shown(tmp_path):
  image = Image.fromarray(clips.clip(2, 1, (30, 40)).video[0])
  exif = image.getexif()
  exif[274] = 6
  image.save(tmp_path / "a.jpg", exif=exif)
  image.save(tmp_path / "b.jpg")
  for name, size in (("a.jpg", (40, 30)), ("b.jpg", (30, 40))):
    found = measure(ClipFile(tmp_path / name, name))
    assert found == Extent(size, 0.0, is_image=True)
    assert media.read_image(tmp_path / name).shape[:2] == size


def test_a_clip_has_its_own_length_and_size(tmp_path):
  video, sound = clips.clip(0, 10, (32, 48))
  media.write_mp4(tmp_path / "a.mp4", video, 25.0, sound)
  media.write_wav(tmp_path / "a.wav", sound)
  assert measure(ClipFile(tmp_path / "a.mp4", "a.mp4")) == (
    (32, 48),
    0.4,
    False,
  )
  assert measure(ClipFile(tmp_path / "a.wav", "a.wav")) == (None, 0.4, False)
  broken = measure(ClipFile(tmp_path / "none.mp4", "none.mp4"))
  assert isinstance(broken, media.ClipError)


def test_a_measured_clip_is_not_opened_again(tmp_path):
  """Neither for its windows, nor to say what is cut."""
  extent = Extent((48, 96), 5.0)
  file = ClipFile(tmp_path / "gone.mp4", "gone.mp4", extent=extent)
  settings = EncodeSettings(frames=49, size=(16, 24), windows="all")
  names = [window.name for window in cut_windows([file], settings)]
  assert names == ["gone.mp4#t=0,1.96", "gone.mp4#t=1.96,3.92"]
  said = describe_cuts([file], settings)
  assert "24x16 pixels of 96x48 (gone.mp4); 1 of 1 clips" in said
