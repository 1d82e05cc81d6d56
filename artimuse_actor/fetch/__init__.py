"""Image files from disks, S3, the web and the hub: retries, limits, confinement."""
