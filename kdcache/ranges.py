"""The bytes of a file elsewhere, so many at a time: over http(s) by ranges, else by what fsspec knows (s3, gs, ...)."""

from __future__ import annotations

import abc
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from kdcache.errors import CacheError, reason
from kdcache.on_demand import extra

PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds between attempts, of which none has brought a byte
PATIENCE = 30.0  # seconds without a byte
PIECE = 1 << 20  # bytes that are read from a connection at once
PASSING = {408, 425, 429, 500, 502, 503, 504}  # what a server says that may answer the next time
MOST = 1 << 23  # bytes that fsspec is asked for at once
FAILURES = (OSError, http.client.HTTPException)
REMEDY = "open it again"


class Version(NamedTuple):
    """What tells one state of a remote file from another."""

    size: int
    stamp: str  # its ETag, else when it was changed; nothing where a server tells neither


class Elsewhere(abc.ABC):
    """A file elsewhere. It is read by any number of processes, and nothing is held open between two requests."""

    def __init__(self, url: str, pauses: tuple[float, ...] = PAUSES):
        self.url, self.pauses = url, pauses
        self.version: Version | None = None  # of what was read so far; other answers are refused
        self.ranges = True  # whether it hands out parts; else all before them is read, too

    @abc.abstractmethod
    def state(self) -> Version:
        """Which version is there now."""

    @abc.abstractmethod
    def parts(self, offset: int, length: int) -> Iterator[bytes]:
        """As many bytes from there on as come, in parts."""

    def look(self) -> Version:
        """Which version is there now; asks again after a failure that may pass."""
        failed = 0
        while True:
            try:
                return self.state()
            except FAILURES as error:
                failed = self.waited(error, failed)

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(self.stream(offset, length))

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """These bytes in parts; goes on where a connection was dropped."""
        failed, end = 0, offset + length
        while offset < end:
            try:
                for part in self.parts(offset, end - offset):
                    failed, offset = 0 if part else failed, offset + len(part)
                    yield part
                if offset < end:
                    raise ConnectionResetError("the connection was dropped")
            except FAILURES as error:
                failed = self.waited(error, failed)

    def require_version(self, found: Version) -> Version:
        """Refuses another version than what was read before."""
        if self.version is None:
            self.version = found
        if found != self.version:
            raise CacheError(self.url, "the file that was opened", "another one at that address", REMEDY)
        return found

    def waited(self, error: Exception, failed: int) -> int:
        """One failure more, after a pause; raises where it will not pass, or has not for some time."""
        code, found = 0, reason(error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            code, found = error.code, f"HTTP {error.code} {error.reason}"
        if code == 416:
            raise CacheError(self.url, "a file of that length", "a shorter or an empty one", REMEDY) from None
        if isinstance(error, FileNotFoundError | PermissionError) or (code and code not in PASSING):
            raise CacheError(self.url, "a cache file", found, "check the address, and who may read it") from None
        if failed == len(self.pauses):
            raise CacheError(self.url, "an answer", found, "try again; blocks that are here are kept") from None
        time.sleep(self.pauses[failed])
        return failed + 1


class Http(Elsewhere):
    """A file on a web server. One that answers without ranges is read from its beginning."""

    def state(self) -> Version:
        with self.answer(0, 1) as response:
            return self.version_in(response, 0)[0]

    def parts(self, offset: int, length: int) -> Iterator[bytes]:
        with self.answer(offset, length) as response:
            version, before = self.version_in(response, offset)
            self.require_version(version)
            while before and (part := response.read(min(PIECE, before))):
                before -= len(part)
            while length and (part := response.read(min(PIECE, length))):
                length -= len(part)
                yield part

    def answer(self, offset: int, length: int):
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        url = quote(self.url, safe="%/:=&?~#+!$,;'@()*[]")  # of what a browser takes, urllib takes ASCII alone
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE)

    def version_in(self, response, offset: int) -> tuple[Version, int]:
        """Of which version an answer is, and how many bytes come before those that were asked for."""
        stamp = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if response.status == 200:
            self.ranges = False
            size = response.headers.get("Content-Length", "")
            if re.fullmatch(r"\d{1,18}", size):
                return Version(int(size), stamp), offset
        told = response.headers.get("Content-Range", "")
        part = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", told)
        if response.status != 206 or not part or int(part[1]) != offset:
            found = f"HTTP {response.status} with {told or 'no length'}"
            raise CacheError(self.url, "a part of a file, or a file with its length", found, "download it")
        return Version(int(part[2]), stamp), 0


class Stored(Elsewhere):
    """A file that fsspec reads: s3://bucket/logits.h5 with s3fs, gs:// with gcsfs."""

    def __init__(self, url: str, pauses: tuple[float, ...] = PAUSES):
        super().__init__(url, pauses)
        self.opened: tuple = ()  # process, file system, path: its threads do not live on in a forked process
        self.system()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"opened": ()}

    def system(self) -> tuple:
        if not self.opened or self.opened[0] != os.getpid():
            core = extra("fsspec.core", "remote", self.url)
            try:
                self.opened = (os.getpid(), *core.url_to_fs(self.url, skip_instance_cache=True))
            except (ValueError, ImportError) as error:
                remedy = "pip install s3fs for s3://, gcsfs for gs://, or download the file"
                raise CacheError(self.url, "an address that fsspec can open", reason(error), remedy) from None
        return self.opened[1:]

    def state(self) -> Version:
        system, path = self.system()
        system.invalidate_cache()
        facts = self.asked(system.info, path)
        names = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
        return Version(int(facts["size"]), next((str(facts[name]) for name in names if facts.get(name)), ""))

    def parts(self, offset: int, length: int) -> Iterator[bytes]:
        system, path = self.system()
        for start in range(offset, offset + length, MOST):
            yield self.asked(system.cat_file, path, start=start, end=min(start + MOST, offset + length))

    def asked(self, function, *given, **options):
        """What a library answers, whose errors may be of any kind."""
        try:
            return function(*given, **options)
        except OSError:
            raise
        except Exception as error:
            raise ConnectionError(reason(error)) from None


def opened(url: str) -> Elsewhere:
    return Http(url) if url.lower().startswith(("http://", "https://")) else Stored(url)
