"""Data: from WebDataset shards to batches of tensors. Imports go down this list only.

source          ShardSource: batches by position; `open_source`
split, spec     one split's samples in their order; what a task may know of its data
dataset         the sets that a configuration names; `dataset_cache` keeps them for the workers of a run
encoded_set     what frozen networks made of the samples, as a data set
importers       folders, tables and Hugging Face data sets to shards
builtin         data sets that need no download
reading         sample numbers to decoded samples and batches, also of shards at URLs
reader_pool     reader processes, which may die
transforms      decoded samples to tensors
order           the sample at each position: shuffled, mixed, in aspect-ratio buckets; partners
shards          shards found, opened as one numbered set, and written
index           the tar reader, the index beside each shard, filters
remote          object stores and web servers
codecs          bytes of a member to a value, and images to bytes
caches          in memory, and on the node's disk
"""
