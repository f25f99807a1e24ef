"""Tar shards in webdataset's layout: found, indexed, read at any place, fetched and written."""
