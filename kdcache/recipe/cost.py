"""What the missing stages of a recipe will cost: bytes by the sizes of records and weights, time by a few steps here.

Every network takes a few steps on images of the recipe, in the dtype and layout that it will have, and the loader
renders some. A step is reckoned with cross-entropy alone; an evaluation of an image as a third of its step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.dump.fitting import record_sizes
from kdcache.jobs.packs import estimate
from kdcache.methods import build as build_method
from kdcache.methods import together
from kdcache.recipe.networks import BYTES
from kdcache.recipe.stages import DumpStage, StudentStage, TeacherStage
from kdcache.teachers import Forward
from kdcache.train import Settings
from kdcache.views import counted

if TYPE_CHECKING:
    from kdcache.recipe.plan import Plan

HOW = "from a few steps of each network here, with cross-entropy alone, one student after another"


@dataclass
class Cost:
    """Of the stages of a plan; each network is measured once in each of its settings."""

    plan: Plan
    rates: dict[tuple, float] = field(default_factory=dict)

    def of(self, stage: TeacherStage | DumpStage | StudentStage, method: str) -> dict:
        """Bytes on the disk, and seconds."""
        if isinstance(stage, DumpStage):
            return self.of_dump(stage, method)
        weights = self.plan.networks.sizes[stage.model]
        if isinstance(stage, TeacherStage) and stage.weights:
            return {"bytes": 0, "seconds": len(stage.data.held_out) / self.answering(stage.model, Forward())}
        settings, rate = stage.settings, self.training(stage.model, stage.settings)
        evaluations = sum(settings.evaluates(epoch) for epoch in range(1, settings.epochs + 1))
        step = 1 / rate
        if isinstance(stage, StudentStage) and stage.teacher:
            forward = next((read.forward for read in stage.reads if isinstance(read, DumpStage)), Forward())
            step += 1 / self.answering(stage.teacher.model, forward)
        views = together(stage.method) if isinstance(stage, StudentStage) else 1
        shown, judged = settings.epochs * views * len(stage.data.train), evaluations * len(stage.data.held_out)
        seconds = self.rendered(shown, shown * step) + self.rendered(judged, judged / rate / 3)
        return {"bytes": BYTES * weights, "seconds": seconds}

    def of_pack(self) -> dict:
        """Of the images of both splits, as they are to be shrunk."""
        data, setup = self.plan.data, self.plan.setup
        found = estimate(data.train, max(1, jobs.workers_for(data, setup.workers)), setup.short)
        both = 1 + len(data.held_out) / len(data.train)
        return {"bytes": round(both * found["bytes"]), "seconds": both * found["decode_seconds"]}

    def of_dump(self, stage: DumpStage, method: str) -> dict:
        _, views = counted(stage.data.view, stage.options["views"])
        shown, codec = self.plan.networks.of(stage), stage.options["codec"]
        built = build_method(method, shown, shown)
        sizes = record_sizes(built, shown, codec)
        rows, held_out = len(stage.data.train), len(stage.data.held_out)
        images = rows * views + held_out
        seconds = self.rendered(images, images / self.answering(stage.model, stage.forward))
        return {"bytes": jobs.file_bytes(sizes, rows, views, held_out), "seconds": seconds}

    def rendered(self, images: int, seconds: float) -> float:
        """The time of so many images that a network needs these seconds for: workers render beside it."""
        setup, data = self.plan.setup, self.plan.data
        workers = jobs.workers_for(data, setup.workers)
        if ("render",) not in self.rates:
            self.rates["render",] = jobs.rendering_rate(Loader(data.train, data.view, 0))
        alone = images / self.rates["render",]
        return max(seconds, alone / workers) if workers else seconds + alone

    def training(self, model: str, settings: Settings) -> float:
        """Images a second of a network that learns."""
        key = model, settings.optimizer, settings.batch, settings.dtype, settings.channels_last
        if key not in self.rates:
            data = self.plan.data
            self.rates[key] = jobs.training_rate(data.network(model, 0), settings, data.image, self.plan.setup.device)
        return self.rates[key]

    def answering(self, model: str, forward: Forward) -> float:
        """Images a second of a teacher."""
        if (model, forward) not in self.rates:
            data = self.plan.data
            loader = Loader(data.train, data.view, 0, self.plan.setup.device)
            self.rates[model, forward] = jobs.answering_rate(data.network(model, 0), loader, forward)
        return self.rates[model, forward]
