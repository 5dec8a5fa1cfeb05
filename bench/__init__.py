"""The goals of the project, measured side by side with their anchors: `python -m bench` (docs/performance.md)."""
