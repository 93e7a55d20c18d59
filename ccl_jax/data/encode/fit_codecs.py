"""Codecs for a folder of clips that has none yet."""

from collections.abc import Sequence

from tqdm import tqdm

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media
from ccl_jax.data.encode import captions
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.settings import EncodeSettings


def fit_codecs(
  clips: Sequence[captions.ClipFile],
  reader: DecodePool,
  settings: EncodeSettings,
) -> Codecs:
  """Codecs for what is in `fit_clips` training clips, evenly chosen."""
  train = [c for c in clips if c.split == "train"] or clips
  num = min(settings.num_fit_clips, len(train))
  chosen = [train[i * len(train) // num] for i in range(num)]
  progress = tqdm(reader(chosen), "reading to fit", num, unit=" clips")
  read = list(progress)
  good = [clip for _, clip in read if isinstance(clip, media.Clip)]
  if not good:
    raise none_usable({s.name: str(error) for s, error in read})
  videos = [clip.video for clip in good if clip.video is not None]
  audios = [clip.audio for clip in good if clip.audio is not None]
  if not videos or not audios:
    raise ValueError(
      f"Of {num} clips {len(videos)} have pictures and {len(audios)} sound:"
      " codecs cannot be fitted; name fitted ones with --codecs."
    )
  return Codecs(
    LinearVideoCodec.fit(videos, settings.video_channels),
    LinearAudioCodec.fit(audios, settings.audio_channels),
    HashedText(settings.text_width, settings.text_length),
  )


def none_usable(skipped: dict[str, str]) -> ValueError:
  """The error for when every clip was left out."""
  reasons = "\n  ".join(list(skipped.values())[:5])
  return ValueError(f"None of {len(skipped)} clips can be used:\n  {reasons}")
