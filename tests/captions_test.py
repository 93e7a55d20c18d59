"""The command that writes captions from annotations."""

import json

import pytest

from tests.commands import call

TABLE = "clip,what\na.mp4,One.\nb.mp4,Two.\n"


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "clips").mkdir()
  (tmp_path / "clips" / "a.mp4").touch()
  (tmp_path / "table.csv").write_text(TABLE)
  return tmp_path


def captions(folder, *arguments, table="table.csv"):
  return call(
    "captions", f"--annotations={folder / table}",
    f"--clips={folder / 'clips'}", *arguments,
  )  # fmt: skip


def test_captions_are_written_once_for_what_is_there(folder):
  columns = "--columns=file=clip,text=what"
  status, text = captions(folder, columns)
  assert status == 0 and "1 of 2 present." in text, text
  written = folder / "clips" / "captions.jsonl"
  assert json.loads(written.read_text()) == {"file": "a.mp4", "text": "One."}
  status, text = captions(folder, columns)
  assert status == 2 and "--force" in text.splitlines()[-1]
  status, text = captions(folder, columns, "--force", "--strict")
  assert status == 2 and "Not there, for example: b.mp4" in text
  assert json.loads(written.read_text())["text"] == "One."


def test_annotations_and_folders_are_not_replaced(folder):
  before = (folder / "table.csv").read_text()
  for name in ("table.csv", "clips", "."):
    status, text = captions(
      folder, "--columns=file=clip,text=what", "--force",
      f"--output={folder / name}",
    )  # fmt: skip
    assert status == 2 and "the input" in text and text.count("\n") == 1
  assert (folder / "table.csv").read_text() == before


@pytest.mark.parametrize(
  ("arguments", "reason"),
  [
    (("--dataset=vgsound",), "Did you mean 'vggsound'"),
    ((), "Give one of --dataset and --columns"),
    (("--columns=fil=clip",), "Did you mean 'file'"),
    (("--columns=text=what",), "has no file=COLUMN"),
  ],
)
def test_wrong_flags_are_one_error(folder, arguments, reason):
  status, text = captions(folder, *arguments)
  assert status == 2 and reason in text.splitlines()[-1]
  assert "Traceback" not in text
  assert [x.name for x in (folder / "clips").iterdir()] == ["a.mp4"]
