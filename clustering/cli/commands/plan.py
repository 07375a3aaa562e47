"""Estimate the memory, disk, hours, traffic and money of a run of so many texts, from its configuration, the nodes, and
finished runs or the rates of the package; nothing is started."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from clustering.cli import add_config
from clustering.kernels.printable import printable
from clustering.monitoring.capacity import WORK_SHARE, group_node_types, this_machine
from clustering.monitoring.rates import CARD, cards
from clustering.monitoring.resources import NodeType

SIZE = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*([MGT])i?B?", re.IGNORECASE)
UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser, "files whose columns are looked at")
    parser.add_argument("--texts", type=int, metavar="N", required=True, help="how many texts the run will have")
    parser.add_argument(
        "--run",
        action="append",
        metavar="DIR",
        help="a finished run to estimate the hours from, also several times (default: those beside run.dir)",
    )
    nodes = parser.add_argument_group("nodes", "default: those of the Ray at RAY_ADDRESS, else this machine")
    nodes.add_argument("--nodes", type=_count, metavar="N", help="how many there are")
    nodes.add_argument("--cpus", type=_count, metavar="N", help="cores of each")
    nodes.add_argument("--memory", type=_bytes, metavar="SIZE", help="memory of each, such as 64GiB")
    nodes.add_argument("--gpus", type=_gpus, metavar="N", help="GPUs of each")
    nodes.add_argument("--card", choices=sorted(cards()), default=CARD, help=f"kind of GPU (default: {CARD})")


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ArgumentTypeError(f"{text[:30]!r} is no number from 1 on")
    return int(text)


def _gpus(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text):
        raise ArgumentTypeError(f"{text[:30]!r} is no number from 0 on")
    return float(text)


def _bytes(text: str) -> int:
    found = SIZE.fullmatch(text)
    if not found:
        raise ArgumentTypeError(f"{text[:30]!r} is no size; write it as 64GiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def execute(args: Namespace) -> None:
    """Print what the run needs, stage by stage."""
    from clustering.cli.configuration import build_from_words
    from clustering.monitoring.plan import plan_lines

    config = build_from_words(args.config, args.overrides, needs_input=False)
    nodes = planned_nodes(args, config.embed.gpus_per_actor)
    for line in plan_lines(config, args.texts, args.run, nodes, args.card):
        print(printable(line))


def planned_nodes(args: Namespace, gpus_per_actor: float) -> list[NodeType]:
    """The types of node that a run is planned for; what the command line does not say is as on this machine."""
    words = (args.nodes, args.cpus, args.memory, args.gpus)
    here = this_machine(gpus_per_actor)
    if any(word is not None for word in words):
        memory = here.memory_bytes if args.memory is None else int(WORK_SHARE * args.memory)
        return [
            NodeType(args.cpus or here.cpus, here.gpus if args.gpus is None else args.gpus, memory, args.nodes or 1)
        ]
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        return [here]
    from clustering.workers.nodes import live_nodes
    from clustering.workers.session import ray_session

    with ray_session():
        found = group_node_types((node.cpus, node.gpus, node.memory_bytes) for node in live_nodes())
    return found or [here]
