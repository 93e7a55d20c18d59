"""Encodes a folder of clips into latents, ready for training.

    python -m ccl_jax.encode --input=DIR --output=DIR \
        --config=configs/ccl.py:size=tiny [--config.encode.fps=25]

What is made of a clip is told in `data.encoding`. Codecs are fitted on some of
the clips, unless --codecs names fitted ones (another data set's DIR/codecs).
"""

from absl import flags
from ml_collections import config_flags

from ccl_jax import command
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.config import build
from ccl_jax.data.encoding import EncodeSettings, encode

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
INPUT = flags.DEFINE_string("input", None, "Folder of clips.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of records, to be made.")
CAPTIONS = flags.DEFINE_string("captions", None, "Captions outside --input.")
CODECS = flags.DEFINE_string("codecs", None, "Fitted codecs to use.")
FORCE = flags.DEFINE_bool("force", False, "Replace an existing --output.")


def main() -> None:
  """Reads the flags."""
  settings = build(
    EncodeSettings, CONFIG.value.encode.to_dict(), "config.encode"
  )
  summary = encode(
    INPUT.value,
    OUTPUT.value,
    settings,
    captions=CAPTIONS.value,
    codecs=CODECS.value and Codecs.load(CODECS.value),
    force=FORCE.value,
  )
  print(summary)


if __name__ == "__main__":
  command.run(main, ("config", "input", "output"))
