"""Command-line options that take several words."""

__all__ = ["refuse_unknown", "words"]


def words(text):
    """Split words that are separated by commas or spaces."""
    return [word for word in text.replace(",", " ").split() if word]


def refuse_unknown(parser, option, given, allowed):
    """Exit with a usage error if a word is not allowed. `given` is None if the option was left out."""
    for word in given or ():
        if word not in allowed:
            parser.error(f"{option} {word}: use {', '.join(allowed)}")
