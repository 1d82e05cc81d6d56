"""Sources → manifests: folders, buckets, tars, tables, benchmark files and data sets of the hub as rows."""
