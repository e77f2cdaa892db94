"""The ids of a click log: readers, counts of different ids, and a law fitted to the counts.

columns   hashed ids of consecutive samples, one column a table
criteo    reads Criteo's tab-separated lines
parquet   reads Parquet files with pyarrow, if it is installed
open_log  chooses the reader by the extension of the file
blocks    cuts a log into blocks for the two halves
count     counts different ids of batches, and of the whole log in bounded memory
fit       fits a Zipf-Mandelbrot law to the counts
measure   all of this in one pass over a log
as_toml   writes the tables of a model file
"""
