"""Prompts -> token ids, by the user's own `spiece.model` or `tokenizer.json`.

A prompt is first cleaned as in Wan: broken unicode is repaired, HTML entities
are decoded (twice, as some captions are escaped twice), and white space becomes
one blank. The last id is always the end token, `</s>`.
"""

import dataclasses
import html
import re
from collections.abc import Callable

import ftfy
import sentencepiece
import tokenizers
from etils import epath

END = "</s>"
NAMES = ("tokenizer.json", "spiece.model")


def clean(text: str) -> str:
  """Returns the prompt, cleaned as for the training of Wan."""
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return re.sub(r"\s+", " ", text.strip()).strip()


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Prompt -> ids; made by `open_tokenizer`.

  Attributes:
    tokenize: cleaned text -> ids, without the end token.
    end: id of `</s>`.
    size: of the vocabulary.
  """

  tokenize: Callable[[str], list[int]]
  end: int
  size: int

  def __call__(self, text: str, max_length: int | None = None) -> list[int]:
    """Returns at most `max_length` ids, the last of them `</s>`."""
    ids = self.tokenize(clean(text))
    if max_length is not None:
      ids = ids[: max_length - 1]
    return [*ids, self.end]


def open_tokenizer(path: epath.PathLike) -> Tokenizer:
  """Opens a `.model` or `.json` file, or a folder with one.

  Raises:
    ValueError: no such file, one of another format, or one without `</s>`.
  """
  path = _find(epath.Path(path))
  openers = {
    ".model": ("sentencepiece", _sentencepiece),
    ".json": ("tokenizers", _tokenizers),
  }
  if path.suffix not in openers:
    raise ValueError(
      f"{path} is no tokenizer: expected {' or '.join(NAMES)}, or a folder"
      " with one."
    )
  library, read = openers[path.suffix]
  try:
    tokenizer = read(path.read_bytes())
  except Exception as error:  # Both libraries raise bare Exceptions.
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(
      f"{path} cannot be read as a file of the {library} library ({reason})."
      " Download it again."
    ) from error
  if tokenizer.end < 0:
    raise ValueError(f"{path} has no token {END}: not a tokenizer of umT5.")
  return tokenizer


def _find(path: epath.Path) -> epath.Path:
  if not path.exists():
    raise ValueError(f"The tokenizer {path} does not exist.")
  if not path.is_dir():
    return path
  found = [path / name for name in NAMES if (path / name).exists()]
  if not found:
    raise ValueError(f"The folder {path} holds none of {', '.join(NAMES)}.")
  return found[0]


def _sentencepiece(data: bytes) -> Tokenizer:
  model = sentencepiece.SentencePieceProcessor(model_proto=data)
  end = model.piece_to_id(END)
  is_end = model.id_to_piece(end) == END  # An unknown token has an id too.
  return Tokenizer(model.encode, end if is_end else -1, model.get_piece_size())


def _tokenizers(data: bytes) -> Tokenizer:
  model = tokenizers.Tokenizer.from_buffer(data)
  model.no_padding()
  model.no_truncation()
  end = model.token_to_id(END)

  def tokenize(text: str) -> list[int]:
    return model.encode(text, add_special_tokens=False).ids

  return Tokenizer(tokenize, -1 if end is None else end, model.get_vocab_size())
