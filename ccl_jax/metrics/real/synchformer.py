"""Synchformer (Iashin et al. 2024) classifies the offset of a clip's sound.

Each segment has 16 frames and 0.64 s of log-mel. The frames go through a
transformer whose blocks attend over time, then over space (Motionformer,
divided), the sound through AST. Another layer with a learned token aggregates
over space, or over frequency, so a segment becomes 8 and 6 vectors. Three more
blocks read the vectors of 14 segments and classify one of 21 offsets.

Parameters keep the names of `synchformer_state_dict.pth`.
"""

import functools
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from ccl_jax.convert.torch_files import LazyStateDict
from ccl_jax.metrics.real.syncnet import in_chunks
from ccl_jax.ops.norms import expand_like, normalize

FILE = "synchformer_state_dict.pth"
FRAMES, SIZE, MELS, MEL_FRAMES = 16, 224, 128, 66  # of a segment
SEGMENTS = 14
LAYERS, _SYNC_LAYERS = 12, 3
_HEADS, _SYNC_HEADS = 12, 8
_AST_STRIDE = 10
_AST = "afeat_extractor.ast.encoder.layer.{}"
_AT_ONCE = 7  # segments
# Of patches that the model has beside those it uses.
_UNUSED = ("vfeat_extractor.patch_embed.",)

Params = dict[str, Array]


def read(
  state: LazyStateDict, size: int = SIZE, layers: int = LAYERS
) -> Params:
  """Returns the parameters of a state dict.

  Args:
    size: of the pictures.
    layers: of the transformers of pictures and of sound.

  Raises:
    ValueError: arrays are missing or do not fit.
  """
  names = [name for name in state.shapes if not name.startswith(_UNUSED)]
  params = {name: jnp.asarray(state.read(name), jnp.float32) for name in names}
  video = jax.ShapeDtypeStruct((1, FRAMES, size, size, 3), jnp.float32)
  mel = jax.ShapeDtypeStruct((1, MEL_FRAMES, MELS), jnp.float32)
  try:
    for name, expected in (
      ("vfeat_extractor.blocks.{}.norm1.weight", layers),
      (f"{_AST}.output.dense.weight", layers),
      ("transformer.blocks.{}.ln1.weight", _SYNC_LAYERS),
    ):
      if _num_layers(params, name) != expected:
        raise ValueError(f"expected {expected} layers such as {name}")
    v = jax.eval_shape(encode_video.__wrapped__, params, video)
    a = jax.eval_shape(encode_audio.__wrapped__, params, mel)
    tokens = [
      jax.ShapeDtypeStruct((SEGMENTS, *x.shape[1:]), x.dtype) for x in (v, a)
    ]
    jax.eval_shape(classify.__wrapped__, params, *tokens)
  except (KeyError, TypeError, ValueError) as error:
    reason = " ".join(f"{error}".split())[:200]
    raise ValueError(
      f"'{state.origin}' is not Synchformer's {FILE}: {reason}"
    ) from error
  return params


def embed_video(
  params: Params, segments: Float[np.ndarray, "s t y x 3"]
) -> Float[np.ndarray, "s v d"]:
  """Returns 8 vectors of each segment of pictures in [-1, 1]."""
  return in_chunks(functools.partial(encode_video, params), segments, _AT_ONCE)


def embed_audio(
  params: Params, segments: Float[np.ndarray, "s t mel"]
) -> Float[np.ndarray, "s a d"]:
  """Returns 6 vectors of each segment of normalised log-mel."""
  return in_chunks(functools.partial(encode_audio, params), segments, _AT_ONCE)


@jax.jit
def encode_video(
  params: Params, video: Float[Array, "b t y x 3"]
) -> Float[Array, "b v d"]:
  """Returns the vectors of each pair of frames."""
  p = _below(params, "vfeat_extractor")
  kernel = p["patch_embed_3d.proj.weight"]
  _, _, t, q, r = kernel.shape
  patches = rearrange(
    video, "b (f t) (h q) (w r) c -> b f (h w) (c t q r)", t=t, q=q, r=r
  )
  kernel = kernel.reshape(len(kernel), -1)
  x = _add(_dot(patches, kernel.T), p["patch_embed_3d.proj.bias"])
  x = _add(x, p["pos_embed"][0, 1:])
  x = _add(x, p["temp_embed"][0, : x.shape[1], None])
  first = p["cls_token"][0] + p["pos_embed"][0, :1]
  first = jnp.broadcast_to(first, (len(x), *first.shape))
  for i in range(_num_layers(p, "blocks.{}.norm1.weight")):
    first, x = _divided_block(_below(p, f"blocks.{i}"), first, x)
  x = _norm(p, "norm", x, 1e-6)
  frames = rearrange(x, "b f n d -> (b f) n d")
  x = _gather(_below(p, "spatial_attn_agg"), frames)
  x = rearrange(x, "(b f) d -> b f d", b=len(video))
  return _linear(params, "vproj", x)


