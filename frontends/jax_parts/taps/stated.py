"""What a step says of its settings while it is traced, for the run to state."""


class Stated:
    """Settings by name, each with all the texts that were said of it.

    A jitted step is traced once, and what it said then holds for the whole run.
    """

    def __init__(self):
        self._texts: dict[str, set[str]] = {}

    def say(self, name: str, text: str) -> None:
        """Adds a text to those of a setting."""
        self._texts.setdefault(name, set()).add(text)

    def texts(self) -> dict[str, str]:
        """The settings, each with its texts in one; ``off`` where that is all."""
        return {
            name: " and ".join(sorted(texts - {"off"} or texts))
            for name, texts in self._texts.items()
        }
