"""Who works on what in a file that several processes fill: locks on its bytes, which go when their process does."""

from __future__ import annotations

import errno
import fcntl

from kdcache.ranks import Ranks


class Claims:
    """What this process has locked: the whole file where it is alone, else its own number and the words it will write.

    Such locks are this process's alone (its workers do not hold them), and end with it, however it ends. They would end
    with any other handle on the file, too, so nothing else opens the file while they are held.
    """

    def __init__(self, file, ranks: Ranks):
        self.file, self.shared = file, ranks.world > 1
        self.entered = locked(file, ranks.rank, int(self.shared))
        self.held: set[int] = set()

    def take(self, offset: int) -> bool:
        """Whether this process has what the byte stands for; a process alone has everything."""
        if not self.shared:
            return True
        if not locked(self.file, offset, 1):
            return False
        self.held.add(offset)
        return True

    def give(self, offset: int) -> None:
        """Leaves it to the others again."""
        if offset in self.held:
            self.held.remove(offset)
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, offset)


def locked(file, start: int, length: int) -> bool:
    """Locks so many bytes, or all for 0, unless another process has them; where there are no locks, nobody has."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
