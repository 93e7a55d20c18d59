r"""Encodes a folder of clips into latents, ready for training:

    python -m ccl_jax.encode --input=CLIPS --output=LATENTS \
        --config=configs/ccl.py:size=tiny [--config.encode.fps=25]

`data.encode.dataset` describes the result. By default, linear codecs are fitted
on some of the clips; --config.encode.codec=conv also trains a net to decode.
--codecs takes those of another data set (LATENTS/codecs). The published codecs
are --config.encode.codec=wan, with files named by
--config.encode.weights.{video,audio,vocoder,text,tokenizer}=FILE and, for
models that read CLIP's tokens of an image, image. The same command resumes.
Started on several hosts with --distributed, each encodes a part.

    python -m ccl_jax.encode --decode --input=LATENTS --output=DIR [--num=8]

decodes latents into mp4, to look at.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command
from ccl_jax.codecs import converted_weights
from ccl_jax.codecs.api import Codecs, make_codec
from ccl_jax.config import build
from ccl_jax.data.decoding import decode_records
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.dataset import encode_dataset
from ccl_jax.data.encode.settings import FITTED, EncodeSettings
from ccl_jax.data.scores import table
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh
from ccl_jax.processes import distributed
from ccl_jax.processes.distributed import ShardOptions
from ccl_jax.storage.files import absolute, check_apart

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
INPUT = flags.DEFINE_string(
  "input",
  None,
  "Folder of clips, or of tars of them; with --decode, of latents.",
)
OUTPUT = flags.DEFINE_string(
  "output", None, "Folder to make, local or in a bucket (gs://...)."
)
CAPTIONS = flags.DEFINE_string(
  "captions", None, "File of captions; by default captions.jsonl, .csv and"
  " others in --input.",
)  # fmt: skip
STRICT = flags.DEFINE_bool(
  "strict", False, "Refuse captions of files that are not in --input."
)
KEEP = flags.DEFINE_string(
  "keep", None, "Condition on the scores of clips that are encoded, such as"
  " 'static < 0.9 and lufs > -40'; see python -m ccl_jax.filter.",
)  # fmt: skip
SCORES = flags.DEFINE_string(
  "scores", None, "File of scores for --keep; scores.jsonl in --input if unset."
)
CODECS = flags.DEFINE_string(
  "codecs", None, "Folder of another data set's codecs to encode with."
)
FORCE = flags.DEFINE_bool(
  "force", False, "Replace an --output that this command wrote."
)
DECODE = flags.DEFINE_bool(
  "decode", False, "Decode latents into clips instead."
)
SPLIT = flags.DEFINE_string("split", "train", "Split to decode.")
NUM = flags.DEFINE_integer("num", 8, "Clips to decode, at most.", lower_bound=1)
DISTRIBUTED = command.define_distributed()

# Keys of encode.weights and the model that each file holds.
LEARNED = {
  "video": "wan_vae",
  "audio": "mmaudio",
  "vocoder": "bigvgan",
  "wav2vec2": "wav2vec2",
  "text": "umt5",
  "image": "clip",
}


def main() -> None:
  """Encodes or decodes the folder of the flags."""
  check_apart(OUTPUT.value, INPUT.value, CAPTIONS.value, SCORES.value)
  if DECODE.value:
    names = decode_records(
      INPUT.value, OUTPUT.value, SPLIT.value, NUM.value, force=FORCE.value
    )
    print(f"Decoded {len(names)} clips into {OUTPUT.value}.")
    return
  if CONFIG.value is None:
    raise ValueError(
      "--config is missing: expected one such as configs/ccl.py:size=tiny."
    )
  settings = build(
    EncodeSettings, CONFIG.value.encode.to_dict(), "config.encode"
  )
  if CONFIG.value.model.video is not None:
    settings.check_patch(CONFIG.value.model.video.patch)
  share = distributed.initialize(DISTRIBUTED.value)
  layout = ONE_DEVICE if settings.codec in FITTED else local_layout()
  summary = encode_dataset(
    INPUT.value,
    OUTPUT.value,
    settings,
    captions=CAPTIONS.value,
    strict=STRICT.value,
    keep=make_filter(),
    codecs=open_codecs(settings, layout, share),
    force=FORCE.value,
    layout=layout,
    share=share,
  )
  if share.is_lead:
    print(summary)
  distributed.shutdown()


def make_filter() -> Callable[[list[ClipFile]], list[ClipFile]] | None:
  """Returns what chooses clips by --keep; None without it."""
  if KEEP.value is None:
    return None
  path = SCORES.value or epath.Path(INPUT.value) / table.FILE
  scores = table.read_scores(path)

  def choose(clip_files: list[ClipFile]) -> list[ClipFile]:
    kept = table.keep(clip_files, KEEP.value, scores)
    if not kept:
      raise ValueError(
        f"--keep: none of {len(clip_files)} clips meets the condition; loosen"
        " it, see ccl_jax.filter."
      )
    return kept

  return choose


def local_layout() -> Layout:
  """Returns a layout that splits batches over this process's devices."""
  mesh = make_mesh(jax.local_devices())
  rules = ((".*", (("data", "fsdp"),)),)
  return Layout(mesh if mesh.size > 1 else None, activations=rules)


