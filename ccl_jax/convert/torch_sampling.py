"""From a prompt to latents with `torch_model.CCL`: guidance and samplers.

    latents = sample(model, "a2v", text, negative, given={"audio": latents})

Guidance is one weight for each way to run the model. c is the prompt, n the
negative one; x: the other stream as the task lets it be seen, L: learnable
context only, drop: no cross-modal module, null: a static video or a muted sound
drives this stream. With the stream's scale s and the cross-modal one r:

    ucg2  (1 - s) v(n,L) + s v(c,x)
    ucg3  (1 - r) v(n,L) + (r - s) v(n,x) + s v(c,x)          and so on: ROWS

UniPC (order 2, data prediction; arXiv 2302.04867) and Euler are tables of
coefficients: with m_i = x_i - sigma_i v(x_i), the predicted data, x_{i+1} is a
combination of x_i, m_i, m_{i-1}, and once m_{i+1} is known a corrected one of
x_i, m_{i+1}, m_i, m_{i-1}. As diffusers', but for time, which is sigma itself.
"""

import itertools
import math

import torch

STREAMS = ("video", "audio")
OTHER = {"video": "audio", "audio": "video"}
# Task: the streams that take part, those of them that are given as a whole.
TASKS = {
  "t2av": (STREAMS, ()),
  "i2av": (STREAMS, ()),  # i: the first frame of the video is given
  "t2v": (("video",), ()),
  "i2v": (("video",), ()),
  "t2a": (("audio",), ()),
  "a2v": (STREAMS, ("audio",)),
  "v2a": (STREAMS, ("video",)),
}
# How to sample where a config says nothing; sigmas between guidance_low and
# guidance_high are guided.
DEFAULTS = dict(
  solver="unipc",
  num_inference_steps=50,
  shift=5.0,
  guidance="ucg2",
  video_guidance_scale=4.0,
  audio_guidance_scale=3.0,
  cross_guidance_scale=2.5,
  audio_cross_guidance_scale=None,
  guidance_low=0.0,
  guidance_high=1.0,
  guidance_rescale=0.0,
)
# Row: (s, r) -> (text, other stream) -> weight.
CX, NX, CL, NL = (text + other for other in "xL" for text in "cn")
ROWS = {
  "none": lambda s, r: {CX: 1},
  "text": lambda s, r: {NX: 1 - s, CX: s},
  "ucg2": lambda s, r: {NL: 1 - s, CX: s},
  "ucg3": lambda s, r: {NL: 1 - r, NX: r - s, CX: s},
  "ucg3_text_first": lambda s, r: {NL: 1 - s, CL: s - r, CX: r},
  "multimodal": lambda s, r: {CX: s + r - 1, NX: 1 - s, "c-": 1 - r},
  "sync": lambda s, r: {"c0": 1 - s, CX: s},
}


def choose(options, name, what):
  """options[name], or a ValueError that lists what there is."""
  if name not in options:
    raise ValueError(f"{what} '{name}': expected one of {', '.join(options)}.")
  return options[name]


def make_route(tasks, device=None):
  """Who sees whom and who is generated, name -> (b,), by each sample's task."""
  rows = [choose(TASKS, task, "task") for task in tasks]
  route = {"exchanges": [True] * len(rows)}
  for s, far in OTHER.items():
    free = [s in streams and s not in given for streams, given in rows]
    route[f"{s}_is_generated"] = free
    route[f"{s}_sees_{far}"] = [
      x and streams == STREAMS
      for x, (streams, _) in zip(free, rows, strict=True)
    ]
  return {name: torch.tensor(x, device=device) for name, x in route.items()}


def vary(variant, nulled, state, t, texts, route, null):
  """What the model is called with for one variant."""
  if variant[0] not in texts:
    raise ValueError("this guidance needs the negative text, got none.")
  text, other = texts[variant[0]], variant[1]
  off = torch.zeros_like(route["exchanges"])
  if other == "L":
    route = route | {f"{s}_sees_{far}": off for s, far in OTHER.items()}
  elif other == "-":
    route = route | {"exchanges": off}
  elif other == "0":
    if null is None or nulled not in state:
      raise ValueError(
        f"this guidance nulls the {nulled}: give latents of both as `null`, and"
        f" a task with both, not {sorted(state)}."
      )
    state = state | {nulled: null[nulled].expand_as(state[nulled])}
    t = t | {nulled: torch.zeros_like(t[nulled])}
    route = route | {f"{nulled}_sees_{OTHER[nulled]}": off}
  return state, t, text, route


