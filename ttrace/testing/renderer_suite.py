"""Conformance of a renderer: whatever a report holds, the main thing can be read."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ttrace.report.model import Report
from ttrace.testing.report_samples import CONTROLS, HOSTILE, diverged_report, reports
from ttrace.testing.suite import Suite


class RendererSuite(Suite):
    """Subclass it, and let ``render`` turn a report into text.

    Attributes:
        unsafe: What must never stand in the rendering of the hostile reports: control
            characters, and in a subclass the format's own syntax, e.g. ``<script``.
    """

    unsafe: ClassVar[Sequence[str]] = ("\x00", "\x07", "\x08", "\x1b", "\x9b", "\u202e")

    def render(self, report: Report) -> str:
        """The report in the format under test, on ample space where it has a width."""
        raise NotImplementedError("render the report")

    def as_read(self, rendered: str) -> str:
        """The text as its reader sees it: without tags, with entities resolved."""
        return rendered

    @classmethod
    def parameters(cls) -> Mapping[str, Mapping[str, Any]]:
        return {
            "report": reports(),
            "hostile": HOSTILE,
            "control": CONTROLS,
        }

    def test_renders_every_report(self, report: Report) -> None:
        text = self._rendered(report)
        assert text.strip(), "the rendering is empty"
        text.encode("utf-8")

    def test_names_the_verdict(self, report: Report) -> None:
        text = self._rendered(report)
        assert report.verdict.value in self.as_read(text).casefold(), (
            f"the verdict '{report.verdict.value}' is not named"
        )

    def test_gives_the_summary(self) -> None:
        report = diverged_report()
        self._assert_seen(report, report.summary, "summary")

    def test_names_the_first_divergence(self) -> None:
        report = diverged_report()
        first = report.first_divergence
        assert first is not None
        text = _squeezed(self.as_read(self._rendered(report)))
        assert _squeezed(first.id) in text or _squeezed(first.sentence) in text, (
            f"the first divergence is not named: neither {first.id} nor "
            f"'{first.sentence}' can be read"
        )

    def test_a_pass_speaks_of_no_divergence(self) -> None:
        text = self._rendered(reports()["pass"])
        assert "diverged" not in self.as_read(text).casefold(), (
            "a pass is said to have diverged"
        )

    def test_gives_every_diagnosis(self) -> None:
        report = diverged_report()
        for diagnosis in report.diagnosis:
            self._assert_seen(report, diagnosis.sentence, "diagnosis")

    def test_gives_the_counts(self) -> None:
        """Nothing that failed, or was not compared, is hidden."""
        report = diverged_report()
        counts = report.counts
        for count in (counts.failed, counts.unmatched, counts.skipped):
            self._assert_seen(report, str(count), "number of tensors")

    def test_says_why_tensors_were_skipped(self) -> None:
        report = diverged_report()
        for reason in report.counts.skipped_reasons:
            self._assert_seen(report, reason, "reason of skipped tensors")

    def test_hostile_names_are_read_as_they_are(self, hostile: str) -> None:
        report = diverged_report(hostile)
        self._assert_seen(report, report.summary, "summary")
        self._assert_seen(report, report.diagnosis[0].sentence, "diagnosis")

    def test_hostile_reasons_are_read_as_they_are(self, hostile: str) -> None:
        report = diverged_report(reason=hostile)
        self._assert_seen(report, hostile, "reason of skipped tensors")

    def test_hostile_names_are_escaped(self, hostile: str) -> None:
        self._assert_safe(diverged_report(name=hostile, reason=hostile))

    def test_control_characters_are_escaped(self, control: str) -> None:
        self._assert_safe(diverged_report(name=control, reason=control))

    def test_rendering_twice_gives_the_same(self, report: Report) -> None:
        before = repr(report)
        assert self._rendered(report) == self._rendered(report), (
            "rendered twice, two results"
        )
        assert repr(report) == before, "rendering changed the report"

    def _rendered(self, report: Report) -> str:
        try:
            text = self.render(report)
        except Exception as error:
            raise AssertionError(
                f"rendering raised {type(error).__name__}: {error}"
            ) from error
        assert isinstance(text, str), f"the rendering is a {type(text).__name__}"
        return text

    def _assert_seen(self, report: Report, what: str, name: str) -> None:
        text = _squeezed(self.as_read(self._rendered(report)))
        assert _squeezed(what) in text, f"the {name} '{what}' cannot be read"

    def _assert_safe(self, report: Report) -> None:
        text = self._rendered(report)
        found = [part for part in self.unsafe if part in text]
        assert not found, f"{found[0]!r} of a name reaches the reader unescaped"


def _squeezed(text: str) -> str:
    """Without blanks and line ends, where a layout breaks lines."""
    return "".join(text.split())
