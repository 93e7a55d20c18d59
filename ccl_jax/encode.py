"""Encodes a folder of clips into latents, ready for training.

    python -m ccl_jax.encode --input=DIR --output=DIR \
        --config=configs/ccl.py:size=tiny [--config.encode.fps=25]

`data.encode.dataset` describes what is made of a clip. Codecs are fitted on
some of the clips, unless --codecs names those of another data set (DIR/codecs),
or they are learned ones, --config.encode.codec=wan, whose files are named by
--config.encode.weights.video=FILE and so on for audio, vocoder, text, tokenizer
and, if the model is to read CLIP's tokens of an image, image. The same command
goes on where it was interrupted. On several hosts each encodes a part: give all
of them the same command, with --distributed.

    python -m ccl_jax.encode --decode --input=LATENTS --output=DIR [--num=8]

turns latents back into mp4, to look at.
"""

import jax
from absl import flags
from ml_collections import config_flags

from ccl_jax import command, distributed
from ccl_jax.codecs import converted_weights
from ccl_jax.codecs.api import Codecs, make
from ccl_jax.config import build
from ccl_jax.data.decoding import decode_records
from ccl_jax.data.encode.dataset import encode
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.distributed import ShardOptions
from ccl_jax.files import absolute
from ccl_jax.sharding import ONE_DEVICE, Layout, make_mesh

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
INPUT = flags.DEFINE_string("input", None, "Folder of clips, or of latents.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
CAPTIONS = flags.DEFINE_string("captions", None, "Captions outside --input.")
CODECS = flags.DEFINE_string("codecs", None, "Codecs of another data set.")
FORCE = flags.DEFINE_bool("force", False, "Replace an existing --output.")
DECODE = flags.DEFINE_bool("decode", False, "Latents to clips instead.")
SPLIT = flags.DEFINE_string("split", "train", "What to decode.")
NUM = flags.DEFINE_integer("num", 8, "How many to decode.", lower_bound=1)
DISTRIBUTED = flags.DEFINE_string(
  "distributed", "off", "off, auto, or HOST:PORT,PROCESSES,INDEX."
)

# What encode.weights names, and which model that is.
LEARNED = {
  "video": "wan_vae",
  "audio": "mmaudio",
  "vocoder": "bigvgan",
  "text": "umt5",
  "image": "clip",
}
OPTIONAL = ("image",)


def main() -> None:
  """Reads the flags."""
  if DECODE.value:
    names = decode_records(
      INPUT.value, OUTPUT.value, SPLIT.value, NUM.value, force=FORCE.value
    )
    print(f"Decoded {len(names)} clips into {OUTPUT.value}.")
    return
  if CONFIG.value is None:
    raise ValueError("--config says how to encode: configs/ccl.py:size=tiny.")
  settings = build(
    EncodeSettings, CONFIG.value.encode.to_dict(), "config.encode"
  )
  share = distributed.initialize(DISTRIBUTED.value)
  layout = ONE_DEVICE if settings.codec == "linear" else local_layout()
  summary = encode(
    INPUT.value,
    OUTPUT.value,
    settings,
    captions=CAPTIONS.value,
    codecs=given_codecs(settings, layout, share),
    force=FORCE.value,
    layout=layout,
    share=share,
  )
  if share.is_lead:
    print(summary)
  distributed.shutdown()


def local_layout() -> Layout:
  """Rows over all of this process's devices."""
  mesh = make_mesh(jax.local_devices())
  rules = ((".*", (("data", "fsdp"),)),)
  return Layout(mesh if mesh.size > 1 else None, activations=rules)


def given_codecs(
  settings: EncodeSettings, layout: Layout, share: ShardOptions
) -> Codecs | None:
  """Those of --codecs, or learned ones; None if they are to be fitted.

  Raises:
    ValueError: weights that are not there, or of other sizes than the settings.
  """
  if CODECS.value:
    return Codecs.load(CODECS.value, layout)
  if settings.codec == "linear":
    return None
  paths = {name: path for name, path in settings.weights.items() if path}
  needed = [n for n in (*LEARNED, "tokenizer") if n not in OPTIONAL]
  absent = [name for name in needed if name not in paths]
  if absent:
    raise ValueError(
      f"encode.codec='{settings.codec}' needs files:"
      f" --config.encode.weights.{absent[0]}=FILE ({', '.join(absent)})."
    )
  from ccl_jax.convert.codecs import open_weights

  for name, model in LEARNED.items():
    if name not in paths:
      continue
    if share.shard_count > 1 and not converted_weights.exists(paths[name]):
      raise ValueError(
        f"encode.weights.{name}={paths[name]}: several processes need it"
        " converted before (python -m ccl_jax.convert from-torch)."
      )
    paths[name] = open_weights(model, paths[name])
  # So that they are found from wherever the codecs are opened next.
  paths = {name: str(absolute(path)) for name, path in paths.items()}
  video = {"weights": paths["video"], **settings.video_options}
  audio = {
    "weights": paths["audio"],
    "vocoder": paths["vocoder"],
    **settings.audio_options,
  }
  text = {
    "weights": paths["text"],
    "tokenizer": paths["tokenizer"],
    "max_length": settings.text_length,
  }
  image = None
  if "image" in paths:
    image = make("clip", layout, {"weights": paths["image"]})
  codecs = Codecs(
    make("wan_video", layout, video),
    make("mmaudio", layout, audio),
    make("umt5", layout, text),
    image,
  )
  settings.check(codecs)
  return codecs


if __name__ == "__main__":
  command.run(main, ("input", "output"))
