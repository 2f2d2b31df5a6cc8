"""All that it takes to read a cache, in 80 lines of NumPy, to be copied: `read("logits.h5", view=0, rows=[5, 3, 3])`.

The CRC of each block is checked before it is used. `import kdcache.read` also checks HDF5's structures, the header and
the seal, and reads files of version 1 with more than some twenty datasets in a group.
"""

import json
import zlib

import numpy as np


def read(path, view, rows, name="logits"):
    """f32 [n, ...]: what the teacher said of these rows in a view."""
    data = datasets(np.memmap(path, np.uint8, "r"))
    meta, rows = json.loads(bytes(data["/meta"])), np.asarray(rows)
    words = data[f"/blocks/knowledge/{name}"].view("<u8").reshape(meta["views"], -1)[view]
    records = data[f"/knowledge/{name}"].reshape(meta["views"], meta["source"]["rows"], -1)[view]
    for block in np.unique(rows // meta["block_rows"]).tolist():
        first = block * meta["block_rows"]
        place = zlib.crc32(f"knowledge/{name}:{view}:{block}".encode()) if meta["version"] > 1 else 0
        if words[block] != 0x6B640001 << 32 | zlib.crc32(records[first : first + meta["block_rows"]], place):
            raise ValueError(f"{path}: block {block} of view {view} is damaged")
    return decode(meta["knowledge"][name], records[rows]).reshape(len(rows), *meta["knowledge"][name]["shape"])


def datasets(file):
    """The bytes of every dataset, by its path: object headers and the messages in them, from the root group on."""

    def number(at, width=8):
        return int.from_bytes(bytes(file[at : at + width]), "little")

    def link(path, at):  # the length of a name, the name, and where that object begins
        start, width = at + 2 + 8 * bool(file[at + 1] & 4) + bool(file[at + 1] & 16), 1 << (number(at + 1, 1) & 3)
        end = start + width + number(start, width)
        headers.append((f"{path}/{bytes(file[start + width : end]).decode()}", number(end)))
        return end + 8

    found, headers = {}, [("", number(36))]
    for path, header in headers:
        flags = number(header + 5, 1)
        at, width = header + 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16), 1 << (flags & 3)
        at, end = at + width, at + width + number(at, width)
        while at + 4 <= end:
            kind, body = file[at], at + (6 if flags & 4 else 4)
            at = body + number(at + 1, 2)
            if kind == 2 and (heap := number(body + 2 + 8 * bool(file[body + 1] & 1))) < 2**64 - 1:  # in version 1
                place = number(heap + 132) + 21
                while file[place]:
                    place = link(path, place)
            elif kind == 6:
                link(path, body)
            elif kind == 8:
                found[path] = file[number(body + 2) :][: number(body + 10)]
    return found


def decode(codec, records):
    """Records, uint8 [n, size], as f32 [n, values]."""
    if codec["codec"] in ("f32", "f16"):
        return records.view(codec["codec"].replace("f32", "<f4").replace("f16", "<f2")).astype("<f4")
    if codec["codec"] == "bits":
        return np.unpackbits(records, axis=1, bitorder="little", count=np.prod(codec["shape"])).astype("<f4")
    if codec["codec"] == "logp8":
        at = np.array(codec["knots"])
        return -np.append(at[:-1, None] + np.diff(at)[:, None] * (np.arange(15) / 15), at[-1]).astype("<f4")[records]
    two = np.ascontiguousarray(records[:, :4]).view("<f2").astype("<f4")  # scale and offset, or head and tail
    if codec["codec"] == "int8":
        return (two[:, 1:] + two[:, :1] * records[:, 4:]) * np.float32(codec["unit"])
    (classes,), k, wide, codes = codec["shape"], codec["k"], codec["wide"], np.arange(256)
    gaps, width = 2 * wide + (4 if k < classes else 2), max(1, (classes - 1).bit_length())
    steps = (codes + (codes**3 * 65280 + 255**3 // 2) // 255**3)[records[:, gaps : gaps + k - 1 - wide]]
    far = np.ascontiguousarray(records[:, gaps - 2 * wide : gaps]).view("<u2")
    depth = np.hstack([0 * two[:, :1], far, steps]).cumsum(1) * codec["unit"]
    bits = np.unpackbits(records[:, gaps + k - 1 - wide :], axis=1, bitorder="little", count=k * width)
    ids = bits.reshape(-1, k, width) @ (1 << np.arange(width))
    dense = np.repeat(two.sum(1, keepdims=True) - np.float32(np.log(max(classes - k, 1))), classes, 1)
    np.put_along_axis(dense, ids, two[:, :1] - depth.astype("<f4"), 1)
    return dense
