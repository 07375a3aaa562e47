"""Arrays in, arrays out. The cache folder of numba is set here, before any kernel is loaded."""

from clustering.kernels.cache import set_cache_folders

set_cache_folders()
