"""As much of HDF5 as these files use, read and written without libhdf5, which a hostile file can crash.

    superblock 2 (48 bytes at 0) -> object header of the root group -> links -> object headers -> contiguous data

Every structure carries a checksum. What these files do not use is refused: chunks, filters, other files, soft links.
`types` has data types, `reading` and `writing` the rest; `dense` reads the groups of more than 8 links that libhdf5
laid out in version 1 of the format.
"""

from kdcache.cache.hdf5.reading import SIGNATURE, Place, read_structure, structure_by
from kdcache.cache.hdf5.writing import ALIGNMENT, lay_out

__all__ = ["ALIGNMENT", "SIGNATURE", "Place", "lay_out", "read_structure", "structure_by"]
