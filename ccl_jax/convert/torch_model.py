"""CCL in plain PyTorch: what runs the export of `convert to-torch`, on a GPU.

    model = CCL.from_pretrained("EXPORT", device="cuda")
    velocity = model(state, t, text, route)

This file and `torch_sampling.py` need nothing else of this package: copy them.
Latents are channels last, "video" (b, f, h, w, c) and "audio" (b, m, c), either
may be absent; times are in [0, 1], 1 is noise; make_route there makes a route.

Each stream has the names of diffusers' WanTransformer3DModel; in every layer
`fusion` lets each read the other: learnable context, and tokens of the frames
nearby if the sample's route says so. Matrices are multiplied in the model's
dtype; norms, modulation, softmax and time are float32.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

STREAMS = ("video", "audio")
OTHER = {"video": "audio", "audio": "video"}
EPS = 1e-6
FLOAT32 = ("norm", "scale_shift_table", "time_embedder", "time_proj")
DEFAULTS = dict(
  audio_context=8, video_context=128, tarp=True, dcr=True, positions="index",
  audio_half=1, video_half=0, fps=25.0,
)  # fmt: skip
GATED = dict(audio_context=0, video_context=0, tarp=False, dcr=False)


def dtype_of(name, dtype):
  """Of a parameter: norms, modulation and time stay in float32."""
  return torch.float32 if any(part in name for part in FLOAT32) else dtype


def make_turn(time, h, w, dims, device):
  """exp(i angle), (n, e / 2); axis i of (t, h, w) turns dims[i] channels."""
  places = time[:, None, None], torch.arange(h)[:, None], torch.arange(w)
  angles = []
  for p, d in zip(places, dims, strict=True):
    frequency = 1e4 ** (-torch.arange(0, d, 2).double() / d)
    angles.append((p[..., None] * frequency).expand(len(time), h, w, -1))
  angles = torch.cat(angles, -1).flatten(0, 2).float().to(device)
  return torch.polar(torch.ones_like(angles), angles)


def axis_dims(e):
  """Channels of a head for t, h and w: 44, 42, 42 of 128."""
  side = 2 * (e // 6)
  return e - 2 * side, side, side


def frame_times(positions, f, c, fps, rate=31.25):
  """Where the frames and the c audio latents of each are in time."""
  frame, latent = torch.arange(f).double(), torch.arange(c * f).double()
  if positions in ("index", "unscaled"):
    return dict(video=frame, audio=latent / (c if positions == "index" else 1))
  per_frame = 4 * rate / fps
  unit = {"seconds": 1.0, "fine": per_frame}[positions]
  middle = torch.where(frame == 0, 0.125, frame - 0.25)
  return dict(video=middle * unit, audio=(latent + 0.5) / per_frame * unit)


def rotate(x, turn):
  """Turns the pairs of neighbours in x (b, k, n, e), in float32."""
  pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
  return torch.view_as_real(pairs * turn).flatten(-2).type_as(x)


def two_linears(d_in, d):
  layers = nn.Linear(d_in, d), nn.Linear(d, d)
  return nn.ModuleDict({"linear_1": layers[0], "linear_2": layers[1]})


def gelu(x):
  return F.gelu(x, approximate="tanh")


def modulate(x, shift, scale):
  y = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
  return (y * (1 + scale) + shift).type_as(x)


class RMSNorm(nn.RMSNorm):
  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class LayerNorm(nn.LayerNorm):
  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class Attention(nn.Module):
  """Queries of width d, keys and values of d_kv, in heads of e channels."""

  def __init__(self, d, d_kv, e):
    super().__init__()
    self.e = e
    self.to_q, self.to_k = nn.Linear(d, d), nn.Linear(d_kv, d)
    self.to_v, self.to_out = nn.Linear(d_kv, d), nn.Sequential(nn.Linear(d, d))
    self.norm_q, self.norm_k = RMSNorm(d, EPS), RMSNorm(d, EPS)

  def heads(self, x):
    return x.unflatten(-1, (-1, self.e)).transpose(1, 2)

  def query(self, x):
    return self.heads(self.norm_q(self.to_q(x)))

  def key_value(self, y):
    return self.heads(self.norm_k(self.to_k(y))), self.heads(self.to_v(y))

  def attend(self, q, k, v, mask=None):
    out = F.scaled_dot_product_attention(q, k, v, mask)
    return self.to_out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
  """x is (b, f, s, d), the rows of time (b, f | 1, s | 1, 6, d)."""

  def __init__(self, d, ffn, e):
    super().__init__()
    self.scale_shift_table = nn.Parameter(torch.empty(1, 6, d))
    self.attn1, self.attn2 = Attention(d, d, e), Attention(d, d, e)
    self.norm2 = LayerNorm(d, EPS)
    up = nn.ModuleDict({"proj": nn.Linear(d, ffn)})
    net = nn.ModuleList([up, nn.Identity(), nn.Linear(ffn, d)])
    self.ffn = nn.ModuleDict({"net": net})

  def attend(self, x, rows, text, turn):
    """Self-attention, then text."""
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[:3]
    y, p = modulate(x, shift, scale).flatten(1, 2), self.attn1
    k, v = p.key_value(y)
    y = p.attend(rotate(p.query(y), turn), rotate(k, turn), v)
    x, p = (x + y.view_as(x) * gate).type_as(x), self.attn2
    y = p.attend(p.query(self.norm2(x).flatten(1, 2)), *p.key_value(text))
    return x + y.view_as(x)

  def feed(self, x, rows):
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[3:]
    up, _, down = self.ffn["net"]
    y = down(gelu(up["proj"](modulate(x, shift, scale))))
    return (x + y * gate).type_as(x)


class Stream(nn.Module):
  """A tower: of audio, c = `tokens_per_frame`, or of video, where that is 0."""

  def __init__(
    self, num_layers, text_width, *, width, ffn, heads, channels, patch=1,
    tokens_per_frame=0, frequency_dim=256, condition_channels=0, image_width=0,
  ):  # fmt: skip
    super().__init__()
    if condition_channels or image_width:
      raise ValueError(
        f"{condition_channels=}, {image_width=}: expected none, this file has"
        " no image branch. Export the video alone, for diffusers."
      )
    self.width, self.e, self.half = width, width // heads, frequency_dim // 2
    self.c, self.patch, kernel = tokens_per_frame, patch, (1, patch, patch)
    self.patch_embedding = (
      nn.Linear(channels, width) if self.c
      else nn.Conv3d(channels, width, kernel, kernel)
    )  # fmt: skip
    self.condition_embedder = nn.ModuleDict({
      "time_embedder": two_linears(frequency_dim, width),
      "time_proj": nn.Linear(width, 6 * width),
      "text_embedder": two_linears(text_width, width),
    })  # fmt: skip
    blocks = (Block(width, ffn, self.e) for _ in range(num_layers))
    self.blocks = nn.ModuleList(blocks)
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

  def embed(self, z):
    """Latents -> (b, f, s, d)."""
    if self.c:
      z = z.unflatten(1, (-1, self.c))
    else:
      z = z.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
      z = z.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)
    p = self.patch_embedding
    return F.linear(z.type_as(p.weight), p.weight.flatten(1), p.bias)

  def embed_time(self, t):
    """(b,), (b, f, 1) or (b, f, s) -> (b, f | 1, s | 1, d) and 6 rows of it."""
    t, p = t[:, None, None] if t.ndim == 1 else t, self.condition_embedder
    frequency = 1e4 ** (-torch.arange(self.half, device=t.device) / self.half)
    angle = 1000 * t.float()[..., None] * frequency
    up, down = p["time_embedder"].values()
    e = down(F.silu(up(torch.cat([angle.cos(), angle.sin()], -1))))
    return e, p["time_proj"](F.silu(e)).unflatten(-1, (6, -1))

  def embed_text(self, text):
    up, down = self.condition_embedder["text_embedder"].values()
    return down(gelu(up(text.type_as(up.weight))))

  def output(self, x, e, shape):
    """Velocity of latents of this shape, in float32."""
    shift, scale = (self.scale_shift_table + e[..., None, :]).unbind(-2)
    y = self.proj_out(modulate(x, shift, scale)).float()
    if not self.c:
      (b, f, h, w, c), p = shape, self.patch
      y = y.view(b, f, h // p, w // p, p, p, c).transpose(3, 4)
    return y.reshape(shape)


class Reader(Attention):
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
    out = self.attend(q, k, v, mask).view_as(x)
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
    return Reader(own.width, far.width, own.e, num_context)

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

  def forward(self, state, t, text, route):
    """Velocity of each stream in `state`, float32.

    t: stream -> (b,), (b, f, 1) or (b, f, s); text: (b, l, d); route: (b,)
    bools {s}_sees_{other}, {s}_is_generated, else a reference, and exchanges.
    """
    if not state or any(self.config.get(s) is None for s in state):
      raise ValueError(f"got latents of {sorted(state)}, which it has not all.")
    towers = {s: getattr(self, s) for s in STREAMS if s in state}
    grids = {s: tower.grid(state[s]) for s, tower in towers.items()}
    if len({f for f, _, _ in grids.values()}) != 1:
      raise ValueError(f"{grids=} (f, h, w): expected the same frames in each.")
    turns = {s: towers[s].turn(*grids[s], text.device) for s in towers}
    texts = {s: tower.embed_text(text) for s, tower in towers.items()}
    times = {s: tower.embed_time(t[s]) for s, tower in towers.items()}
    sides = self.sides(grids, route, text.device) if self.fusion else {}
    x = {s: tower.embed(state[s]) for s, tower in towers.items()}
    kept = {s: route[f"{s}_is_generated"][:, None, None, None] for s in x}
    for i in range(self.config["num_layers"]):
      blocks = {s: tower.blocks[i] for s, tower in towers.items()}
      for s, p in blocks.items():
        x[s] = p.attend(x[s], times[s][1], texts[s], turns[s])
      seen = x
      if torch.is_grad_enabled():  # No gradient enters a reference.
        seen = {s: torch.where(kept[s], a, a.detach()) for s, a in x.items()}
      x |= {
        s: self.fusion[i][s](x[s], seen.get(OTHER[s]), *side)
        for s, side in sides.items()
      }
      x = {s: p.feed(x[s], times[s][1]) for s, p in blocks.items()}
    return {s: towers[s].output(x[s], times[s][0], state[s].shape) for s in x}

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
