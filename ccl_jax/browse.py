"""Writes a page that shows a data set, to be opened in any browser:

    python -m ccl_jax.browse --data=LATENTS [--output=LATENTS/browse.html]

The page shows the frames and the log-mel of each clip, decoded by the codecs,
and its caption, and finds clips by words. It is one file and needs no server.
"""

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.data.gallery import write_gallery
from ccl_jax.data.scores import table

DATA = flags.DEFINE_string("data", None, "Folder of encoded clips.")
OUTPUT = flags.DEFINE_string(
  "output", None, "File to write; by default browse.html in --data."
)
SPLITS = flags.DEFINE_list("splits", [], "Splits to show; all if unset.")
NUM = flags.DEFINE_integer(
  "num", 10_000, "Clips to show, at most, evenly chosen.", lower_bound=1
)
FRAMES = flags.DEFINE_integer(
  "frames", 6, "Frames of each clip.", lower_bound=1
)
HEIGHT = flags.DEFINE_integer(
  "height", 64, "Height of a frame in pixels.", lower_bound=8
)
SCORES = flags.DEFINE_string(
  "scores", None, "File of ccl_jax.filter, whose scores are shown and searched."
)


def main() -> None:
  """Writes the page of the flags."""
  output = OUTPUT.value or epath.Path(DATA.value) / "browse.html"
  num = write_gallery(
    DATA.value,
    output,
    splits=tuple(SPLITS.value),
    num=NUM.value,
    frames=FRAMES.value,
    height=HEIGHT.value,
    scores=table.read_scores(SCORES.value) if SCORES.value else None,
  )
  print(f"Wrote {num} clips to {output}.")


if __name__ == "__main__":
  command.run(main, ("data",))
