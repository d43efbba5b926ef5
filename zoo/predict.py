"""Judges text and files: `python -m zoo.predict MODEL [--text T] [--image F]… [--video F]… [--input FILE]`.

Verdicts go to standard output, one JSON object a line; everything else to standard error. Rows that cannot be read are
listed in errors.jsonl, the others are judged all the same, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from datamodules.manifest import read_samples
from datamodules.schema import DataError, MediaError, Policy, Sample
from zoo import cli
from zoo.core.guard import Guard
from zoo.core.run import write_lines
from zoo.registry import load


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m zoo.predict", description=__doc__.split("\n\n")[0])
    p.add_argument("model", metavar="MODEL", help="a published model's name or a run's folder")
    p.add_argument("--text", help="what the user said")
    p.add_argument("--response", help="what the assistant answered: then the response is judged")
    for kind in ("image", "audio", "video"):
        p.add_argument(
            f"--{kind}", action="append", default=[], metavar="FILE", help=f"a file of kind {kind}; may be repeated"
        )
    p.add_argument("--input", metavar="FILE", help="a JSONL manifest; only id and messages are required")
    p.add_argument("--data-dir", metavar="FOLDER", help="where the manifest's files lie; default: beside it")
    p.add_argument("--policy", metavar="FILE", help="a policy (YAML) that replaces the model's own")
    p.add_argument(
        "--threshold", type=float, help="flag scores from here on; default: the model's, fitted on validation data"
    )
    p.add_argument(
        "--without", action="append", default=[], metavar="TAG",
        help="a training source that is switched off: the guard abstains where it is responsible; may be repeated",
    )  # fmt: skip
    p.add_argument("--fallback", metavar="MODEL", help="who answers where the guard abstains; nobody: it is flagged")
    p.add_argument("--explain", action="store_true", help="add a critique; it does not change the verdict")
    p.add_argument(
        "--errors", metavar="FILE", default="errors.jsonl", help="where bad rows are listed (default: errors.jsonl)"
    )
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--device", default="cpu")
    return p


def samples_from(args: argparse.Namespace, errors: list[dict[str, str]]) -> Iterator[Sample]:
    if args.input is None:
        yield Sample.of(args.text, image=args.image, audio=args.audio, video=args.video, response=args.response)
        return
    for _, id, sample in read_samples(args.input, args.data_dir):
        if isinstance(sample, DataError):
            errors.append({"id": id, "error": str(sample)})
        else:
            yield sample


def judge(
    guard: Guard,
    batch: list[Sample],
    policy: Policy | None,
    args: argparse.Namespace,
    errors: list[dict[str, str]],
    fallback: Guard | None = None,
) -> None:
    """Prints the verdicts of a batch in order. A bad file costs its own row only: the others are judged one by one."""
    try:
        verdicts = guard.moderate(
            batch, policy, args.explain, args.threshold, args.batch_size, without=args.without, fallback=fallback
        )
    except MediaError as e:
        if len(batch) == 1:
            errors.append({"id": batch[0].id, "error": str(e)})
            return
        for sample in batch:
            judge(guard, [sample], policy, args, errors, fallback)
        return
    for v in verdicts:
        print(json.dumps(v.to_dict(), ensure_ascii=False), flush=True)


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    given = [args.text, args.response, *args.image, *args.audio, *args.video]
    if args.input is not None and any(g is not None for g in given):
        raise DataError("give either --input or a single --text/--image/--audio/--video, not both")
    if args.input is None and not any(g is not None for g in given):
        raise DataError("nothing to judge: give --text, --image, --audio, --video, --response or --input")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise DataError(f"--threshold {args.threshold} is not a probability: give a number from 0 to 1")
    if args.batch_size < 1:
        raise DataError(f"--batch-size {args.batch_size}: give at least 1")
    policy = Policy.from_file(args.policy) if args.policy else None
    errors: list[dict[str, str]] = []
    if args.input is not None and not Path(args.input).is_file():
        raise DataError(
            f"{args.input}: "
            + ("not a regular file: a manifest is read twice" if Path(args.input).exists() else "no such manifest")
        )
    if args.input is not None and Path(args.errors).exists() and Path(args.errors).samefile(args.input):
        raise DataError(f"--errors {args.errors} is the manifest itself, and would be written over: name another file")
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise DataError(f"--device {args.device}: not to be had here: {str(e).splitlines()[0]}") from e
    guard = load(args.model, device=device)
    guard.switched_off(args.without)  # an unknown source is said before anything is judged
    if args.fallback is not None and not args.without:
        raise DataError("--fallback answers where the guard abstains: say with --without what is switched off")
    fallback = None if args.fallback is None else load(args.fallback, device=device)
    batch: list[Sample] = []
    read = 0
    for sample in samples_from(args, errors):
        read += 1
        batch.append(sample)
        if len(batch) == args.batch_size:
            judge(guard, batch, policy, args, errors, fallback)
            batch = []
    if batch:
        judge(guard, batch, policy, args, errors, fallback)
    if not read and not errors:
        raise DataError(f"{args.input}: the manifest has no rows")
    if errors:
        for e in errors[:5]:
            print(f"error: {e['error']}", file=sys.stderr)
        if args.input is not None:
            print(f"{len(errors)} rows could not be judged: see {args.errors}", file=sys.stderr)
    if args.input is not None and (errors or Path(args.errors).exists()):
        try:
            write_lines(Path(args.errors), errors)  # an older list must not look like this one
        except OSError as e:
            raise DataError(f"--errors {args.errors}: cannot be written: {e.strerror}: name another file") from e
    return 1 if errors else 0


if __name__ == "__main__":
    cli.run(main)
