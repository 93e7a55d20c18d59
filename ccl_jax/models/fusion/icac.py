"""In-context audio control (ICAC, arXiv 2512.18772): audio is a condition.

There are five ways to join the tokens of a video and the clean tokens of its
audio. The first three add a layer to each block (`frame_attention`), the last
two change its self-attention (`attention_3d`):

    cross2d        video reads the audio of its frame
    self2d_frozen  video reads video and audio of its frame
    self2d         the same, and so does audio, whose tokens are updated
    full3d         self-attention over all tokens of both
    masked3d       the same, but audio and video meet only within a frame

Audio is never generated, so one switch per sample decides whether the streams
are joined: `route.sees["video"]`. If it is off, the sample has no sound.
"""

from ccl_jax.config import check_choice
from ccl_jax.models.fusion.attention_3d import Attention3D
from ccl_jax.models.fusion.base import Fusion
from ccl_jax.models.fusion.frame_attention import FrameAttention

ATTENTIONS = ("cross2d", "self2d_frozen", "self2d", "full3d", "masked3d")


def make_icac(
  widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
  attention: str = "masked3d", rope_audio: str = "same_t_offgrid",
  form: str = "merged", references: bool = False,
) -> Fusion:  # fmt: skip
  """Makes one of the five.

  Args:
    attention: one of ATTENTIONS.
    rope_audio: positions of audio tokens, see `audio_tokens.audio_angles`.
    form: of masked3d, see `attention_3d`; equal in value.
    references: reads pictures, as frames of the video without sound.

  Raises:
    ValueError: an unknown name, or streams of unequal widths.
  """
  check_choice("model.fusion.attention", attention, ATTENTIONS)
  if len(widths) < 2 or len({*widths.values()}) > 1:
    raise ValueError(
      f"in-context audio with streams of widths {widths}: expected video and"
      " audio of the same width; see configs/icac.py."
    )
  if attention in ("full3d", "masked3d"):
    return Attention3D(
      attention == "masked3d", form, rope_audio, head_sizes, references
    )
  return FrameAttention(
    widths, head_sizes, rope_audio, reads_video=attention != "cross2d",
    updates_audio=attention == "self2d", references=references, rngs=rngs,
    dtype=dtype,
  )  # fmt: skip
