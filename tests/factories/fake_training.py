"""A training script in the smallest: a few arrays, recorded as the CLI asks for.

Run as a program (its folder is then where Python looks for ``trace_factory``); its
options make it wrong in the ways that runs are.
"""

import argparse
import os
import sys
import time

import numpy as np
from traces import Tensor, Tensors, rank_infos, record_tensors

from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.recording.request import RecordRequest, request_from_environment
from ttrace.store.writer import TraceWriter

WEIGHT = np.linspace(-1, 1, 64).reshape(8, 8).astype(np.float32)
DATA = np.linspace(0, 1, 64).reshape(8, 8).astype(np.float32)


def train(args: argparse.Namespace, noise_seed: int | None) -> Tensors:
    """One step of one layer; everything a step gives, by text of the tensor id."""
    weight = WEIGHT + np.float32(args.initial_offset)
    data = DATA + np.float32(args.input_offset)
    hidden = data @ weight
    if noise_seed is not None:
        noise = np.random.default_rng(noise_seed).choice([-1, 1], hidden.shape)
        hidden = hidden * (1 + noise * 6e-8).astype(np.float32)
    hidden = hidden * np.float32(args.factor)
    if args.nan:
        hidden[0, 0] = np.nan
    gradient = (data.T @ hidden).astype(np.float32)
    prefix = args.model
    values = {
        f"step0/{prefix}/param/weight": weight,
        "step0/mb0/@root/input/0": data,
        f"step0/mb0/{prefix}/output/0": hidden,
        # Summed finely: noise shows in it, in whatever order a machine sums.
        "step0/mb0/@root/loss/loss": np.array(
            np.square(hidden.astype(np.float64)).sum()
        ),
        f"step0/{prefix}/main_grad/weight": gradient,
        f"step0/{prefix}/updated_param/weight": weight - np.float32(0.1) * gradient,
    }
    if args.model == "other":
        values = {key: value for key, value in values.items() if prefix in key}
    if args.tensor_parallel > 1:
        return {
            key: Tensor(full=value, dims="r c[tp]" if value.ndim == 2 else None)
            for key, value in values.items()
        }
    return values


def record(request: RecordRequest, tensors: Tensors, args: argparse.Namespace) -> None:
    """What a frontend does, for all ranks one after the other."""
    wanted = {
        text: tensor
        for text, tensor in tensors.items()
        if request.capture.wants(parse_tensor_id(text))
    }
    sizes = {"tp": args.tensor_parallel}
    ranks = request.capture.recorded_ranks(args.tensor_parallel)
    for info in rank_infos(
        sizes,
        recorded=ranks,
        run_id=request.run_id,
        capture=request.capture.to_json(),
        noise_seed=request.noise_seed,
    ):
        if info.rank == args.missing_rank:
            continue
        writer = TraceWriter(request.out, info)
        record_tensors(writer, wanted, info)
        if args.crash_while_recording:
            os._exit(0)  # as a process that forgets to close: ends well, trace open
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--initial-offset", type=float, default=0.0)
    parser.add_argument("--input-offset", type=float, default=0.0)
    parser.add_argument("--nan", action="store_true")
    parser.add_argument("--model", default="layer")
    parser.add_argument("--missing-rank", type=int)
    parser.add_argument("--crash-while-recording", action="store_true")
    parser.add_argument("--record-nothing", action="store_true")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--warns", default="")
    args = parser.parse_args()
    print("training")
    if args.warns:
        print(f"WARNING:absl:ttrace: {args.warns}")
    if args.fail:
        sys.exit("something is wrong with the data")
    if args.hang:
        time.sleep(600)
    request = request_from_environment(os.environ)
    noise_seed = None if request is None else request.noise_seed
    tensors = train(args, noise_seed)
    if request is not None and not args.record_nothing:
        record(request, tensors, args)


if __name__ == "__main__":
    main()