def _divided_block(
  p: Params, first: Float[Array, "b 1 d"], x: Float[Array, "b f n d"]
) -> tuple[Float[Array, "b 1 d"], Float[Array, "b f n d"]]:
  """Returns the class token and the others after a block."""
  for norm, attention, over_time in (
    ("norm3", "timeattn", True),
    ("norm1", "attn", False),
  ):
    normed = (_norm(p, norm, y, 1e-6) for y in (first, x))
    a, b = _divided_attention(_below(p, attention), *normed, over_time)
    first, x = first + a, x + b

  def mlp(x):
    return x + _mlp(p, "mlp.fc1", "mlp.fc2", _norm(p, "norm2", x, 1e-6))

  return mlp(first), mlp(x)


def _divided_attention(
  p: Params, first: Array, x: Array, over_time: bool
) -> tuple[Array, Array]:
  """Returns attention of the class token to all, of others along an axis."""
  x = x.swapaxes(1, 2) if over_time else x
  _, rows, columns, _ = x.shape
  qkv_first = jnp.split(_linear(p, "qkv", first), 3, -1)
  qkv = jnp.split(_linear(p, "qkv", x), 3, -1)
  flat = [rearrange(y, "b r c d -> b (r c) d") for y in qkv]
  both = [jnp.concatenate(y, 1) for y in zip(qkv_first, flat, strict=True)]
  out_first = _attend(qkv_first[0], both[1], both[2], _HEADS)
  # Every row also sees the class token.
  queries, keys, values = (rearrange(y, "b r c d -> (b r) c d") for y in qkv)
  seen = (jnp.repeat(y, rows, 0) for y in qkv_first[1:])
  keys, values = (
    jnp.concatenate(y, 1) for y in zip(seen, (keys, values), strict=True)
  )
  out = _attend(queries, keys, values, _HEADS)
  out = rearrange(out, "(b r) c d -> b r c d", r=rows, c=columns)
  out = out.swapaxes(1, 2) if over_time else out
  return _linear(p, "proj", out_first), _linear(p, "proj", out)


@jax.jit
def encode_audio(
  params: Params, mel: Float[Array, "b t mel"]
) -> Float[Array, "b a d"]:
  """Returns the vectors of each column of patches."""
  p = _below(params, "afeat_extractor.ast")
  e = _below(p, "embeddings")
  x = jax.lax.conv_general_dilated(
    mel.transpose(0, 2, 1)[..., None],
    e["patch_embeddings.projection.weight"],
    (_AST_STRIDE, _AST_STRIDE),
    "VALID",
    dimension_numbers=("NHWC", "OIHW", "NHWC"),
    precision="highest",
  )
  b, f, t, d = x.shape
  x = _add(x, e["patch_embeddings.projection.bias"]).reshape(b, f * t, d)
  extra = jnp.concatenate([e["cls_token"], e["distillation_token"]], 1)
  x = jnp.concatenate([jnp.broadcast_to(extra, (b, 2, d)), x], 1)
  x = x + e["position_embeddings"][:, : 2 + f * t]
  layer = "encoder.layer.{}"
  for i in range(_num_layers(p, f"{layer}.output.dense.weight")):
    x = _ast_layer(_below(p, layer.format(i)), x)
  x = _norm(p, "layernorm", x, 1e-12)[:, 2:]
  x = rearrange(x, "b (f t) d -> (b t) f d", f=f)
  x = _gather(_below(params, "afeat_extractor.freq_attn_agg"), x)
  x = rearrange(x, "(b t) d -> b t d", b=b)
  return _linear(params, "aproj", x)


