"""What is spoken in a prompt, whatever its quotation marks are."""

import pytest

from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.quotation import normalize_quotes


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("", ""),
    ("A man.", "A man."),
    ('A man. "Hi!" Wind.', 'A man. "Hi!" Wind.'),
    ('" a , b " c', '" a , b " c'),
    ('"Hello, " she said, "bye."', '"Hello, " she said, "bye."'),
    # Other marks.
    ("“Hi” and “yo”", '"Hi" and "yo"'),
    ("„Hallo“ sagt er, „gut“", '"Hallo" sagt er, "gut"'),
    ("»Hej« og «oui»", '"Hej" og "oui"'),
    ("”Hej” säger", '"Hej" säger'),
    ("»Hej» vind", '"Hej" vind'),
    ("»Ja« und »nein« »Hej» «oui»", '"Ja" und "nein" "Hej" "oui"'),
    ("「はい」と『いいえ』", '"はい"と"いいえ"'),
    ("\uff02Hi\uff02 he", '"Hi" he'),
    # Nested ones.
    ("“He said “yes” loudly” end", "\"He said 'yes' loudly\" end"),
    ('"He said "yes" loudly" end', "\"He said 'yes' loudly\" end"),
    ("«Il dit «non» fort» fin", "\"Il dit 'non' fort\" fin"),
    ('“He said "yes" loudly” end', "\"He said 'yes' loudly\" end"),
    ("He\u2019s “John\u2019s”", 'He\u2019s "John\u2019s"'),
    ("„Hallo “Welt” da“ Wind", "\"Hallo 'Welt' da\" Wind"),
    ("„Hallo “sagt er", '"Hallo "sagt er'),
    # Inches.
    ('"call 911" shouted a man 6" away', '"call 911" shouted a man 6″ away'),
    ('A 6" pipe says "2" loudly 3" away', 'A 6″ pipe says "2" loudly 3″ away'),
    ('A 6" pipe falls.', "A 6″ pipe falls."),
    ("A 6” pipe falls.", "A 6″ pipe falls."),
    ('A 6" pipe. "Mind the 4" gap!" he says.',
     'A 6″ pipe. "Mind the 4″ gap!" he says.'),
    ('"a 6" by 4" board" he says', '"a 6″ by 4″ board" he says'),
    ('A 5\'6" man says "Hi 6"', 'A 5\'6″ man says "Hi 6"'),
    ('"Exit 6" and "Exit 7" signs', '"Exit 6" and "Exit 7" signs'),
    ('"16","17" he counts', '"16","17" he counts'),
    # What nothing closes.
    ('He said "hello', "He said 'hello"),
    ('He said “hello and "x" y', "He said 'hello and \"x\" y"),
    ("Hello” he said", "Hello' he said"),
  ],
)  # fmt: skip
def test_straight_marks_stand_around_what_is_spoken_only(text, expected):
  assert normalize_quotes(text) == expected
  assert normalize_quotes(expected) == expected


def test_inches_do_not_make_speech_of_what_follows():
  text = HashedText(width=16, max_length=20)
  inches, plain = (
    text.encode('a 6" pipe falls'),
    text.encode("a 6 , pipe falls"),
  )
  assert (inches[3:] == plain[3:]).all()
