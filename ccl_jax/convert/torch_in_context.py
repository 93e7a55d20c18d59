"""Audio in context in plain PyTorch: the export of configs/icac.py.

`torch_model.CCL.from_pretrained` makes these models, whose audio latents are
tokens in the video's blocks. See `ccl_jax/models/fusion/icac.py` for what each
"attention" of the config does; masks here are dense, by their definition.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_layers import (
  axis_dims,
  make_rope,
  modulate,
  rotate,
  token_rope,
)
from ccl_jax.convert.torch_model import CCL, CrossAttention
from ccl_jax.convert.torch_stream import Stream, frames_and_places


class AudioTokens(Stream):
  """Audio latents as tokens of the video's blocks."""

  def __init__(self, *, width, channels, tokens_per_frame):
    nn.Module.__init__(self)
    self.width, self.c = width, tokens_per_frame
    self.patch_embedding = nn.Linear(channels, width)

  def rope(self, f, h, w, device):
    """Returns nothing: positions are the model's."""

  def output(self, x, e, shape):
    """Returns a velocity of zero: it is given."""
    return torch.zeros(shape, device=x.device)


class InContext(CCL):
  """A video stream whose blocks have audio tokens, or layers that read them."""

  def forward(self, state, t, text, route, image=None):
    """Returns the velocity, as in `CCL`.

    Args:
      state, t, text, route: as in `CCL`.
      image: may have reference pictures, "references" (b, r, h, w, c) and
        "has_references" (b, r), for a model that reads them: more frames of the
        video, at time 0.
    """
    image = dict(image or {})
    pictures = image.pop("references", None)
    has = image.pop("has_references", None)
    if pictures is None:
      return super().forward(state, t, text, route, image)
    if not self.options.get("references"):
      raise ValueError("reference pictures: this model reads none.")
    video, time = state["video"], t["video"]
    (b, f, *_), r = video.shape, pictures.shape[1]
    time = time[:, None, None].expand(b, f, 1) if time.ndim == 1 else time
    time = torch.cat([time, time.new_zeros(b, r, time.shape[2])], 1)
    state = state | {"video": torch.cat([video, pictures.type_as(video)], 1)}
    made = super().forward(
      state, t | {"video": time}, text, route | {"references": has}, image
    )
    return made | {"video": made["video"][:, :f]}

  def check_frames(self, grids, route):
    """Raises a ValueError for streams of unequal frames but for pictures."""
    if "video" in grids:
      f, *size = grids["video"]
      grids = grids | {"video": (f - self.num_pictures(route), *size)}
    super().check_frames(grids, route)

  def num_pictures(self, route):
    """Returns how many of the video's frames, the last, are pictures."""
    return route["references"].shape[1] if "references" in route else 0

  def make_stream(self, s):
    """Returns the video stream, or the embedding of audio."""
    if s == "video":
      return super().make_stream(s)
    names = "width", "channels", "tokens_per_frame"
    return AudioTokens(**{name: self.config[s][name] for name in names})

  def make_fusion(self):
    """Returns a layer for each block, if the attention is one of frames."""
    self.attention = self.options.get("attention", "masked3d")
    self.is_3d = self.attention in ("full3d", "masked3d")
    d, e = self.video.width, self.video.e
    depth = 0 if self.is_3d else self.config["num_layers"]
    return nn.ModuleList(
      nn.ModuleDict({"video": CrossAttention(d, d, e, 0)}) for _ in range(depth)
    )

  def trunk(self, s):
    """Returns the stream whose blocks and times a stream has."""
    return self.video

  def run_layers(self, x, times, prompts, ropes, grids, route, device):
    """Returns the tokens after all blocks."""
    if "video" not in x:
      raise ValueError("audio alone: this model takes it as a condition only.")
    r = self.num_pictures(route)
    tokens = self.frames(grids, r, device)
    if r:
      (f, h, w), dims = grids["video"], axis_dims(self.video.e)
      when = torch.cat([torch.arange(f - r), -1 - torch.arange(r)])
      ropes = ropes | {"video": make_rope(when, h, w, dims, device)}
    ropes = {"video": ropes["video"], "audio": self.audio_rope(tokens, device)}
    ropes = {s: ropes[s] for s in x}
    masks = self.masks_of(tokens, route, grids)
    on = route["exchanges"] & (route["sees"]["video"] | self.reads_video)
    run = self.run_3d if self.is_3d else self.run_frames
    for i, block in enumerate(self.video.blocks):
      x = run(i, block, x, times, prompts, ropes, masks, on)
    return x

  @property
  def reads_video(self):
    """Returns whether a layer of frames reads video too."""
    return self.attention != "cross2d"

  def run_3d(self, i, p, x, times, prompts, ropes, masks, on):
    """Runs a block whose self-attention is over the tokens of both."""
    qkv, gates = [], {}
    for s, a in x.items():
      rows = (p.scale_shift_table + times[s][1]).unbind(-2)
      gates[s], y = rows[2], modulate(a, *rows[:2]).flatten(1, 2)
      k, v = p.attn1.key_value(y)
      q = rotate(p.attn1.query(y), ropes[s])
      qkv.append((q, rotate(k, ropes[s]), v))
    q, k, v = (torch.cat(part, 2) for part in zip(*qkv, strict=True))
    sizes = [part[0].shape[2] for part in qkv]
    out = p.attn1.attend(q, (k, v), mask=masks[0]).split(sizes, 1)
    x = {
      s: (a + y.view_as(a) * gates[s]).type_as(a)
      for (s, a), y in zip(x.items(), out, strict=True)
    }
    x["video"] = p.add_text(x["video"], prompts["video"])
    return {s: p.feed(a, times[s][1]) for s, a in x.items()}

  def run_frames(self, i, p, x, times, prompts, ropes, masks, on):
    """Runs a block of the video with a layer in which frames attend."""
    mask, of_video = masks
    video = p.attend(
      x["video"], times["video"][1], prompts["video"], ropes["video"], of_video
    )
    x = x | {"video": video}
    layer = self.fusion[i]["video"]
    norms = {"video": layer.norm, "audio": layer.norm_other}
    y = {s: norms[s](a).flatten(1, 2) for s, a in x.items()}
    n = y["video"].shape[1]
    read = [s for s in x if s == "audio" or self.reads_video]
    if read:
      keys_values = [layer.key_value(y[s]) for s in read]
      turned = zip(read, keys_values, strict=True)
      k = torch.cat([rotate(k, ropes[s]) for s, (k, _) in turned], 2)
      v = torch.cat([v for _, v in keys_values], 2)
      columns = slice(0 if self.reads_video else n, None)
      rows = {"video": slice(0, n), "audio": slice(n, None)}
      for s in x if self.attention == "self2d" else ("video",):
        q = rotate(layer.query(y[s]), ropes[s])
        seen = mask[:, :, rows[s], columns]
        out = layer.attend(q, (k, v), mask=seen)
        reads = on[:, None, None] & seen.any(-1)[:, 0, :, None]
        out = torch.where(reads, out, 0).view_as(x[s])
        x[s] = x[s] + out.type_as(x[s])
    x["video"] = p.feed(x["video"], times["video"][1])
    return x

  def frames(self, grids, pictures, device):
    """Returns which tokens are video, and the frame and place in it of each."""
    f, h, w = grids["video"]
    pixel = torch.arange(f * h * w)
    c = self.audio.c if "audio" in grids else 0
    frame, place = frames_and_places(f - pictures, c)
    frame = torch.cat([pixel // (h * w), frame])
    place = torch.cat([pixel, place])
    is_video = torch.arange(len(frame)) < len(pixel)
    return is_video.to(device), frame.to(device), place.to(device)

  def audio_rope(self, tokens, device):
    """Returns RoPE of audio tokens beside the video's grid."""
    is_video, frame, place = tokens
    t, k = (x[~is_video].cpu() for x in (frame, place))
    zero = torch.zeros_like(t)
    positions = {
      "same_t_offgrid": (t, zero - 1, k),
      "same_t_zero": (t, zero, zero),
      "none": (zero, zero, zero),
    }[self.options.get("rope_audio", "same_t_offgrid")]
    return token_rope(positions, axis_dims(self.video.e), device)

  def masks_of(self, tokens, route, grids):
    """Returns masks that are true where a token reads another one.

    Of both streams, (b, 1, n + m, n + m), and of the video's self-attention,
    (b, 1, 1, n), None if it reads all.
    """
    is_video, frame, _ = tokens
    same = frame[:, None] == frame
    alike = is_video[:, None] == is_video
    both_video = is_video[:, None] & is_video
    seen = {
      "masked3d": same | both_video,
      "full3d": torch.ones_like(same),
    }.get(self.attention, same)
    meets = route["sees"]["video"] & route["exchanges"]
    seen = seen & (alike | meets[:, None, None])
    if not (r := self.num_pictures(route)):
      return seen[:, None], None
    f, h, w = grids["video"]
    ends = (f - r) * h * w, int((~is_video).sum())
    has = route["references"].repeat_interleave(h * w, 1)[:, None]
    there = F.pad(has, ends, value=True)
    return (seen & there)[:, None], there[..., None, : f * h * w]