def _ast_layer(p: Params, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
  y = _norm(p, "layernorm_before", x, 1e-12)
  qkv = (
    _linear(p, f"attention.attention.{name}", y)
    for name in ("query", "key", "value")
  )
  x = x + _linear(p, "attention.output.dense", _attend(*qkv, _HEADS))
  y = _norm(p, "layernorm_after", x, 1e-12)
  return x + _mlp(p, "intermediate.dense", "output.dense", y)


def _gather(p: Params, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
  """Returns the token that PyTorch's TransformerEncoderLayer is given."""
  first = jnp.broadcast_to(p["cls_token"], (len(x), 1, x.shape[-1]))
  x = jnp.concatenate([first, x], 1)
  y = _norm(p, "norm1", x, 1e-6)
  qkv = _dot(y, p["self_attn.in_proj_weight"].T)
  qkv = _add(qkv, p["self_attn.in_proj_bias"])
  q, k, v = jnp.split(qkv, 3, -1)
  attended = _attend(q[:, :1], k, v, _HEADS)
  x = x[:, :1] + _linear(p, "self_attn.out_proj", attended)
  x = x + _mlp(p, "linear1", "linear2", _norm(p, "norm2", x, 1e-6))
  return x[:, 0]


@jax.jit
def classify(
  params: Params, video: Float[Array, "s v d"], audio: Float[Array, "s a d"]
) -> Float[Array, " classes"]:
  """Returns the logits of the offsets of 14 segments."""
  p = _below(params, "transformer")
  v = _norm(p, "vis_in_lnorm", rearrange(video, "s v d -> 1 (s v) d"), 1e-5)
  a = _norm(p, "aud_in_lnorm", rearrange(audio, "s a d -> 1 (s a) d"), 1e-5)
  x = jnp.concatenate([p["OFF_tok"], v, p["MOD_tok"], a], 1)
  x = x + p["pos_emb_cfg.pos_emb"][:, : x.shape[1]]
  for i in range(_num_layers(p, "blocks.{}.ln1.weight")):
    block = _below(p, f"blocks.{i}")
    y = _norm(block, "ln1", x, 1e-5)
    qkv = (_linear(block, f"attn.{n}", y) for n in ("query", "key", "value"))
    x = x + _linear(block, "attn.proj", _attend(*qkv, _SYNC_HEADS))
    x = x + _mlp(block, "mlp.0", "mlp.2", _norm(block, "ln2", x, 1e-5))
  return _linear(p, "off_head", _norm(p, "ln_f", x[:, 0], 1e-5))[0]


def _below(params: Mapping[str, Array], prefix: str) -> Params:
  """Returns the parameters whose names begin with the prefix, without it."""
  start = f"{prefix}."
  return {k[len(start) :]: x for k, x in params.items() if k.startswith(start)}


def _num_layers(params: Mapping[str, Array], name: str) -> int:
  """Returns for how many of 0, 1, ... there is a parameter of this name."""
  return next(i for i in itertools.count() if name.format(i) not in params)


def _dot(x: Array, kernel: Float[Array, "i o"]) -> Array:
  return jnp.dot(x, kernel, precision="highest")


def _add(x: Array, y: Array) -> Array:
  """Returns x + y, where y may lack the first axes of x."""
  return x + expand_like(y, x)


def _linear(p: Params, name: str, x: Array) -> Array:
  return _add(_dot(x, p[f"{name}.weight"].T), p[f"{name}.bias"])


def _mlp(p: Params, up: str, down: str, x: Array) -> Array:
  return _linear(p, down, jax.nn.gelu(_linear(p, up, x), approximate=False))


def _norm(p: Params, name: str, x: Array, epsilon: float) -> Array:
  x = normalize(x, epsilon)
  return _add(x * expand_like(p[f"{name}.weight"], x), p[f"{name}.bias"])


def _attend(
  q: Float[Array, "b n d"],
  k: Float[Array, "b m d"],
  v: Float[Array, "b m d"],
  heads: int,
) -> Float[Array, "b n d"]:
  q, k, v = (rearrange(x, "b n (h e) -> b n h e", h=heads) for x in (q, k, v))
  dot = functools.partial(jnp.einsum, precision="highest")
  weights = dot("bnhe,bmhe->bhnm", q * q.shape[-1] ** -0.5, k)
  out = dot("bhnm,bmhe->bnhe", jax.nn.softmax(weights, -1), v)
  return rearrange(out, "b n h e -> b n (h e)")
