"""Students trained side by side: each in a process, all on the same caches.

    parent: number of a student  -->  process: trains it, says how it goes  -->  parent: done, or what went wrong

A process that dies takes one student with it, and another process takes its place.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.errors import KdcacheError
from kdcache.jobs.beside import Beside, gpus, least_taken, share
from kdcache.recipe.parts import blaming

if TYPE_CHECKING:
    from kdcache.recipe.plan import Plan
    from kdcache.recipe.stages import StudentStage


def train(plan: Plan, students: Sequence[StudentStage], processes: int, tell: Callable) -> Iterator[tuple]:
    """Trains all of them; each student as it ends, with what went wrong or "". `tell` gets a student and a line."""
    waiting = [plan.students.index(student) for student in reversed(students)]
    with pool(plan, min(processes, len(waiting))) as (workers, start):
        while workers:
            for end in connection.wait([worker.end for worker in workers]):
                worker = next(worker for worker in workers if worker.end is end)
                kind, text = worker.heard()
                student = None if worker.number is None else plan.students[worker.number]
                if kind == "said":
                    tell(student, text)
                    continue
                if student is not None:
                    yield student, text
                elif kind == "dead":
                    raise KdcacheError("side by side", "processes that start", text, "train one by one")
                if kind == "dead":
                    workers.remove(worker)
                    if waiting:
                        workers.append(start())
                elif waiting:
                    worker.give(waiting.pop())
                else:
                    worker.give(None)
                    workers.remove(worker)


class Worker:
    """A process, and the student that it has."""

    def __init__(self, gpu: str | None, threads: int, *arguments):
        self.end, other = connection.Pipe()
        self.number: int | None = None
        call = f"from kdcache.recipe.side_by_side import work; work({other.fileno()})"
        self.process = Beside(call, gpu, threads, [other.fileno()])
        other.close()
        with contextlib.suppress(BrokenPipeError):  # its death is heard next
            self.end.send(arguments)

    def give(self, number: int | None) -> None:
        self.number = number
        with contextlib.suppress(BrokenPipeError):  # its death is heard next
            self.end.send(number)

    def heard(self) -> tuple[str, str]:
        """said: a line; free: it is ready for a student; done: with what went wrong, or nothing; dead: it ended."""
        try:
            return self.end.recv()
        except (EOFError, ConnectionError):
            return "dead", self.process.ended() or "its process ended early"

    def dismiss(self) -> None:
        self.end.close()
        self.process.dismiss(working=self.number is not None)


@contextlib.contextmanager
def pool(plan: Plan, processes: int):
    """So many workers, and what starts another; however this ends, none is left behind."""
    started: list[Worker] = []
    names = gpus(plan.setup.device)
    setup, workers = plan.setup, jobs.workers_for(plan.data, plan.setup.workers, processes)

    def start() -> Worker:
        gpu = least_taken(names, [one.process.gpu for one in started if one.process.works])
        started.append(Worker(gpu, share(processes), plan.recipe, setup.root.parent, setup.device, workers))
        return started[-1]

    try:
        yield [start() for _ in range(processes)], start
    finally:
        for worker in started:
            worker.dismiss()


def work(channel: int) -> None:
    """In a process of its own: trains the students whose numbers come in."""
    from kdcache.recipe.plan import now_and_then  # which imports this file

    end = connection.Connection(channel)
    recipe, root, device, workers = end.recv()

    def say(text: object) -> None:
        end.send(("said", str(text)))

    warnings.showwarning = lambda message, *_: say(message)
    plan, kind, found = None, "free", ""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            end.send((kind, found))
            if (number := end.recv()) is None:
                return
            kind, found = "done", ""
            try:
                plan = plan or recipe.plan(root, device, workers)
                student = plan.students[number]
                say(student.doing().partition(": ")[2])
                with blaming(student.part, recipe.settings):
                    student.make(recipe.code, remark=now_and_then(say))
            except KdcacheError as error:
                found = str(error)
            except Exception as error:
                say(traceback.format_exc())
                found = f"{type(error).__name__}: {error}"
