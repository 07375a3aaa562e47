"""Arrays in, arrays out; numba is told where to keep what it compiles before any kernel is loaded."""

from clustering.kernels.cache import set_cache_folders

set_cache_folders()
