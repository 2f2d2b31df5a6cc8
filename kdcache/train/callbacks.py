"""What a training tells those who listen to it, by the names that Keras has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kdcache.errors import UsageError

HOOKS = ("on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end")


class Listeners:
    """Callbacks: objects with some of the HOOKS as methods, or functions, which are told of the end of each epoch.

    `stop` ends the training after the epoch in which somebody sets it.
    """

    def __init__(self, callbacks: Iterable = ()):
        self.stop = False
        self.hooks: dict[str, list[Callable]] = {hook: [] for hook in HOOKS}
        for callback in callbacks:
            made = not isinstance(callback, type)  # a class has the names, and nobody to tell
            found = {hook: getattr(callback, hook) for hook in HOOKS if made and hasattr(callback, hook)}
            if not found and made and callable(callback):
                found = {"on_epoch_end": callback}
            if not found:
                expected = f"a function, or an object with one of {', '.join(HOOKS)}"
                remedy = "write one of these methods" if made else "give an object of that class"
                raise UsageError("`callbacks`", expected, repr(callback), remedy)
            for hook, call in found.items():
                self.hooks[hook].append(call)

    def tell(self, hook: str, *arguments) -> None:
        for call in self.hooks[hook]:
            call(*arguments)
