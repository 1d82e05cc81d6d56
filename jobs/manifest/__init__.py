"""Sources → manifests: folders, globs, buckets, benchmark files and Parquet tables as rows that name images."""
