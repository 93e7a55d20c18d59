"""The stages of generation, as functions of a pipeline's components.

    embed            prompts -> text embeddings
    encode_inputs    image, sound or video -> latents
    sample           embeddings, latents and seeds -> latents
    decode           latents -> pixels and sound

`Pipeline.generate` orders them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.array_types import Array, Image, State
from ccl_jax.codecs.image_condition import make_image, stack_images
from ccl_jax.data import decoding, records
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.diffusion import flow, guidance
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.diffusion.tasks import InferenceTask
from ccl_jax.generation.components import Components
from ccl_jax.generation.sampling import AttentionProbe, sample_latents
from ccl_jax.generation.sampling_config import SamplingConfig


class EncodedInputs(NamedTuple):
  """Inputs of samples as the model reads them.

  Attributes:
    latents: of a reference stream, or of the first frame of the video.
    image: for models with image conditioning, in place of a first frame; or a
      reference picture.
  """

  latents: State
  image: Image | None = None


def check_prompt(components: Components, prompt: str) -> None:
  """Raises ValueError if a prompt has more tokens than the model reads."""
  text = components.codecs.text
  if (found := text.num_tokens(prompt)) > text.max_length:
    raise ValueError(
      f"the prompt '{prompt[:40]}...' has {found} tokens; this model reads"
      f" {text.max_length}: shorten it."
    )


def embed(
  components: Components, prompts: Sequence[str]
) -> Float[np.ndarray, "b l d"]:
  """Embeds prompts, padded with zeros to the encoder's length."""
  text = components.codecs.text
  return np.stack(
    [records.pad(x, text.max_length) for x in text.encode_all(prompts)]
  )


def encode_inputs(
  components: Components, inputs: Mapping[str, Sequence[np.ndarray]]
) -> EncodedInputs:
  """Encodes the inputs of a batch.

  Args:
    inputs: "image" (y, x, 3), "audio" (s,), "video" (t, y, x, 3), "picture"
      (y, x, 3), one of each sample, in the model's size, rate and length. An
      image is the first frame, a picture a reference.

  Raises:
    ValueError: an input of another shape.
  """
  shape, codecs = components.shape, components.codecs
  shape.check(codecs, inputs.get("video", ()), inputs.get("audio", ()))
  latents, image = {}, None
  if "video" in inputs:
    latents["video"] = codecs.video.encode(np.stack(inputs["video"]))
  if "image" in inputs:
    images = stack_images(inputs["image"], shape.size)
    first, image = encode_first_frame(components, images)
    latents |= first
  if "picture" in inputs:
    pictures = stack_images(inputs["picture"], shape.size)
    image = _as_references(codecs.video.encode(pictures[:, None]))
  if "audio" in inputs:
    encoded = codecs.audio.encode(np.stack(inputs["audio"]))
    m, _ = components.latent_shapes["audio"]
    latents["audio"] = np.stack([records.pad(x, m) for x in encoded])
  return EncodedInputs(latents, image)


def encode_first_frame(
  components: Components, images: UInt8[np.ndarray, "b y x 3"]
) -> EncodedInputs:
  """Encodes first frames, as an `Image` if the model reads one."""
  reads, codecs = components.plan.image_conditioning, components.codecs
  if not any(reads.values()):
    return EncodedInputs({"video": codecs.video.encode(images[:, None])})
  frames = components.shape.frames
  return EncodedInputs({}, make_image(images, codecs, frames, **reads))


def _as_references(latents: Float[np.ndarray, "b r h w c"]) -> Image:
  """Returns the condition of r reference pictures of each sample."""
  has = np.ones(latents.shape[:2], bool)
  return Image(references=latents, has_references=has)


def use_latents(
  components: Components, task: InferenceTask, latents: Mapping[str, Any]
) -> EncodedInputs:
  """Returns inputs that are latents already as the model reads them."""
  if task.first_frame and any(components.plan.image_conditioning.values()):
    frames = components.codecs.video.decode(latents["video"])[:, 0]
    return encode_first_frame(components, frames)
  latents = dict(latents)
  picture = latents.pop("picture", None)
  image = None if picture is None else _as_references(picture)
  return EncodedInputs(latents, image)


def sample(
  components: Components,
  task: InferenceTask,
  text: Float[np.ndarray, "b l d"],
  negative: Float[np.ndarray, "*b l d"],
  inputs: EncodedInputs,
  seeds: Sequence[int],
  sampling: SamplingConfig | None = None,
  probe: AttentionProbe | None = None,
) -> tuple[State, dict[str, Array]]:
  """Samples latents; sample i's noise is drawn from its own seed.

  Args:
    negative: embedded negative prompt of each sample, or of all.
    probe: steps and layers whose cross-modal attention is returned too.

  Returns:
    stream -> latents (b, ...), reference streams included; and the shares of
    `sample_latents`, (b, steps, layers, ...).
  """
  sampling = sampling or components.sampling
  num, layout = len(text), components.plan.layout
  # A mesh needs a multiple of its shards: repeat the last sample.
  rows = np.minimum(np.arange(num + -num % layout.batch_shards()), num - 1)
  keys = jax.vmap(jax.random.key)(jnp.asarray(list(seeds), jnp.uint32))
  shapes = components.latent_shapes
  noise = flow.draw_noise(keys[rows], {s: shapes[s] for s in task.streams})
  inputs = jax.tree.map(lambda x: jnp.asarray(x)[rows], inputs)
  variants = guidance.rule(sampling.guidance).variants
  needs_null = any(variant.other == "null" for variant in variants)
  condition = Condition(
    text=text[rows],
    negative=np.broadcast_to(negative, text.shape)[rows],
    image=inputs.image,
    null=components.null_latents if needs_null else None,
  )
  latents, shares = sample_latents(
    components.load_params(), noise, inputs.latents, condition,
    graph=components.plan.graph, task=task, sampling=sampling, layout=layout,
    probe=probe, on_step=components.on_step,
  )  # fmt: skip
  shares = {s: jnp.moveaxis(x, 2, 0)[:num] for s, x in shares.items()}
  return {s: x[:num] for s, x in latents.items()}, shares


def decode(
  components: Components, latents: Mapping[str, Any]
) -> list[GeneratedClip]:
  """Decodes latents to pixels and sound, cut to the video's length."""
  latents = {s: np.asarray(x) for s, x in latents.items()}
  return decoding.decode_clips(latents, components.codecs, components.shape)
