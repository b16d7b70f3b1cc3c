"""What a step says of its settings while it is traced, for the run to state."""

from ttrace.ir.module_code import code_key
from ttrace.ir.module_settings import of_layers
from ttrace.recording.source_code import code_text


class Stated:
    """Settings by name, each with all the texts that were said of it.

    A jitted step is traced once, and what it said then holds for the whole run.
    """

    def __init__(self):
        self._texts: dict[str, set[str]] = {}
        self._code: dict[str, str] = {}
        self._modules: set[str] = set()

    def say(self, name: str, text: str) -> None:
        """Adds a text to those of a setting."""
        self._texts.setdefault(name, set()).add(text)

    def say_code(self, path: str, class_: type, method: str) -> None:
        """Says where the code of a module is that runs.

        Args:
            path: Of the module; empty for the model itself.
            class_: Of the module.
            method: Its method that runs.
        """
        if path not in self._modules:
            self._modules.add(path)
            text = code_text(class_, method)
            if text is not None:
                self._code[code_key(path)] = text

    def texts(self) -> dict[str, str]:
        """The settings, each with its texts in one; ``off`` where that is all."""
        texts = {
            name: " and ".join(sorted(texts - {"off"} or texts))
            for name, texts in self._texts.items()
        }
        return texts | of_layers(self._code, self._modules)
