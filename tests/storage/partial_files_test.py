"""What killed processes left is removed, and nothing else."""

import subprocess
import sys

import pytest

from ccl_jax.storage import files

# Begins a file and a folder, and waits.
PROGRAM = """
import pathlib, sys
from ccl_jax.storage import files
folder = pathlib.Path(sys.argv[1])
with files.replacing(folder / "a.mp4") as a, files.replacing(folder / "b") as b:
  a.write_text("half")
  b.mkdir()
  (b / "c").write_text("half")
  print("begun", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
  """A process that is in the middle of writing."""
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM, str(tmp_path / "out")],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == "begun\n"
  yield process
  process.kill()
  process.communicate()


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def write(path):
  with files.replacing(path) as partial:
    assert not partial.exists()
    partial.write_text("whole")


def test_what_a_killed_process_left_goes_when_the_next_one_writes(
  tmp_path, writer
):
  """Whatever the next one writes there, and in whichever other folder."""
  folder = tmp_path / "out"
  assert len(names(folder)) == 2
  writer.kill()
  writer.communicate()
  write(tmp_path / "elsewhere")
  assert len(names(folder)) == 2
  write(folder / "d.txt")
  assert names(folder) == ["d.txt"]


def test_what_may_be_of_a_living_process_stays(tmp_path, writer):
  """Also of another host, whose processes are not known here."""
  folder = tmp_path / "out"
  before = names(folder)
  host = before[0].split(".")[-3]
  (number,) = {name.split(".")[-2] for name in before}
  assert number == str(writer.pid)
  kept = [
    f".a.mp4.{host[::-1]}x.{2**30}.partial",  # no host's name
    f".a.mp4.00000000.{2**30}.partial",  # of another host
    f".a.mp4.{2**30}.partial",
    f"a.{host}.{2**30}.partial",
    f".a.{host}.1.partial",  # the first process, which is somebody else's
    ".hidden",
  ]
  dead = [f".a.mp4.{host}.{2**30}.partial", f".x.{host}.{2**99}.partial"]
  for name in (*kept, *dead):
    (folder / name).write_text("")
  write(folder / "a.mp4")
  assert names(folder) == sorted([*before, *kept, "a.mp4"])
  writer.communicate("")
  assert writer.returncode == 0
  assert names(folder) == sorted([*kept, "a.mp4", "b"])


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_number_is_used_again(tmp_path, is_folder):
  """As in containers, where each command may be process 7."""
  with files.replacing(tmp_path / "a") as partial:
    partial.mkdir()
  left = tmp_path / partial.name
  if is_folder:
    left.mkdir()
    (left / "half").write_text("")
  else:
    left.write_text("half")
  write(tmp_path / "b")
  with files.replacing(tmp_path / "a") as partial:
    assert partial == left and not left.exists()
    partial.mkdir()
  assert names(tmp_path) == ["a", "b"]
