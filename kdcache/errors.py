"""What a user can do wrong or run into, each error in four parts: place, expectation, finding, remedy."""

LONGEST = 900  # characters of a message


class KdcacheError(ValueError):
    """A problem that the user can act on; printed as one line, never as a traceback.

    Options stand in backticks, as `lr` does; the command line shows those that it has as it takes them, --lr.
    """

    exit_code = 1
    for_all = False  # whether this process speaks for several that train together

    def __init__(self, place: object, expected: str = "", found: str = "", remedy: str = ""):
        """Of a text alone: what torch makes of one that was raised in a worker of a DataLoader."""
        self.place, self.expected, self.found, self.remedy = str(place), expected, found, remedy
        said = f"{place}: expected {expected}, found {found}; {remedy}"
        super().__init__(one_line(said) if expected else str(place))

    def __reduce__(self):  # the default would rebuild it from the one joined line, in a worker's report for instance
        return type(self), (self.place, self.expected, self.found, self.remedy)


class UsageError(KdcacheError):
    """Options or arguments that are wrong, or contradict each other."""

    exit_code = 2


class CacheError(KdcacheError):
    """A cache file that is unfinished, damaged, foreign or of another request."""


class OtherRequest(CacheError):
    """A cache file that was made with other options than those that are given now."""

    exit_code = 2


class SourceError(KdcacheError):
    """Images that are missing or cannot be read."""


class TeacherError(KdcacheError):
    """A network that is missing its weights, does not fit, or answers NaN."""


class DataChanged(KdcacheError):
    """The images are not the ones that the teacher saw."""


class PipelineChanged(KdcacheError):
    """The images are the same, but the view renders other pixels."""


class LibraryChanged(KdcacheError):
    """The view renders other pixels under another version of an image library."""


class TeacherChanged(KdcacheError):
    """The teacher's weights or answers are not those in the cache."""


class ToldElsewhere(KdcacheError):
    """What ended a training of several processes, where another of them has said it already."""


class KdcacheWarning(UserWarning):
    """Something that a user should know and that stops nothing."""


def one_line(text: str) -> str:
    """A text as one line that any terminal can print, whatever a file or a path has put into it."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def reason(error: BaseException) -> str:
    """The exception of another library in a few words, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}" if lines else type(error).__name__


def difference(stored, asked, name: str = "") -> tuple[str, object, object]:
    """The first key at which two JSON values differ, and both values there; lists of texts are numbered from 1."""
    sides = [side for side in (stored, asked) if isinstance(side, list) and all(isinstance(text, str) for text in side)]
    if len(sides) == 2 and len(stored) == len(asked):
        stored, asked = ({str(i): text for i, text in enumerate(side, 1)} for side in sides)
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            if stored.get(key) != asked.get(key):
                return difference(stored.get(key), asked.get(key), f"{name}.{key}".lstrip("."))
    return name, stored, asked
