"""Folders on a disk or a bucket: atomic writes, Parquet in and out, and files of users."""
