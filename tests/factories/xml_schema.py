"""Reads an XML schema as far as ours goes, and says where a document breaks it.

That is: global elements, sequences of references with how often they occur, attributes
with their types and whether they are required, text or none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_XS = "{http://www.w3.org/2001/XMLSchema}"

_TYPES = {
    "xs:string": re.compile(r".*", re.DOTALL),
    "xs:decimal": re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)"),
    "xs:nonNegativeInteger": re.compile(r"\+?\d+"),
}


class Schema:
    """The rules of a schema file; what it does not know of the language it refuses."""

    def __init__(self, path: Path):
        root = ElementTree.parse(path).getroot()
        assert root.tag == f"{_XS}schema"
        self._elements = {element.attrib["name"]: element for element in root}

    def breaches(self, text: str, root: str) -> list[str]:
        """What is wrong with a document; empty for a valid one."""
        element = ElementTree.fromstring(text)
        if element.tag != root:
            return [f"the document is a {element.tag}, not a {root}"]
        return list(self._of(element))

    def _of(self, element: ElementTree.Element) -> Iterator[str]:
        rule = self._elements.get(element.tag)
        if rule is None:
            yield f"{element.tag} is no element of the schema"
            return
        if "type" in rule.attrib:
            assert rule.attrib["type"] == "xs:string"
            if len(element) or element.attrib:
                yield f"{element.tag} holds more than text"
            return
        (kind,) = rule
        assert kind.tag == f"{_XS}complexType"
        texts = [element.text, *(child.tail for child in element)]
        if kind.get("mixed") != "true" and any(t and t.strip() for t in texts):
            yield f"{element.tag} holds text"
        yield from self._attributes(element, kind)
        yield from self._children(element, kind)
        for child in element:
            yield from self._of(child)

    def _attributes(
        self, element: ElementTree.Element, kind: ElementTree.Element
    ) -> Iterator[str]:
        rules = {r.attrib["name"]: r.attrib for r in kind.iter(f"{_XS}attribute")}
        for name, rule in rules.items():
            if rule.get("use") == "required" and name not in element.attrib:
                yield f"{element.tag} lacks the attribute {name}"
        for name, value in element.attrib.items():
            if name not in rules:
                yield f"{element.tag} has the attribute {name}, which is not known"
            elif not _TYPES[rules[name]["type"]].fullmatch(value):
                yield f"{name} of {element.tag} is {value!r}"

    def _children(
        self, element: ElementTree.Element, kind: ElementTree.Element
    ) -> Iterator[str]:
        sequence = kind.find(f"{_XS}sequence")
        references = [] if sequence is None else list(sequence)
        pattern = ""
        for reference in references:
            assert reference.tag == f"{_XS}element"
            least = reference.get("minOccurs", "1")
            most = reference.get("maxOccurs", "1").replace("unbounded", "")
            pattern += f"({re.escape(reference.attrib['ref'])} ){{{least},{most}}}"
        children = "".join(f"{child.tag} " for child in element)
        if not re.fullmatch(pattern, children):
            yield f"{element.tag} holds [{children.strip()}], which no order allows"
