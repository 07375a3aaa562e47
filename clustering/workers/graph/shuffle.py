"""neighbors/ and texts/ in, the blocks of graph/ out: map tasks cut the lists by block, reduce tasks join them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import ray

from clustering.errors import StageError
from clustering.kernels.graph.blocks import Piece, Places, concat_pieces, cut_piece, join_pieces, place_rows
from clustering.kernels.graph.csr import min_distance
from clustering.kernels.graph.forest import row_numbers
from clustering.kernels.graph.halo import count_halo
from clustering.kernels.graph.time_gaps import TimeScale
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, measured_peak, release_memory
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import (
    BlockIndex,
    ListOptions,
    Times,
    load_times,
    read_cells,
    save_block,
    walk_pieces,
    write_block_index,
)
from clustering.runs.parts import part_names
from clustering.runs.storage import REDO_HINT
from clustering.schema import Figures
from clustering.workers.failures import unwrapped_errors
from clustering.workers.remote import ASK_EVERY_S, ask_joined_nodes
from clustering.workers.reservations import single_task_request
from clustering.workers.tasks import await_all, collect, submit, submit_yields

Sizes = tuple[int, ...]  # of a block, as in ``BlockIndex``


def build_whole(run: RunDir, options: ListOptions) -> Figures:
    """Leave graph/ as a single block, in this process."""
    places, times = Places(row_numbers(options.n_texts), options.n_texts, 1), load_times(run, options)
    too_long = 0

    def pieces() -> Iterator[Piece]:
        nonlocal too_long
        for piece, _, left_out in _read_pieces(run, part_names(run / "texts"), options, times):
            too_long += left_out
            yield piece

    sizes = [_save_joined(run, 0, pieces(), places, options)]
    return _finish(run, options, sizes, too_long, times.scale if times else None)


def shuffle_blocks(run: RunDir, options: ListOptions, n_blocks: int) -> Figures:
    """Leave graph/ in at most so many blocks.

    A map task reads some parts and returns an object for each block; a reduce task joins those of its block. A lost
    node costs the tasks whose objects it held. Every task holds a block's share of the entries, and all share an array
    with the place of each row, and one with its time where times count.
    """
    names, stage = part_names(run / "texts"), progress.current_stage()
    spread = {"scheduling_strategy": "SPREAD", "memory": single_task_request("graph").memory_bytes}
    with unwrapped_errors():
        places, times, placed = submit_yields(3, _place_rows, run, names, options, n_blocks, **spread)
        await_all([placed])
        n_blocks, scale = collect(ray.get(placed))
        n_maps = min(len(names), n_blocks)
        if stage:
            stage.expect(n_maps + n_blocks)
        cuts = np.linspace(0, len(names), n_maps + 1).astype(int)
        maps = [
            submit_yields(n_blocks + 1, _cut_lists, run, names[start:stop], options, places, times, **spread)
            for start, stop in pairwise(cuts)
        ]
        too_long = sum(_as_they_finish([done for *_, done in maps]))
        reduces = [
            submit(_join_block, run, number, places, options, *(one[number] for one in maps), **spread)
            for number in range(n_blocks)
        ]
        del maps  # a block's objects are freed when its task is done
        sizes = _as_they_finish(reduces)
    return _finish(run, options, sizes, too_long, scale)


def _as_they_finish(tasks: list[Any]) -> list[Any]:
    """The results of some tasks, in their order; each is charged and counted when it is done."""
    stage, left = progress.current_stage(), list(tasks)
    results: dict[Any, Any] = {}
    while left:
        ready, left = ray.wait(left, timeout=ASK_EVERY_S)
        for done in ready:
            results[done] = collect(ray.get(done))
            if stage:
                stage.advance({})
        ask_joined_nodes()
    return [results[task] for task in tasks]


def _place_rows(run: RunDir, names: list[str], options: ListOptions, n_blocks: int) -> Iterator[Any]:
    """Yield the places of all rows, their times, then the number of blocks and the scale with this task's usage."""
    with _counted() as counted:
        cell = read_cells(run, names)
        if cell.size != options.n_texts:
            raise StageError(f"{run / 'neighbors'} lists {cell.size} of {options.n_texts} texts. {REDO_HINT}")
        places = place_rows(cell, n_blocks, options.k)
        del cell
        yield places
        n_blocks = places.n_blocks
        del places
        times = load_times(run, options)
        yield times
    yield (n_blocks, times.scale if times else None), counted[0]


def _cut_lists(
    run: RunDir, names: list[str], options: ListOptions, places: Places, times: Times | None
) -> Iterator[Any]:
    """Yield for each block its piece of some parts, then what max_distance left out, with this task's usage."""
    with _counted() as counted:
        blocks: list[list[Piece]] = [[] for _ in range(places.n_blocks)]
        too_long = 0
        for piece, first, left_out in _read_pieces(run, names, options, times):
            for held, cut in zip(blocks, cut_piece(piece, first, places), strict=True):
                held.append(cut)
            too_long += left_out
        blocks.reverse()
        while blocks:
            yield concat_pieces(blocks.pop())  # Ray stores it, and its memory is free for the next one
    yield too_long, counted[0]


def _join_block(run: RunDir, number: int, places: Places, options: ListOptions, *pieces: Piece) -> Sizes:
    """Join the pieces of a block. As arguments they are there before the task holds a core and memory.

    A task that waited for lost pieces would keep the memory that the tasks which make them again ask for.
    """
    return _save_joined(run, number, iter(pieces), places, options)


def _save_joined(run: RunDir, number: int, pieces: Iterable[Piece], places: Places, options: ListOptions) -> Sizes:
    block = join_pieces(pieces, places, number, min_distance(options.metric))
    save_block(run, number, block)
    halos = (count_halo(block.rows, named, options.n_texts) for named in (block.indices, block.list_indices))
    return len(block), block.indices.size, block.list_indices.size, *halos


def _finish(run: RunDir, options: ListOptions, sizes: list[Sizes], too_long: int, scale: TimeScale | None) -> Figures:
    index = BlockIndex(options.n_texts, *map(list, zip(*sizes, strict=True)))
    write_block_index(run, index)
    figures = {"edges": sum(index.edges) // 2, "too_long": too_long, "blocks": len(index)}
    return figures if scale is None else {**figures, "time": {key: round(one, 4) for key, one in vars(scale).items()}}


def _read_pieces(
    run: RunDir, names: list[str], options: ListOptions, times: Times | None
) -> Iterator[tuple[Piece, int, int]]:
    yield from walk_pieces(run, names, options, times)
    release_memory()  # what the readers held is not kept for the work that follows


@contextmanager
def _counted() -> Iterator[list[Usage]]:
    """A list that holds the usage of the block at its end."""
    counted: list[Usage] = []
    before = time.process_time()
    with measured_peak() as peak:
        yield counted
    counted.append(Usage(peak.bytes, time.process_time() - before))
