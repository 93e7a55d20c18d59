"""Which clips codecs are fitted on, and which codecs."""

import jax
import pytest

from ccl_jax.codecs import conv, linear
from ccl_jax.data import media
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.fit_codecs import fit_codecs
from ccl_jax.data.encode.settings import EncodeSettings
from tests.data import clips


class Pool(DecodePool):
  """Decodes nothing: `decode(i)` is what is found in the i-th file."""

  def __init__(self, decode):
    self.decode, self.seen = decode, []

  def __call__(self, files):
    for i, file in enumerate(files):
      self.seen.append(int(file.name.removesuffix(".mp4")))
      yield file, self.decode(i)


def files(num):
  """Clips whose kinds alternate, two of three for training."""
  return [
    ClipFile(
      f"{i}.mp4", f"{i}.mp4", "", split=("train", "train", "easy")[i % 3]
    )
    for i in range(num)
  ]


def settings(**changes):
  sizes = dict(video_channels=4, audio_channels=4, text_length=4, text_width=8)
  return EncodeSettings(**sizes | changes)


@pytest.mark.parametrize("num", [60, 100, 150, 200, 300])
def test_of_kinds_that_alternate_all_are_seen(num):
  pool = Pool(lambda i: media.ClipError("damaged"))
  with pytest.raises(ValueError, match="damaged"):
    fit_codecs(files(1800), pool, settings(num_fit_clips=num))
  seen = pool.seen
  assert len(set(seen)) == num and all(i % 3 < 2 for i in seen)
  for period in (2, 4, 5):
    counts = [sum(i % period == k for i in seen) for k in range(period)]
    assert min(counts) > num / period / 2


@pytest.mark.parametrize(
  "codec, kinds",
  [
    ("linear", (linear.LinearVideoCodec, linear.LinearAudioCodec)),
    ("conv", (conv.ConvVideoCodec, conv.ConvAudioCodec)),
  ],
)
def test_the_codecs_of_the_settings(monkeypatch, codec, kinds):
  for kind in (conv.ConvVideoCodec, conv.ConvAudioCodec):
    fit = kind.fit
    monkeypatch.setattr(kind, "fit", lambda x, c, fit=fit: fit(x, c, 1, 2))
  with jax.numpy_dtype_promotion("standard"):  # as optax needs
    codecs = fit_codecs(files(24), Pool(clips.clip), settings(codec=codec))
  assert tuple(map(type, codecs[:2])) == kinds
  assert (codecs.video.channels, codecs.audio.channels) == (4, 4)
