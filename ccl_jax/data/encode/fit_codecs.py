"""Codecs fitted on a folder of clips."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.conv import ConvAudioCodec, ConvVideoCodec
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.left_out import no_usable_clip
from ccl_jax.data.encode.settings import EncodeSettings

# encode.codec -> of video and of audio.
CODECS = {
  "linear": (LinearVideoCodec, LinearAudioCodec),
  "conv": (ConvVideoCodec, ConvAudioCodec),
}


def fit_codecs(
  clip_files: Sequence[ClipFile], pool: DecodePool, settings: EncodeSettings
) -> Codecs:
  """Fits codecs on `num_fit_clips` training clips, chosen at random.

  Raises:
    ValueError: no clip can be used, or none has video or none has audio.
  """
  train = [file for file in clip_files if file.split == "train"] or clip_files
  num = min(settings.num_fit_clips, len(train))
  # Every n-th clip may be of one kind: lists often alternate.
  order = np.random.default_rng(0).permutation(len(train))
  chosen = [train[i] for i in sorted(order[:num].tolist())]
  decoded = list(tqdm(pool(chosen), "reading to fit", num, unit=" clips"))
  clips = [clip for _, clip in decoded if isinstance(clip, media.Clip)]
  if not clips:
    raise no_usable_clip({file.name: str(error) for file, error in decoded})
  videos = [clip.video for clip in clips if clip.video is not None]
  audios = [clip.audio for clip in clips if clip.audio is not None]
  if not videos or not audios:
    raise ValueError(
      f"{len(videos)} of {num} clips have video and {len(audios)} have audio;"
      " codecs are fitted on both. Use fitted ones: --codecs."
    )
  video, audio = CODECS[settings.codec]
  return Codecs(
    video.fit(videos, settings.video_channels),
    audio.fit(audios, settings.audio_channels),
    HashedText(settings.text_width, settings.text_length),
  )
