"""Image files from disks, S3 and the web: retries, limits, confinement."""