def open_codecs(
  settings: EncodeSettings, layout: Layout, share: ShardOptions
) -> Codecs | None:
  """Opens the codecs of --codecs or learned ones; None if they are fitted.

  Raises:
    ValueError: weights that do not exist, or of other sizes than the settings.
  """
  if CODECS.value:
    return Codecs.load(CODECS.value, layout)
  if settings.codec in FITTED:
    return None
  paths = find_weights(settings, share)

  def make(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    return make_codec(kind, layout, {"weights": paths[name]} | options)

  text = {"tokenizer": paths["tokenizer"], "max_length": settings.text_length}
  image = make("clip", "image", {}) if "image" in paths else None
  video = make("wan_video", "video", settings.video_options)
  if "wav2vec2" in paths:
    audio = make("wav2vec2", "wav2vec2", {})
  else:
    vocoder = {"vocoder": paths["vocoder"]}
    audio = make("mmaudio", "audio", vocoder | settings.audio_options)
  codecs = Codecs(video, audio, make("umt5", "text", text), image)
  settings.check(codecs)
  return codecs


def find_weights(
  settings: EncodeSettings, share: ShardOptions
) -> dict[str, str]:
  """Returns the absolute paths of encode.weights, converted where needed.

  Raises:
    ValueError: one that is missing, one too many, or one that is not converted.
  """
  paths = {name: path for name, path in settings.weights.items() if path}
  sound = ["audio", "vocoder"]
  if "wav2vec2" in paths:  # in place of what can be decoded
    if more := [name for name in sound if name in paths]:
      raise ValueError(
        f"encode.weights has wav2vec2 and {', '.join(more)}: expected"
        " wav2vec2, for models that sound controls, or audio and vocoder."
      )
    sound = ["wav2vec2"]
  needed = ["video", *sound, "text", "tokenizer"]
  if missing := [name for name in needed if name not in paths]:
    raise ValueError(
      f"encode.codec='{settings.codec}' needs files:"
      f" --config.encode.weights.{missing[0]}=FILE ({', '.join(missing)})."
    )
  from ccl_jax.convert.codecs import open_weights

  for name in [each for each in LEARNED if each in paths]:
    if share.shard_count > 1 and not converted_weights.exists(paths[name]):
      raise ValueError(
        f"encode.weights.{name}={paths[name]}: several processes need it"
        " converted before (python -m ccl_jax.convert from-torch)."
      )
    paths[name] = open_weights(LEARNED[name], paths[name])
  # Absolute, so that they are found from any working directory.
  return {name: str(absolute(path)) for name, path in paths.items()}


if __name__ == "__main__":
  command.run(main, ("input", "output"))
