"""What is wrong with a command line, in the words of the person who wrote it."""

from __future__ import annotations

import re

from tunemesh.shared.text import nearest

_INVALID = re.compile(r"Invalid value for (?P<who>.*?): (?:Value error, )?(?P<what>.*)", re.DOTALL)
_SAID = (
    (re.compile(r"Input should be a valid integer.*", re.DOTALL), "must be a whole number"),
    (re.compile(r"Input should be a valid number.*", re.DOTALL), "must be a number"),
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"must be at least \1"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"must be at most \1"),
)
_MISSING = re.compile(r"Missing (?:argument|option|parameter):? '(?P<who>.*?)'\.?", re.DOTALL)
_MORE = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((?P<what>.*)\)", re.DOTALL)
_CHOICE = re.compile(r"'(?P<given>.*)' is not one of (?P<known>'.*')\.?")


def in_words(text: str) -> str:
    """A complaint of the library that reads the command line, as a person would say it."""
    if missing := _MISSING.fullmatch(text):
        return f"{missing['who']} is missing: --help says what it is"
    if more := _MORE.fullmatch(text):
        return f"{more['what']} is more than the command takes: --help says what it does"
    invalid = _INVALID.fullmatch(text)
    if invalid is None:
        return text
    who, what = invalid["who"].split(" / ")[-1].strip("'"), invalid["what"]
    for pattern, words in _SAID:
        if pattern.fullmatch(what):
            return f"{who} {pattern.sub(words, what)}"
    if choice := _CHOICE.fullmatch(what):
        known = re.findall(r"'([^']*)'", choice["known"])
        listed = " or ".join([", ".join(known[:-1]), known[-1]] if len(known) > 1 else known)
        return f"{who} must be {listed}, not {choice['given']!r}{nearest(choice['given'], known)}"
    return text
