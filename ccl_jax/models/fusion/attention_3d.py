"""Self-attention over the tokens of a video and of its audio together.

Unmasked, every token sees all others. Masked, with tokens frame by frame,

    M(q, k) = 1 if both are video, else [frame(q) = frame(k)]              (1)

where [...] is 1 if true; `attention.FrameBlocks` shows the matrix. Two forms of
eq. 1 are equal in value and gradients:

    blocks   one attention with the mask, computed from indices in the kernel
    merged   a video query attends to all video and to the audio of its frame,
             two disjoint sets of keys that are merged to one softmax by their
             log-sum-exp; an audio query attends to the tokens of its frame

"merged" runs full attention of the video unchanged, on any mesh. "blocks" needs
all queries on one shard, so either no `context` axis or "ulysses".
"""

from ccl_jax.array_types import Array
from ccl_jax.attention import FrameBlocks, Full, Mask, Window, merge
from ccl_jax.models.fusion import audio_tokens
from ccl_jax.models.fusion.base import QKV, Fusion, FusionContext, video_keys

FORMS = ("merged", "blocks")


class Attention3D(Fusion):
  """Self-attention over both streams, without parameters of its own.

  Args:
    is_masked: by eq. 1, or not at all.
    form: of eq. 1, one of FORMS.
    rope_audio: see `audio_tokens.audio_angles`.
    head_sizes: stream -> e; both are equal.
    references: reads pictures, as frames of the video without sound.
  """

  uncacheable = audio_tokens.UNCACHEABLE

  def __init__(
    self, is_masked: bool, form: str, rope_audio: str,
    head_sizes: dict[str, int], references: bool = False,
  ):  # fmt: skip
    if form not in FORMS:
      raise ValueError(f"{form=}: expected one of {', '.join(FORMS)}.")
    if len({*head_sizes.values()}) > 1:
      raise ValueError(f"{head_sizes=}: expected equal ones.")
    audio_tokens.check_rope(rope_audio)
    self.is_masked, self.form, self.rope_audio = is_masked, form, rope_audio
    self.head_size, self.reads_references = head_sizes["video"], references

  def angles_of(self, shared: FusionContext) -> dict[str, Array]:
    """Returns positions of audio tokens and pictures beside the video's."""
    angles, e = {}, self.head_size
    if shared.references is not None:
      angles["video"] = audio_tokens.video_angles(shared, e)
    if "audio" in shared.grids:
      angles["audio"] = audio_tokens.audio_angles(self.rope_audio, shared, e)
    return angles

  def attend(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Attends over both; a stream alone attends to itself."""
    if len(qkv) < 2:
      return super().attend(qkv, shared)
    if self.is_masked and self.form == "merged":
      return _merged(qkv, shared)
    return self._at_once(qkv, shared)

  def _at_once(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Attends by one mask over the tokens of both side by side."""
    f, h, w = shared.grids["video"]
    per_frame = h * w, shared.audio_grid.slots
    q, k, v = audio_tokens.side_by_side(qkv, f)
    real = shared.frames if shared.frames < f else None
    pattern = Full(real and real * sum(per_frame))
    if self.is_masked:
      pattern = FrameBlocks(*per_frame, real)
    queries, keys = (
      audio_tokens.side_by_side(x, f) for x in audio_tokens.ids_of(shared)
    )
    mask = Mask(pattern, q_segments=queries, k_segments=keys)
    out = shared.attention.self_attention("video", q, k, v, mask)
    layout, parts = shared.attention.layout, audio_tokens.split(out, shared)
    return {s: layout.constrain(x, f"{s}/heads") for s, x in parts.items()}


def _merged(qkv: QKV, shared: FusionContext) -> dict[str, Array]:
  """Attends by eq. 1, in parts that are merged."""
  (f, h, w), r = shared.grids["video"], shared.audio_grid.slots
  s, attention = h * w, shared.attention
  (q, k, v), (q_audio, k_audio, v_audio) = qkv["video"], qkv["audio"]
  _, k_beside, v_beside = audio_tokens.side_by_side(qkv, f)
  queries, keys = audio_tokens.ids_of(shared)
  to_video = attention.self_attention(
    "video", q, k, v, video_keys(shared, k), with_lse=True
  )
  of_frame = Mask(
    Window(s, r, radius=0),
    q_segments=queries["video"],
    k_segments=keys["audio"],
  )
  to_audio = attention.cross_attention(
    "video", q, k_audio, v_audio, of_frame, with_lse=True
  )
  own_frame = Mask(
    Window(r, s + r, radius=0),
    q_segments=queries["audio"],
    k_segments=audio_tokens.side_by_side(keys, f),
  )
  of_audio = attention.cross_attention(
    "audio", q_audio, k_beside, v_beside, own_frame
  )
  return {"video": merge(to_video, to_audio), "audio": of_audio}
