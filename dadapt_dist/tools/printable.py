"""Text from files, fit for any terminal."""


def printable(text: object) -> str:
    r"""A text in which letters that a terminal would obey are spelled out.

    Example:
        >>> printable("a\x1b[2J")
        'a\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in str(text))
