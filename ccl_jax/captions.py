r"""Writes captions.jsonl from the annotations of a data set:

    python -m ccl_jax.captions --dataset=vggsound --annotations=vggsound.csv \
        --clips=CLIPS [--output=CLIPS/captions.jsonl]

It covers the clips that are in the folder, and reports how many these are.
Annotations are a file as its authors publish it, or a folder of such files. For
any other table

    python -m ccl_jax.captions --annotations=list.parquet --clips=CLIPS \
        --columns=file=video_name,video=long_caption,start=begin

names the columns: on the left those of captions.jsonl (file, video, speech,
audio, text, split, start, end), on the right those of the table (csv, tsv,
jsonl, json or parquet).
"""

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.config import suggest
from ccl_jax.data.annotations.joining import check_output, join, write_rows
from ccl_jax.data.annotations.layouts import LAYOUTS, by_columns
from ccl_jax.data.encode.caption_files import COLUMNS

DATASET = flags.DEFINE_string(
  "dataset", None, f"Layout of the annotations: {', '.join(LAYOUTS)}."
)
COLUMN_NAMES = flags.DEFINE_list(
  "columns", [], "Instead of --dataset: pairs such as file=NAME,video=TEXT."
)
ANNOTATIONS = flags.DEFINE_string(
  "annotations", None, "File or folder of annotations."
)
CLIPS = flags.DEFINE_string("clips", None, "Folder of the clips.")
OUTPUT = flags.DEFINE_string(
  "output", None, "File to write; by default captions.jsonl in --clips."
)
FORCE = flags.DEFINE_bool("force", False, "Replace an --output that exists.")
STRICT = flags.DEFINE_bool(
  "strict", False, "Refuse annotations of clips that are not there."
)


def main() -> None:
  """Writes the captions of the flags."""
  output = OUTPUT.value or epath.Path(CLIPS.value) / "captions.jsonl"
  check_output(output, ANNOTATIONS.value, CLIPS.value, force=FORCE.value)
  joined = join(read_annotations(), CLIPS.value)
  if not joined.total:
    raise ValueError(f"{ANNOTATIONS.value}: it has no annotations.")
  if not joined.rows or (STRICT.value and joined.absent):
    raise ValueError(f"{CLIPS.value}: {joined}")
  write_rows(output, joined.rows)
  print(f"{joined}\nWrote {output}.")


def read_annotations():
  """Returns the annotations; ValueError for a wrong --dataset or --columns."""
  if bool(DATASET.value) == bool(COLUMN_NAMES.value):
    raise ValueError("Give one of --dataset and --columns.")
  path = epath.Path(ANNOTATIONS.value)
  if DATASET.value:
    if DATASET.value not in LAYOUTS:
      raise ValueError(
        f"Unknown --dataset={DATASET.value}.{suggest(DATASET.value, LAYOUTS)}"
        f" Known are {', '.join(LAYOUTS)}; for others give --columns."
      )
    return LAYOUTS[DATASET.value](path)
  columns = {}
  for pair in COLUMN_NAMES.value:
    ours, equals, theirs = (part.strip() for part in pair.partition("="))
    if not equals or not theirs or ours not in COLUMNS or ours in columns:
      raise ValueError(
        f"--columns has {pair!r}: expected NAME=COLUMN, each NAME once, of"
        f" {', '.join(COLUMNS)}.{suggest(ours, COLUMNS)}"
      )
    columns[ours] = theirs
  if "file" not in columns:
    raise ValueError("--columns has no file=COLUMN, which names the clips.")
  return by_columns(path, columns)


if __name__ == "__main__":
  command.run(main, ("annotations", "clips"))