def guided(
  model, row, scales, state, t, texts, route, null=None, rescale=0.0,
  image=None,
):  # fmt: skip
  """Velocity by a row of ROWS; all variants are one batch.

  scales: stream -> (s, r); texts: {"c": (b, l, d), "n": (b, l, d)}; null: for
  "sync", latents of both streams; rescale: from 0 to 1, how far the standard
  deviation goes back to that of v(c,x) (arXiv 2305.08891, section 3.4); image:
  what the video is told of one, in all variants.
  """
  weights = {s: choose(ROWS, row, "guidance")(*scales[s]) for s in state}
  # A null variant differs for the two outputs: it nulls the other stream.
  passes = {
    s: {(v, OTHER[s] if v[1] == "0" else None): w for v, w in own.items()}
    for s, own in weights.items()
  }
  distinct = list(dict.fromkeys(p for own in passes.values() for p in own))
  calls = [vary(*p, state, t, texts, route, null) for p in distinct]
  states, times, prompts, routes = zip(*calls, strict=True)
  told = None if image is None else join([image] * len(distinct))
  made = model(
    join(states), join(times), torch.cat(prompts), join(routes), told
  )
  result = {}
  for s, x in made.items():
    parts = dict(zip(distinct, x.chunk(len(distinct)), strict=True))
    v = result[s] = sum(w * parts[p] for p, w in passes[s].items())
    if rescale:
      free = t[s].reshape(*t[s].shape, *[1] * (v.ndim - t[s].ndim)) > 0
      ratio = std(parts[CX, None], free) / std(v, free).clamp(min=1e-12)
      result[s] = v * (1 - rescale + rescale * ratio)
  return result


def std(x, mask):
  """Of each sample where the mask is, (b, 1, ...)."""
  mask, axes = mask.expand_as(x), tuple(range(1, x.ndim))
  count = mask.sum(axes, keepdim=True).clamp(min=1)
  mean = (x * mask).sum(axes, keepdim=True) / count
  square = (x - mean).square() * mask
  return (square.sum(axes, keepdim=True) / count).sqrt()


def join(dicts):
  """Dicts of the same arrays, one behind the other."""
  return {name: torch.cat([d[name] for d in dicts]) for name in dicts[0]}


def schedule(steps, shift, top=1.0):
  """steps + 1 sigmas from `top` to 0, as float32 has them."""
  line = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float64)[:-1]
  sigmas = (shift * line / (1 + (shift - 1) * line)).float().clamp(max=top)
  return [*sigmas.tolist(), 0.0]


def euler(steps, shift):
  """A row a step: sigma, predict, correct."""
  sigmas = schedule(steps, shift)
  for now, later in itertools.pairwise(sigmas):
    yield now, (later / now, 1 - later / now, 0), (1, 0, 0, 0, 0)


def unipc(steps, shift):
  """The same of UniPC; its first and last step are of order 1."""
  sigmas, correct = schedule(steps, shift, 1 - 1e-6), (1, 0, 0, 0, 0)
  for i, (now, later) in enumerate(itertools.pairwise(sigmas)):
    ratio = later / now
    b = (1 - now) * ratio - (1 - later)
    second = 0 < i < steps - 1
    inverse_r, p, q = (
      second_order(*sigmas[i - 1 : i + 2]) if second else (0, 0, 0.5)
    )
    half, p = inverse_r / 2, p * inverse_r
    yield now, (ratio, -b * (1 - half), -b * half), correct
    correct = 0, ratio, -b * q, -b * (1 - p - q), -b * p


def second_order(*sigmas):
  """1 / r, p and q, from three sigmas."""
  before, now, later = (math.log((1 - sigma) / sigma) for sigma in sigmas)
  h = later - now
  r, b = (before - now) / h, math.expm1(-h)
  b1, b2 = (-b / h - 1) / b, 2 * ((b / h + 1) / h - 0.5) / b
  p = (b1 - b2) / (1 - r)
  return 1 / r, p, b1 - p


