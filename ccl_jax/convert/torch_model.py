"""CCL in plain PyTorch: what runs the export of `convert to-torch`, on a GPU.

    model = CCL.from_pretrained("EXPORT", device="cuda")
    velocity = model(state, t, text, route)

This file, `torch_layers.py` and `torch_sampling.py` need nothing else of this
package: copy all three, and mend one import. Latents are channels last, "video"
(b, f, h, w, c) and "audio" (b, m, c), either may be absent; times are in
[0, 1], 1 is noise; torch_sampling.make_route makes a route.

Each stream has the names of diffusers' WanTransformer3DModel; in every layer
`fusion` lets each read the other: learnable context, and tokens of the frames
nearby if the sample's route says so. A video stream as Wan2.1's I2V is told of
an image by channels beside its latents, else zeros, and by tokens beside the
text. Matrices are multiplied in the model's dtype, the rest is float32.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_layers import (
  EPS,
  Attention,
  Block,
  Embedder,
  ImageEmbedder,
  LayerNorm,
  axis_dims,
  gelu,
  make_turn,
  modulate,
  rotate,
)

STREAMS = ("video", "audio")
OTHER = {"video": "audio", "audio": "video"}
FLOAT32 = ("norm", "scale_shift_table", "time_embedder", "time_proj")
DEFAULTS = dict(
  num_audio_lct=8, num_video_lct=128, tarp=True, dcr=True, positions="index",
  audio_window_radius=1, video_window_radius=0, fps=25.0,
)  # fmt: skip
GATED = dict(num_audio_lct=0, num_video_lct=0, tarp=False, dcr=False)


def dtype_of(name, dtype):
  """Of a parameter: norms, modulation and time stay in float32."""
  return torch.float32 if any(part in name for part in FLOAT32) else dtype


def frame_times(positions, f, c, fps, rate=31.25):
  """Where the frames and the c audio latents of each are in time."""
  frame, latent = torch.arange(f).double(), torch.arange(c * f).double()
  if positions in ("index", "unscaled"):
    return dict(video=frame, audio=latent / (c if positions == "index" else 1))
  per_frame = 4 * rate / fps
  unit = {"seconds": 1.0, "fine": per_frame}[positions]
  middle = torch.where(frame == 0, 0.125, frame - 0.25)
  return dict(video=middle * unit, audio=(latent + 0.5) / per_frame * unit)


class Stream(nn.Module):
  """A tower: of audio, c = `tokens_per_frame`, or of video, where that is 0."""

  def __init__(
    self, num_layers, text_width, *, width, ffn, heads, channels, patch=1,
    tokens_per_frame=0, frequency_dim=256, condition_channels=0, image_width=0,
  ):  # fmt: skip
    super().__init__()
    self.width, self.e, self.half = width, width // heads, frequency_dim // 2
    self.c, self.patch, kernel = tokens_per_frame, patch, (1, patch, patch)
    self.told = {"latents": condition_channels, "tokens": image_width}
    d_in = channels + condition_channels
    self.patch_embedding = (
      nn.Linear(d_in, width) if self.c
      else nn.Conv3d(d_in, width, kernel, kernel)
    )  # fmt: skip
    self.condition_embedder = p = nn.Module()
    p.time_embedder = Embedder(frequency_dim, width)
    p.time_proj = nn.Linear(width, 6 * width)
    p.text_embedder = Embedder(text_width, width)
    if image_width:
      p.image_embedder = ImageEmbedder(image_width, width)
    self.blocks = nn.ModuleList(
      Block(width, ffn, self.e, image_width > 0) for _ in range(num_layers)
    )
    self.scale_shift_table = nn.Parameter(torch.empty(1, 2, width))
    self.proj_out = nn.Linear(width, channels * patch**2)

  def grid(self, z):
    """(f, h, w) tokens of latents; of audio (f, 1, c)."""
    if self.c:
      return z.shape[1] // self.c, 1, self.c
    return z.shape[1], z.shape[2] // self.patch, z.shape[3] // self.patch

  def turn(self, f, h, w, device):
    """Of self-attention: on a grid, or of audio along a sequence."""
    if self.c:
      return make_turn(torch.arange(f * w), 1, 1, (self.e, 0, 0), device)
    return make_turn(torch.arange(f), h, w, axis_dims(self.e), device)

  def embed(self, z, image):
    """Latents -> (b, f, s, d)."""
    if self.c:
      z = z.unflatten(1, (-1, self.c))
    else:
      none = z.new_zeros(*z.shape[:-1], self.told["latents"])
      z = torch.cat([z, image.get("latents", none)], -1)
      z = z.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
      z = z.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)
    p = self.patch_embedding
    return F.linear(z.type_as(p.weight), p.weight.flatten(1), p.bias)

  def embed_time(self, t):
    """(b,), (b, f, 1) or (b, f, s) -> (b, f | 1, s | 1, d) and 6 rows of it."""
    t, p = t[:, None, None] if t.ndim == 1 else t, self.condition_embedder
    frequency = 1e4 ** (-torch.arange(self.half, device=t.device) / self.half)
    angle = 1000 * t.float()[..., None] * frequency
    e = p.time_embedder(torch.cat([angle.cos(), angle.sin()], -1), F.silu)
    return e, p.time_proj(F.silu(e)).unflatten(-1, (6, -1))

  def embed_prompt(self, text, image):
    """What blocks read: of the text, and of an image or None."""
    p = self.condition_embedder
    tokens = p.image_embedder(image["tokens"]) if "tokens" in image else None
    return p.text_embedder(text, gelu), tokens

  def output(self, x, e, shape):
    """Velocity of latents of this shape, in float32."""
    shift, scale = (self.scale_shift_table + e[..., None, :]).unbind(-2)
    y = self.proj_out(modulate(x, shift, scale)).float()
    if not self.c:
      (b, f, h, w, c), p = shape, self.patch
      y = y.view(b, f, h // p, w // p, p, p, c).transpose(3, 4)
    return y.reshape(shape)


class CrossAttention(Attention):
  """One side: a stream of width d reads context tokens and one of d_other."""

  def __init__(self, d, d_other, e, num_context):
    super().__init__(d, d_other, e)
    self.norm, self.norm_other = LayerNorm(d, EPS), LayerNorm(d_other, EPS)
    self.context = nn.Parameter(torch.empty(num_context, d_other))

  def forward(self, x, y, turns, mask, on):
    """Adds what x reads where `on` (b,); y None leaves the context."""
    q = rotate(self.query(self.norm(x).flatten(1, 2)), turns[0])
    context = self.key_value(self.context[None].type_as(x))
    k, v = (a.expand(len(x), -1, -1, -1) for a in context)
    if y is not None:
      far = self.key_value(self.norm_other(y).flatten(1, 2))
      k = torch.cat([k, rotate(far[0], turns[1])], 2)
      v = torch.cat([v, far[1]], 2)
    out = self.attend(q, (k, v), mask=mask).view_as(x)
    return torch.addcmul(x, out, on[:, None, None, None].type_as(x))


class CCL(nn.Module):
  """Both streams and what joins them, or one; `config` as in config.json."""

  def __init__(self, config):
    super().__init__()
    got = config.get("_class_name", "CCL"), config.get("ccl_version", 1)
    if got != ("CCL", 1):
      raise ValueError(
        f"config of {got}, expected ('CCL', 1). A video stream that was"
        " exported alone loads into diffusers' class of that name."
      )
    kind, depth = config["fusion"]["kind"], config["num_layers"]
    given = GATED if kind == "gated" else {}
    self.config, self.options = config, DEFAULTS | given | config["fusion"]
    for s in STREAMS:
      if config[s] is not None:
        setattr(self, s, Stream(depth, config["text_width"], **config[s]))
    self.fusion = nn.ModuleList()
    for _ in range(depth if kind != "independent" else 0):
      self.fusion.append(nn.ModuleDict({s: self.reader(s) for s in STREAMS}))

  def reader(self, side):
    own, far = getattr(self, side), getattr(self, OTHER[side])
    num_context = self.options[f"{OTHER[side]}_context"]
    return CrossAttention(own.width, far.width, own.e, num_context)

  @classmethod
  def from_pretrained(cls, folder, dtype=None, device="cpu"):
    """The model of an exported folder; dtype None: what it was trained in."""
    path = pathlib.Path(folder) / "transformer" / "config.json"
    if not path.exists():
      raise ValueError(f"no '{path}': expected an export of `to-torch`.")
    with torch.device("meta"):
      model = cls(json.loads(path.read_text()))
    dtype, tensors = dtype or getattr(torch, model.config["dtype"]), {}
    for shard in path.parent.glob("*.safetensors"):
      for name, x in load_file(shard, device=str(device)).items():
        tensors[name] = x.to(dtype_of(name, dtype))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)

  def forward(self, state, t, text, route, image=None):
    """Velocity of each stream in `state`, float32.

    t: stream -> (b,), (b, f, 1) or (b, f, s); text: (b, l, d); route: (b,)
    bools {s}_sees_{other}, {s}_is_generated, else a reference, and exchanges;
    image: "latents" (b, f, h, w, 20), "tokens" (b, 257, 1280), or one of them.
    """
    told = {"video": image or {}, "audio": {}}
    self.check(state, told["video"])
    towers = {s: getattr(self, s) for s in STREAMS if s in state}
    grids = {s: tower.grid(state[s]) for s, tower in towers.items()}
    if len({f for f, _, _ in grids.values()}) != 1:
      raise ValueError(f"{grids=} (f, h, w): expected the same frames in each.")
    turns = {s: towers[s].turn(*grids[s], text.device) for s in towers}
    prompts = {s: p.embed_prompt(text, told[s]) for s, p in towers.items()}
    times = {s: tower.embed_time(t[s]) for s, tower in towers.items()}
    sides = self.sides(grids, route, text.device) if self.fusion else {}
    x = {s: tower.embed(state[s], told[s]) for s, tower in towers.items()}
    kept = {s: route[f"{s}_is_generated"][:, None, None, None] for s in x}
    for i in range(self.config["num_layers"]):
      blocks = {s: tower.blocks[i] for s, tower in towers.items()}
      for s, p in blocks.items():
        x[s] = p.attend(x[s], times[s][1], prompts[s], turns[s])
      seen = x
      if torch.is_grad_enabled():  # No gradient enters a reference.
        seen = {s: torch.where(kept[s], a, a.detach()) for s, a in x.items()}
      x |= {
        s: self.fusion[i][s](x[s], seen.get(OTHER[s]), *side)
        for s, side in sides.items()
      }
      x = {s: p.feed(x[s], times[s][1]) for s, p in blocks.items()}
    return {s: towers[s].output(x[s], times[s][0], state[s].shape) for s in x}

  def check(self, state, image):
    """Raises ValueError for streams and an image that it has no place for."""
    if not state or any(self.config.get(s) is None for s in state):
      raise ValueError(f"got latents of {sorted(state)}, which it has not all.")
    places = self.video.told if "video" in state else {}
    for name, x in image.items():
      if not x.shape[-1] == places.get(name, 0) > 0:
        raise ValueError(
          f"{name} of an image are {tuple(x.shape)}: expected a last axis of"
          f" {places}, where 0 or nothing is no place for them."
        )

  def sides(self, grids, route, device):
    """Side -> (turns, mask, on) of its readers, if it reads anything at all."""
    o, sides = self.options, {}
    f, c = next(iter(grids.values()))[0], grids.get("audio", (0, 0, 1))[2]
    sizes = {"video": grids.get("video", ())[1:], "audio": (1, 1)}
    positions = o["positions"] if o["tarp"] else "unscaled"
    times = frame_times(positions, f, c, o["fps"])
    for s, far in OTHER.items():
      routed = o["dcr"] and o[f"{far}_context"] > 0
      if s not in grids or (far not in grids and not routed):
        continue
      dims, sees = axis_dims(getattr(self, s).e), route[f"{s}_sees_{far}"]
      places = [(times[of], *sizes[of]) for of in (s, far) if of in grids]
      turns = [make_turn(*place, dims, device) for place in places]
      mask = self.mask(grids, s, far, sees if routed else None, device)
      on = route["exchanges"] if routed else route["exchanges"] & sees
      sides[s] = turns, mask, on
    return sides

  def mask(self, grids, s, far, sees, device):
    """(b | 1, 1, n | 1, context + m): context, and frames nearby where seen."""
    o = self.options
    if far not in grids or (sees is None and not o["tarp"]):
      return None
    frame, far_frame = (
      torch.arange(f, device=device).repeat_interleave(h * w)
      for f, h, w in (grids[s], grids[far])
    )
    near = (frame[:, None] - far_frame).abs() <= o[f"{far}_half"]
    mask = (near if o["tarp"] else torch.ones_like(near[:1]))[None, None]
    mask = mask if sees is None else mask & sees[:, None, None, None]
    return F.pad(mask, (o[f"{far}_context"], 0), value=True)
