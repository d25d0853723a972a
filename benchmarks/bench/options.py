"""Options that take several words."""

__all__ = ["refuse_unknown", "words"]


def words(text):
    return [word for word in text.replace(",", " ").split() if word]


def refuse_unknown(parser, option, given, allowed):
    """Wrong usage if a word of the option is none of those allowed; the option may be left out (None)."""
    for word in given or ():
        if word not in allowed:
            parser.error(f"{option} {word}: use {', '.join(allowed)}")