SOLVERS = {"euler": euler, "unipc": unipc}


def solve(velocity, x, method, steps, shift):
  """From noise x to data; velocity(state, sigma)."""

  def combine(weights, *states):
    pairs = list(zip(weights, states, strict=True))
    return {s: sum(w * y[s] for w, y in pairs if w) for s in x}

  last_x = last_m = older_m = None
  for sigma, predict, correct in choose(SOLVERS, method, "method")(
    steps, shift
  ):
    v = velocity(x, sigma)
    m = {s: x[s] - sigma * v[s] for s in x}
    x = combine(correct, x, last_x, m, last_m, older_m)
    last_x, x = x, combine(predict, x, m, last_m)
    last_m, older_m = m, last_m
  return x


def draw_noise(config, streams, seeds, device="cpu"):
  """Noise of one clip for each seed, whatever the device or other streams."""
  (y, x), f = config["clip"]["size"], 1 + (config["clip"]["frames"] - 1) // 4

  def draw(s, seed):
    channels = config[s]["channels"]
    shape = (f, y // 8, x // 8, channels)
    if s == "audio":
      shape = f * config[s]["tokens_per_frame"], channels
    generator = torch.Generator().manual_seed(2 * seed + STREAMS.index(s))
    return torch.randn(shape, generator=generator)

  return {
    s: torch.stack([draw(s, seed) for seed in seeds]).to(device)
    for s in streams
  }


@torch.no_grad()
def sample(
  model, task, text, negative=None, *, given=None, noise=None, null=None,
  seed=0, **settings,
):  # fmt: skip
  """Latents of the streams of a task, those that are given included.

  text, negative: (b, l, d), and what broadcasts to it; given: latents of the
  audio for a2v, of the video for v2a; for i2av and i2v of its first frame, or
  "image" for a model that is told of one, with the "latents" and "tokens" of
  codecs.image_condition.make_image; noise: else of seeds seed .. seed + b - 1;
  settings: those of DEFAULTS, else as the config's `sampling` says.
  """
  streams, references = choose(TASKS, task, "task")
  wanted = [("video",), ("image",)] if task[0] == "i" else [references]
  given, b = dict(given or {}), len(text)
  for name in settings:
    choose(DEFAULTS, name, "setting")
  o = DEFAULTS | model.config.get("sampling", {}) | settings
  if tuple(given) not in wanted:
    raise ValueError(
      f"task '{task}' is given {tuple(given)}: expected"
      f" {' or '.join(map(str, wanted))}."
    )
  image = given.pop("image", None)
  if noise is None:
    seeds = range(seed, seed + b)
    noise = draw_noise(model.config, streams, seeds, text.device)
  cross = dict.fromkeys(STREAMS, o["cross_guidance_scale"])
  if o["audio_cross_guidance_scale"] is not None:
    cross["audio"] = o["audio_cross_guidance_scale"]
  scales = {s: (o[f"{s}_scale"], cross[s]) for s in streams}
  texts = {"c": text}
  if negative is not None:
    texts["n"] = negative.expand_as(text)
  route = make_route([task] * b, text.device)

  def pin(state):
    """What is given, in the beginning of the noisy latents or instead."""
    ends = {s: state[s][:, x.shape[1] :] for s, x in given.items()}
    return state | {s: torch.cat([given[s], x], 1) for s, x in ends.items()}

  def velocity(state, sigma):
    t = {s: torch.full((b,), sigma, device=text.device) for s in streams}
    t |= {s: torch.zeros_like(t[s]) for s in references}
    if task[0] == "i" and image is None:
      later = torch.arange(state["video"].shape[1], device=text.device) > 0
      t["video"] = t["video"][:, None, None] * later[:, None]
    inside = o["guidance_low"] <= sigma <= o["guidance_high"]
    row, rescale = (
      (o["guidance"], o["guidance_rescale"]) if inside else ("none", 0)
    )
    args = pin(state), t, texts, route, null, rescale, image
    return guided(model, row, scales, *args)

  return pin(
    solve(velocity, noise, o["solver"], o["num_inference_steps"], o["shift"])
  )
