"""The real front-end on disks that are slow, full or broken."""
