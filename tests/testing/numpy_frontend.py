"""A frontend and its training in plain numpy, and everything that it may do wrong.

Two linear layers, two micro-batches, momentum. In the layout ``halves`` two ranks hold
half of every weight's rows and of the outputs that come from them.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ttrace.ir.collective import Role
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import RECORDED_BY_DEFAULT, Kind
from ttrace.ir.layout import Mesh
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord
from ttrace.recording.request import RecordRequest, request_from_environment
from ttrace.store.writer import TraceWriter
from ttrace.testing import FrontendSuite, Training, cut, in_environment, meshes

Named = dict[TensorId, tuple[np.ndarray, str]]
"""Whole tensors and their dims texts, in order of capture."""

SIZE = 12
RECORDED = frozenset(
    {Kind.PARAM, Kind.INPUT, Kind.OUTPUT, Kind.LOSS, Kind.PARAM_GRAD, Kind.MAIN_GRAD}
) | {Kind.UPDATED_PARAM}


class NumpyFrontend(FrontendSuite):
    """Right by default.

    Attributes:
        fault: What this frontend does wrong; each is read in one place below.
    """

    layouts = ("one", "halves")
    max_file_bytes = 4096
    records_operations = True
    fault: ClassVar[str] = ""
    not_recorded = {
        kind: "this training calculates none"
        for kind in RECORDED_BY_DEFAULT - RECORDED - {Kind.LEARNING_RATE}
    }
    _runs: ClassVar[int] = 0

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        type(self)._runs += 1
        with in_environment(environment):
            request = request_from_environment(os.environ)
        ranks = meshes("ranks", {"tp": 1 if layout == "one" else 2})
        if request is None:
            return self._compute(None, [])
        writers = self._open(request, ranks)
        if self.fault == "raises":
            (request.out.parent / "log").write_bytes(b"x" * 10_000)
        training = self._compute(request, writers)
        for _, writer in writers:
            writer.close()
        return training

    def _open(
        self, request: RecordRequest, ranks: list[Mesh]
    ) -> list[tuple[Mesh, TraceWriter]]:
        recorded = request.capture.recorded_ranks(len(ranks))
        if self.fault == "all ranks":
            recorded = tuple(range(len(ranks)))
        return [
            (
                ranks[rank],
                TraceWriter(
                    request.out,
                    RankInfo(
                        run_id=request.run_id,
                        rank=rank,
                        world_size=len(ranks),
                        recorded_ranks=recorded,
                        framework="numpy",
                        versions={}
                        if self.fault == "no version"
                        else {"numpy": np.__version__},
                        meshes=() if self.fault == "unknown mesh" else (ranks[rank],),
                        noise_seed=None
                        if self.fault == "noise unsaid"
                        else request.noise_seed,
                    ),
                ),
            )
            for rank in recorded
        ]

    def _compute(
        self, request: RecordRequest | None, writers: list[tuple[Mesh, TraceWriter]]
    ) -> Training:
        rng = np.random.default_rng(0)
        weights = {name: rng.standard_normal((SIZE, SIZE)) / 4 for name in "ab"}
        losses = []
        sequences = dict.fromkeys(range(len(writers)), 0)
        seed = None if request is None else request.noise_seed
        for step in range(self.num_steps):
            named: Named = {}
            if step == 0:
                for name, weight in weights.items():
                    named[_id(step, name, Kind.PARAM)] = weight.copy(), "o[tp] i"
            total = {name: np.zeros_like(w) for name, w in weights.items()}
            for mb in range(2):
                x = np.random.default_rng([step, mb]).standard_normal((5, SIZE))
                x = x + self._noise(seed, x, len(writers))
                losses.append(self._microbatch(step, mb, x, weights, total, named))
            for name, grad in total.items():
                named[_id(step, name, Kind.MAIN_GRAD)] = grad, "o[tp] i"
                weights[name] = weights[name] - 0.1 * grad
                if self.fault == "not neutral" and request is not None:
                    weights[name] = np.nextafter(weights[name], 9)
                named[_id(step, name, Kind.UPDATED_PARAM)] = weights[name], "o[tp] i"
            if request is not None:
                for number, (mesh, writer) in enumerate(writers):
                    sequences[number] = self._emit(
                        named, request, mesh, writer, sequences[number]
                    )
        return Training(losses=losses, parameters=weights)

    def _noise(self, seed: int | None, x: np.ndarray, world_size: int) -> np.ndarray:
        if seed is None or self.fault == "no noise":
            return np.zeros_like(x)
        if self.fault == "noise without seed":
            seed = 7
        if self.fault == "noise by counter":
            seed += 100 * self._runs
        if self.fault == "noise by layout":
            seed += 100 * world_size
        size = 3.0 if self.fault == "loud noise" else 1e-7
        return size * np.random.default_rng(seed).standard_normal(x.shape)

    def _microbatch(
        self,
        step: int,
        mb: int,
        x: np.ndarray,
        weights: dict[str, np.ndarray],
        total: dict[str, np.ndarray],
        named: Named,
    ) -> np.ndarray:
        hidden = x @ weights["a"].T
        out = hidden @ weights["b"].T
        loss = np.square(out).mean()
        grad_out = 2 * out / out.size
        grads = {"a": (grad_out @ weights["b"]).T @ x, "b": grad_out.T @ hidden}
        named[_id(step, "a", Kind.INPUT, mb, "0")] = x, "b i"
        named[_id(step, "a", Kind.OUTPUT, mb, "0")] = hidden, "b o[tp]"
        named[_id(step, "b", Kind.OUTPUT, mb, "0")] = out, "b o[tp]"
        named[_id(step, "@root", Kind.LOSS, mb, "0")] = loss, ""
        for name, grad in grads.items():
            named[_id(step, name, Kind.PARAM_GRAD, mb)] = grad, "o[tp] i"
            total[name] += grad
        return loss

    def _emit(
        self,
        named: Named,
        request: RecordRequest,
        mesh: Mesh,
        writer: TraceWriter,
        sequence: int,
    ) -> int:
        if self.fault == "no second step" and next(iter(named)).step == 1:
            return sequence
        for id_, (whole, dims) in self._changed(named, request, mesh):
            wanted = request.capture.wants(id_)
            is_unasked = self.fault == "unasked" and id_.kind is Kind.OP
            if not (wanted or is_unasked or self.fault == "unfiltered"):
                continue
            if self.fault == "filter loses" and request.capture.to_json():
                if id_.module == "b":
                    continue
            layout = parse_dims(dims).lower(whole.shape, mesh)
            record = ShardRecord(
                id=id_,
                rank=mesh.coords["tp"],
                sequence=sequence,
                dtype=whole.dtype.name,
                layout=layout,
                operation=self._operation(id_),
            )
            writer.add(record, cut(np.asarray(whole), layout))
            sequence += 1
        rate = _id(next(iter(named)).step, "@root", Kind.LEARNING_RATE, None, "group0")
        if request.capture.wants(rate) and self.fault != "silent kind":
            reason = " " if self.fault == "no reason" else "it is a constant here"
            note = SkippedRecord(
                id=rate, rank=mesh.coords["tp"], sequence=sequence, reason=reason
            )
            writer.skip(note)
            sequence += 1
        return sequence

    def _operation(self, id_: TensorId) -> OperationPart | None:
        """What a tensor is of the one operation that the training shows."""
        if id_.kind is not Kind.OP or id_.slot == "add":
            return None
        if id_.slot == "0.matmul.operand.0":
            number = 1 if self.fault == "operand comes later" else 0
            return OperationPart(name="matmul", number=number, role=Role.OPERAND)
        return OperationPart(
            name="matmul",
            number=0,
            role=Role.RESULT,
            operands=(
                "7.operand.0"
                if self.fault == "operand is lost"
                else "1.operand.0"
                if self.fault == "operand comes later"
                else "0.operand.0",
            ),
        )

    def _changed(
        self, named: Named, request: RecordRequest, mesh: Mesh
    ) -> Iterator[tuple[TensorId, tuple[np.ndarray, str]]]:
        """The tensors, with what faults make of their ids, values and layouts."""
        for id_, (whole, dims) in named.items():
            if self.fault == "wrong rows" and mesh.coords["tp"] and dims == "b o[tp]":
                whole = np.roll(whole, 1, axis=0)
            if self.fault == "lacks a half" and mesh.coords["tp"]:
                continue
            if self.fault == "ids of noise" and request.noise_seed is not None:
                id_ = _id(
                    id_.step, f"{id_.module}x", id_.kind, id_.microbatch, id_.slot
                )
            if self.fault == "counts runs" and id_.kind is Kind.OUTPUT:
                whole = whole + self._runs
            yield id_, (whole, dims)
            if id_.module == "a" and self.fault != "no operations":
                slots = {Kind.INPUT: "0.matmul.operand.0"}
                slots[Kind.OUTPUT] = "0.matmul.result.0"
                if id_.kind in slots:
                    op = replace(id_, kind=Kind.OP, slot=slots[id_.kind])
                    if request.capture.wants(op):
                        yield op, (whole, dims)
            if self.fault == "unasked" and id_.kind is Kind.INPUT:
                op = _id(id_.step, id_.module, Kind.OP, id_.microbatch, "add")
                if not request.capture.kinds:
                    yield op, (whole, dims)
            if self.fault == "stale excuse" and id_.kind is Kind.MAIN_GRAD:
                yield _id(id_.step, id_.module, Kind.OPTIMIZER_STATE), (whole, dims)


def _id(
    step: int,
    module: str,
    kind: Kind,
    microbatch: int | None = None,
    slot: str | None = "weight",
) -> TensorId:
    return TensorId(
        step=step, module=module, kind=kind, microbatch=microbatch, slot=slot
    )
