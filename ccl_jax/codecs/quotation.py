"""Quotation marks in prompts: what stands between them is spoken.

Straight, curly, German, French and East Asian marks are known, also nested. A
mark for inches after a digit (a 6" pipe) and a mark that is never closed do not
count.
"""

from collections.abc import Sequence

# Opening mark -> what closes it; some open with what closes in English.
_CLOSING = {
  '"': '"',
  "\uff02": "\uff02",
  "\u201c": "\u201d",
  "\u201d": "\u201d",
  "\u201e": "\u201c\u201d",
  "\u201f": "\u201d",
  "\u00ab": "\u00bb",
  "\u00bb": "\u00ab\u00bb",
  "\u300c": "\u300d",
  "\u300e": "\u300f",
  "\u301d": "\u301e\u301f",
}
_MARKS = frozenset("".join([*_CLOSING, *_CLOSING.values()]))
_STRAIGHT = '"\uff02'
_AFTER_DIGIT = _STRAIGHT + "\u201d"  # marks that are written for inches
_INCHES = "\u2033"


def normalize_quotes(text: str) -> str:
  """Returns the text with '"' around what is spoken and nowhere else.

  Marks within others, and those that nothing closes, become "'"; inches become
  a double prime.

  >>> normalize_quotes("A \u201cred\u201d face.")
  'A "red" face.'
  """
  characters = list(text)
  marks = [i for i, mark in enumerate(text) if mark in _MARKS]
  opened: list[int] = []
  pairs: list[tuple[int, int]] = []
  for number, i in enumerate(marks):
    later = marks[number + 1 :]
    start = _find_opening(text, i, opened)
    characters[i] = "'"
    if _is_inches(text, i, later, start):
      characters[i] = _INCHES
    elif start is None or _is_nested(text, i, later, start, opened):
      if text[i] in _CLOSING:
        opened.append(i)
    else:
      del opened[opened.index(start) :]
      pairs.append((start, i))
  end = -1
  for start, stop in sorted(pairs):
    if start > end:  # not within another pair
      characters[start], characters[stop], end = '"', '"', stop
  return "".join(characters)


def _find_opening(text: str, i: int, opened: Sequence[int]) -> int | None:
  """Returns the last open mark that mark i can close."""
  closed = (start for start in opened[::-1] if text[i] in _CLOSING[text[start]])
  return next(closed, None)


def _is_inches(
  text: str, i: int, later: Sequence[int], start: int | None
) -> bool:
  """Returns whether mark i stands for inches.

  After a digit it does, unless it closes what began at `start`: then the next
  mark that is not after a digit, if any, does not look like a closing one.
  """
  if text[i] not in _AFTER_DIGIT or not _is_after_digit(text, i):
    return False
  others = (j for j in later if not _is_after_digit(text, j))
  following = next(others, None)
  is_closed_later = following is not None and _looks_closing(text, following)
  return start is None or is_closed_later


def _is_after_digit(text: str, i: int) -> bool:
  return text[:i][-1:].isnumeric()


def _is_nested(
  text: str,
  i: int,
  later: Sequence[int],
  start: int,
  opened: Sequence[int],
) -> bool:
  """Returns whether mark i opens a pair within the one begun at `start`.

  Only straight marks and German ones can: others differ from what closes.
  """
  is_german = text[start] + text[i] == "\u201e\u201c"
  if text[i] not in _STRAIGHT and not is_german:
    return False
  looks_opening = text[i - 1].isspace() and text[i + 1 : i + 2].isalnum()
  depth = sum(text[j] == text[start] for j in opened)
  closing = sum(text[j] in _CLOSING[text[start]] for j in later)
  return looks_opening and closing > depth


def _looks_closing(text: str, i: int) -> bool:
  return not text[i - 1].isspace() and not text[i + 1 : i + 2].isalnum()
