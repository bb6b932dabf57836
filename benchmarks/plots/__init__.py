"""The figures of a report: SVG, the same bytes for the same results."""
