"""Logs a report for TensorBoard: scalars by step, the verdict as text, the page."""

# Made by protoc, and an extra: nothing that is read tells their names.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ttrace.report.html.render import render_html
from ttrace.report.markdown import render_markdown
from ttrace.report.model import Report
from ttrace.report.trackers.metrics import figures_by_step
from ttrace.store.output_file import write_output

PAGE = "ttrace-report.html"
"""Beside the events: TensorBoard itself keeps no files."""


def log_to_tensorboard(report: Report, folder: Path) -> None:
    """The tracker ``tensorboard`` of ``ttrace.report.trackers.table``."""
    writer = EventFileWriter(str(folder))
    try:
        for step, figures in figures_by_step(report).items():
            values = [
                Summary.Value(tag=f"ttrace/{name}", simple_value=figure)
                for name, figure in figures.items()
            ]
            writer.add_event(Event(step=step, summary=Summary(value=values)))
        writer.add_event(Event(step=0, summary=_text(render_markdown(report))))
    finally:
        writer.close()
    write_output(folder / PAGE, render_html(report))


def _text(text: str) -> Summary:
    """A summary that TensorBoard shows among its texts, as Markdown."""
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="text")
    )
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[text.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    value = Summary.Value(tag="ttrace/report", metadata=metadata, tensor=tensor)
    return Summary(value=[value])
