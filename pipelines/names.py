"""Names of files in messages."""


def printable(text: str) -> str:
    """Return a text with each character that a terminal does not print written as an escape, such as a line break."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
