"""Files that are whole or absent, digests, locks and the cache.

`store.tensors` and `store.cache` need torch and are imported by their own names.
"""

from errata.store.atomic import atomic_file, atomic_folder, atomic_write_bytes, atomic_write_text, storage_errors
from errata.store.digest import digest, file_digest, tensor_digest
from errata.store.home import folder_of, home
from errata.store.lock import lock

__all__ = [
    "atomic_file",
    "atomic_folder",
    "atomic_write_bytes",
    "atomic_write_text",
    "digest",
    "file_digest",
    "folder_of",
    "home",
    "lock",
    "storage_errors",
    "tensor_digest",
]
