"""Image quality: metrics with their conventions, probes, distances between crowds, statistics, and the report's tables."""
