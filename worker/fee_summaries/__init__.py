"""Fee summaries: kept up to date, recounted, proved, and rebuilt."""
