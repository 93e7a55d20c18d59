"""Records in a bucket are those that the library reads on a disk."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from ccl_jax.data import records
from ccl_jax.data.bucket_records import BucketRecords
from ccl_jax.data.loader import Loader
from ccl_jax.storage import files
from tests import bucket, small_data

# Of blocks of 64 KiB: within one, over one and three, and at their edges.
LENGTHS = (5, 0, 70_000, 200_000, *range(65_400, 65_600, 7), 3)


def write(where, options="group_size:1,uncompressed", lengths=LENGTHS):
  rng = np.random.default_rng(0)
  made = [rng.bytes(length) for length in lengths]
  with files.replacing(where) as partial:
    file = ArrayRecordWriter(str(partial), options)
    for record in made:
      file.write(record)
    file.close()
  return made


def test_every_record_is_read():
  folder = bucket.make()
  made = write(folder / "a") + write(folder / "b", lengths=(7,))
  made += write(folder / "many", lengths=[11] * 20_000)  # a long footer
  write(folder / "none", lengths=())
  names = [f"{folder}/{name}" for name in ("a", "b", "many", "none")]
  found = BucketRecords(names)
  assert len(found) == len(made)
  assert all(bytes(x) == y for x, y in zip(found, made, strict=True))


def test_a_data_set_is_as_on_a_disk_and_nothing_is_copied(
  tmp_path, monkeypatch
):
  small_data.write(tmp_path / "data")
  where = bucket.make() / "data"
  for name in files.file_sizes(tmp_path / "data"):
    (where / name).write_bytes((tmp_path / "data" / name).read_bytes())
  read, cat = [], bucket.Bucket.cat_file

  def counted(self, path, start=None, end=None, **kwargs):
    data = cat(self, path, start=start, end=end, **kwargs)
    read.append(len(data))
    return data

  monkeypatch.setattr(bucket.Bucket, "cat_file", counted)
  split = records.open_split(where, "train")
  assert len(read) == 2 and max(read) < 2**17
  del read[:]
  example = split[3]
  assert (
    len(read) == 1
    and read[0]
    < 2 * sum(x.nbytes for x in example.values() if isinstance(x, np.ndarray))
    + 1000
  )
  loaders = [Loader(p, batch_size=4, num_threads=2) for p in (
    where, tmp_path / "data"
  )]  # fmt: skip
  for step in range(3):
    found, expected = (loader.batch_at(step) for loader in loaders)
    for name in expected:
      np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
  "kind", ["cut", "a block less", "compressed", "grouped", "other", "empty"]
)
def test_what_cannot_be_read_is_said(kind):
  path = bucket.make() / "a"
  options = {
    "compressed": "group_size:1,zstd", "grouped": "group_size:4,uncompressed"
  }  # fmt: skip
  write(path, options.get(kind, "group_size:1,uncompressed"))
  data = path.read_bytes()
  if kind == "cut":
    path.write_bytes(data[:-1000])
  if kind == "a block less":
    path.write_bytes(data[: -(2**16)])
  if kind in ("other", "empty"):
    path.write_bytes(b"x" * 100 * (kind == "other"))
  with pytest.raises(ValueError, match="cannot be read in its bucket"):
    [*BucketRecords([f"{path}"])]
