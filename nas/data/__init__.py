"""Images to batches: data sets, image folders, shards, augmentation; in memory or streamed.

Imports nas.config, nas.space and nas.base.
"""
