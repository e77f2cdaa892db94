"""Where samples come from: readers and generators, all ending in the same `Batch` of 64-bit ids."""
